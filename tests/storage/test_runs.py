"""Runs: status changes are guarded and leave an event, the queue is first come first served, ids stay unique."""

import time

import pytest

from storage.alerts import Alert, add_alerts
from storage.database import StorageError
from storage.labels import set_archived, set_notes, set_tags
from storage.metrics import Point, Progress, flush, points_after
from storage.queue import Offer, leases, release
from storage.queue import claim_next as claim
from storage.runs import (
    RunNotFound,
    change_counts,
    clear_request,
    create_run,
    delete_run,
    get_run,
    list_runs,
    mark_stalled,
    request,
    run_events,
    transition,
)
from tests.statements import selects, statements_to


def claim_next(db, who=""):
    return claim(db, Offer(tuple(f"cpu@here:{number}" for number in range(9))), who)


def test_a_new_run_waits_in_its_own_empty_folder(new_run, tmp_path):
    first, second = new_run(name="one"), new_run(name="two", parent_id=1)
    assert (first.status, first.queue_position, second.queue_position, second.parent_id) == ("queued", 1, 2, first.id)
    assert first.folder == str(tmp_path / "runs" / str(first.id))
    assert list((tmp_path / "runs" / str(first.id)).iterdir()) == []


def test_a_leftover_folder_is_never_taken_over(new_run, tmp_path):
    leftover = tmp_path / "runs" / "1" / "checkpoints"
    leftover.mkdir(parents=True)
    assert new_run().folder == str(tmp_path / "runs" / "1-2")


def test_a_runs_folder_that_cannot_be_made_leaves_no_row(db, new_run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot be made .*--data-dir"):
        new_run(runs_folder=tmp_path / "file" / "runs")
    assert list_runs(db) == []


def test_claims_come_in_the_order_of_queueing(db, new_run):
    ids = [new_run().id for _ in range(3)]
    claimed = claim_next(db)
    assert (claimed.id, claimed.status, claimed.queue_position) == (ids[0], "launching", None)
    assert claimed.heartbeat_at == pytest.approx(time.time(), abs=60)
    # its process has ended and given its device back; resumed, it goes behind those who waited
    assert transition(db, ids[0], ("launching",), "queued")
    assert all(release(db, held) for held in leases(db))
    assert [claim_next(db).id for _ in range(3)] == [ids[1], ids[2], ids[0]]
    assert claim_next(db) is None


def test_a_runs_count_of_changes_grows_with_all_that_a_list_shows_of_it(db, new_run):
    other, one = new_run().id, new_run(status="running").id
    child = new_run(parent_id=one).id
    assert list(change_counts(db)) == [child, one, other]
    alert = Alert(3, "collapse", "serious", "It fell.", 1.0)
    for change in (
        lambda: flush(db, one, []),
        lambda: flush(db, one, [Point("m", 1, 0.0, 1.0)], progress=Progress("training", 1, 9, None, 1, 0.5)),
        lambda: add_alerts(db, one, [alert]),
        lambda: set_tags(db, one, ["kept"]),
        lambda: set_notes(db, one, "mine"),
        lambda: set_archived(db, [one], True),
        lambda: request(db, one, "stop"),
        lambda: clear_request(db, one),
        lambda: mark_stalled(db, one, 1.0, "no progress"),
        lambda: transition(db, one, ("running",), "stopped"),
    ):
        before = change_counts(db)
        change()
        now = change_counts(db)
        assert now[one] > before[one]
        assert {id: now[id] for id in (other, child)} == {id: before[id] for id in (other, child)}
    delete_run(db, one)  # the child's parent is gone, which its row says
    assert change_counts(db).keys() == {child, other}
    assert change_counts(db)[child] > before[child] and get_run(db, child).parent_id is None


def test_runs_are_listed_newest_first_all_of_them_or_those_that_are_asked_for(db, new_run):
    ids = [new_run().id for _ in range(3)]
    assert [item.id for item in list_runs(db)] == ids[::-1]
    assert [item.id for item in list_runs(db)[:2]] == ids[:0:-1]
    (last, first) = list_runs(db, ids=[ids[0], ids[2], 99])
    assert (last.id, first.id, last.queue_position, first.queue_position) == (ids[2], ids[0], 3, 1)
    assert list_runs(db, ids=[]) == []


def test_a_transition_from_another_status_changes_nothing(db, new_run):
    run = new_run()
    assert not transition(db, run.id, ("running", "launching"), "finished", reason="done")
    assert get_run(db, run.id) == run
    assert [event.to_status for event in run_events(db, run.id)] == ["queued"]
    assert not transition(db, 999, ("queued",), "stopped")


def test_every_change_of_status_is_an_event(db, new_run):
    run = new_run()
    claim_next(db, who="scheduler")
    assert transition(db, run.id, ("launching",), "running", who="worker", pid=7, process_started=2**40, boot_id="b")
    request(db, run.id, "stop", who="page")
    assert transition(db, run.id, ("running",), "failed", who="reaper", reason="It broke.")
    seen = [(e.who, e.from_status, e.to_status, e.why) for e in run_events(db, run.id)]
    assert seen == [
        ("", "", "queued", "created"),
        ("scheduler", "queued", "launching", ""),
        ("worker", "launching", "running", ""),
        ("page", "running", "running", "asked to stop"),
        ("reaper", "running", "failed", "It broke."),
    ]


def test_times_and_identity_follow_the_status(db, new_run):
    id = new_run().id
    transition(db, id, ("queued",), "running", pid=7, process_started=2**40, boot_id="b", phase="starting")
    running = get_run(db, id)
    assert (running.pid, running.process_started, running.boot_id, running.phase) == (7, 2**40, "b", "starting")
    request(db, id, "stop")
    transition(db, id, ("running",), "stopped", reason="You stopped it.")
    stopped = get_run(db, id)
    assert stopped.finished_at >= stopped.started_at == running.started_at
    assert (stopped.requested, stopped.phase, stopped.reason) == (None, "", "You stopped it.")
    transition(db, id, ("stopped",), "queued")
    transition(db, id, ("queued",), "running")
    again = get_run(db, id)
    assert (again.started_at, again.finished_at, again.reason, again.pid) == (running.started_at, None, "", None)


def test_wrong_words_are_a_programming_error(db, new_run):
    id = new_run().id
    with pytest.raises(ValueError, match="unknown status 'done'; available: queued"):
        transition(db, id, ("queued",), "done")
    with pytest.raises(ValueError, match=r"columns .'folders'. cannot be set"):
        transition(db, id, ("queued",), "stopped", folders="x")
    with pytest.raises(ValueError, match="unknown request 'rest'"):
        request(db, id, "rest")
    assert get_run(db, id).status == "queued"


def test_requests_reach_the_worker_with_its_next_flush(db, new_run):
    id = new_run(status="running").id
    assert flush(db, id, []) is None
    assert request(db, id, "stop")
    assert flush(db, id, []) == "stop"
    assert request(db, id, "kill")
    assert request(db, id, "stop")
    assert flush(db, id, []) == "kill"  # a stop does not take back a kill
    clear_request(db, id)
    assert flush(db, id, []) is None
    transition(db, id, ("running",), "finished")
    assert not request(db, id, "stop")
    with pytest.raises(RunNotFound, match="Run 999 does not exist"):
        request(db, 999, "stop")


def test_delete_takes_the_rows_of_this_run_only(db, new_run):
    first, second = new_run(), new_run(parent_id=1)
    for run in (first, second):
        flush(db, run.id, [Point("reward/mean", 1, 0.1, 0.5)])
    delete_run(db, first.id)
    assert [run.id for run in list_runs(db)] == [second.id]
    assert get_run(db, second.id).parent_id is None
    assert points_after(db, first.id, 0) == ([], 0)
    assert len(points_after(db, second.id, 0)[0]) == 1
    assert run_events(db, first.id) == []
    with pytest.raises(RunNotFound):
        delete_run(db, first.id)
    with pytest.raises(RunNotFound):
        flush(db, first.id, [Point("reward/mean", 2, 0.2, 0.5)])


@pytest.mark.parametrize("status", ["launching", "running"])
def test_a_live_run_is_not_deleted(db, new_run, status):
    id = new_run(status=status).id
    with pytest.raises(StorageError, match=f"Run {id} is {status}, .*stop it first"):
        delete_run(db, id)
    assert get_run(db, id).status == status


def test_a_deleted_id_is_not_given_out_again(db, new_run):
    id = new_run().id
    delete_run(db, id)
    assert new_run().id > id


def test_hostile_names_are_stored_as_text(db, new_run):
    hostile = "'; DROP TABLE run;-- \x00 \ud800 \ud83d\ude00 <script>alert(1)</script> \u202e 100%_\\ {0}"
    id = new_run(name=hostile, config_json='{"a": "b"}').id
    assert get_run(db, id).name == hostile.replace("\x00", "\ufffd").replace("\ud800", "\ufffd").replace(
        "\ud83d\ude00", "\U0001f600"
    )


def test_the_list_is_one_query_and_newest_first(db, new_run):
    ids = [new_run().id for _ in range(5)]
    claim_next(db)
    with statements_to(db) as statements:
        runs = list_runs(db)
    assert len(selects(statements)) == 1
    assert [run.id for run in runs] == ids[::-1]
    assert [run.queue_position for run in runs] == [4, 3, 2, 1, None]
    assert [run.id for run in list_runs(db)[:2]] == ids[:2:-1]


def test_create_run_refuses_an_unknown_status(db, tmp_path):
    with pytest.raises(ValueError, match="unknown status 'asleep'"):
        create_run(db, name="", config_json="{}", train_steps=1, runs_folder=tmp_path, status="asleep")
    assert list_runs(db) == []
