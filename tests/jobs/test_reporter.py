"""Nothing that training says gets lost, and training never waits for the database."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path

import pytest

import storage.database
from bgpo.config import TrainConfig
from bgpo.jobs import reporter as module
from bgpo.jobs.narrator import Narrator
from bgpo.jobs.pace import Rate
from bgpo.jobs.reporter import Reporter, Spool
from bgpo.training.health import Health
from bgpo.training.metrics import METRICS
from storage.alerts import alerts_of
from storage.checkpoints import checkpoints_of
from storage.completions import Completion, completions_of
from storage.database import open_database, sqlite_url
from storage.metrics import Point, points_after
from storage.rollouts import Rollout, whole_rollouts
from storage.runs import get_run, request
from tests.waiting import wait_until


@pytest.fixture
def run(row):
    return row("running")


@pytest.fixture
def start(db, run):
    """Starts reporters for the run; all are closed in the end."""
    started = []

    def start(database=db) -> Reporter:
        started.append(Reporter(database, run, Narrator(Path(run.folder, "log.txt"))))
        return started[-1]

    yield start
    for reporter in started:
        reporter.close()


class HeldOut:
    """The shape of the trainer's HeldOutCompletion, which cannot be imported without torch."""

    index, prompt, completion, expected, reward, reason = 2, "37+48", "075", "085", 0.0, "075 is not 085"
    trace = '[[1, 0, "0", 0.9]]'
    solved = False


def points(db, run) -> dict[tuple[str, int], float | None]:
    return {(point.metric, point.step): point.value for point in points_after(db, run.id, 0)[0]}


def test_the_first_points_go_at_once_with_progress_and_heartbeat(db, run, start, monkeypatch):
    monkeypatch.setattr(module, "HEARTBEAT_EVERY", 3600)  # nothing but the points themselves wakes the writer
    reporter = start()
    reporter.phase("training", 4, 10)
    reporter.metrics(4, {"reward/mean": 0.5, "grad/norm": math.nan, "lr": math.inf})
    wait_until(lambda: points(db, run), "the first points")
    assert points(db, run) == {("reward/mean", 4): 0.5, ("grad/norm", 4): None, ("lr", 4): None}
    now = get_run(db, run.id)
    assert (now.phase, now.phase_done, now.phase_total, now.step) == ("training", 4, 10, 4)


def test_the_heart_beats_through_a_long_step(db, run, start):
    start()
    beats = set()

    def three_beats():
        beats.add(get_run(db, run.id).heartbeat_at)
        return len(beats) > 3

    wait_until(three_beats, "three heartbeats without a word from the trainer")
    assert get_run(db, run.id).seconds > 1


def test_an_unknown_metric_is_refused_with_where_to_add_it(start):
    with pytest.raises(ValueError, match="reward/vibes is not declared; add it to METRICS in"):
        start().metrics(1, {"reward/mean": 0.0, "reward/vibes": 1.0})


@pytest.mark.parametrize("what", ["stop", "kill"])
def test_a_request_is_read_back(db, run, start, what):
    reporter = start()
    assert not reporter.should_stop()
    request(db, run.id, what)
    wait_until(reporter.should_stop, "the request")


class Kept:
    """The shape of the trainer's KeptRollout."""

    problem_index, completion_index, prompt, completion, expected, tokens = 1, 3, "37+48", "075\ud800", "085", 3
    reward, advantage, reason, parts, trace = 0.5, math.nan, "why", {"format": 1.0, "correct": math.nan}, HeldOut.trace
    solved = True


def test_rollouts_become_rows_with_traces_and_pass_through_the_spool(db, run, start):
    reporter = start()
    reporter.rollouts(7, [Kept()])
    assert reporter.close()
    (kept,), _ = whole_rollouts(db, run.id)
    assert kept == Rollout(
        7, 1, 3, "37+48", "075\N{REPLACEMENT CHARACTER}", "085", 0.5, None, 3, "why",
        {"format": 1.0, "correct": None}, HeldOut.trace, True,
    )
    spool = Spool(Path(run.folder))
    spool.append([module._rollout(8, Kept())])
    spool.replay(db, run.id)
    assert [item.step for item in whole_rollouts(db, run.id)[0]] == [7, 8]


def test_completions_and_checkpoints_become_rows(db, run, start):
    reporter = start()
    reporter.completions(5, [HeldOut()])
    reporter.checkpoint(5, "evaluation", Path("/x/step-000005"), 0.25)
    assert reporter.close()
    assert completions_of(db, run.id) == [
        Completion(5, "held_out", 2, "37+48", "075", "085", 0.0, "075 is not 085", HeldOut.trace, False)
    ]
    (saved,) = checkpoints_of(db, run.id)
    assert (saved.step, saved.kind, saved.folder, saved.reward) == (5, "evaluation", "/x/step-000005", 0.25)


@pytest.mark.slow
def test_a_busy_database_neither_slows_training_nor_loses_a_point(db, data, run, start, monkeypatch):
    monkeypatch.setattr(storage.database, "BUSY_TIMEOUT", 2)  # seconds; 30 would make this test long
    monkeypatch.setattr(module, "BATCH", 10_000)  # so that all of it waits for the lock once
    impatient = open_database(sqlite_url(data / "bgpo.db"))
    reporter, spool = start(impatient), Path(run.folder, "spool.jsonl")
    with db.write():  # somebody else holds the write lock
        longest = 0.0
        for step in range(200):
            began = time.perf_counter()
            reporter.metrics(step, dict.fromkeys(METRICS, 0.5))
            longest = max(longest, time.perf_counter() - began)
            time.sleep(0.005)
        reporter.completions(1, [HeldOut()])
        reporter.checkpoint(1, "evaluation", Path("/x"), None)
        wait_until(lambda: spool.exists() and "SavedCheckpoint" in spool.read_text(), "points to be set aside")
    assert longest < 1  # half of what one wait for the lock takes
    wait_until(lambda: not spool.exists(), "the spool to be replayed")
    assert reporter.close()
    assert points(db, run) == {(name, step): 0.5 for name in METRICS for step in range(200)}
    assert len(completions_of(db, run.id)) == len(checkpoints_of(db, run.id)) == 1
    log = Path(run.folder, "log.txt").read_text()
    assert log.count("The database does not answer") == log.count("The database is back") == 1
    impatient.close()


def test_what_cannot_be_written_in_the_end_is_written_by_the_next_process(db, data, run, start, monkeypatch):
    monkeypatch.setattr(storage.database, "BUSY_TIMEOUT", 0.1)
    impatient = open_database(sqlite_url(data / "bgpo.db"))
    first = start(impatient)
    with db.write():
        first.metrics(1, {"reward/mean": 0.25})
        assert not first.close()
    assert points(db, run) == {}
    second = start()
    second.metrics(2, {"reward/mean": 0.5})
    assert second.close()
    assert points(db, run) == {("reward/mean", 1): 0.25, ("reward/mean", 2): 0.5}
    impatient.close()


def test_a_full_queue_goes_to_the_spool_in_order(db, run, start, monkeypatch):
    monkeypatch.setattr(module, "QUEUE_LIMIT", 50)
    reporter = start()
    for step in range(500):
        reporter.metrics(step, {"reward/mean": step})
    assert len(reporter._waiting) <= 50
    assert reporter.close()
    assert points(db, run) == {("reward/mean", step): step for step in range(500)}


def test_many_threads_lose_nothing(db, run, start):
    reporter = start()

    def talk(first: int) -> None:
        for step in range(first, first + 300):
            reporter.metrics(step, {"reward/mean": step})

    threads = [threading.Thread(target=talk, args=(first,)) for first in range(0, 1200, 300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reporter.close()
    assert len(points(db, run)) == 1200


def test_spool_keeps_everything_when_the_database_refuses(db, run, data, monkeypatch):
    monkeypatch.setattr(storage.database, "BUSY_TIMEOUT", 0.1)
    impatient = open_database(sqlite_url(data / "bgpo.db"))
    spool = Spool(Path(run.folder))
    spool.append([Point("reward/mean", step, 0.0, 1.0) for step in range(5000)])
    with db.write(), pytest.raises(storage.database.StorageError):
        spool.replay(impatient, run.id)
    assert spool
    spool.replay(impatient, run.id)
    assert not spool and len(points(db, run)) == 5000
    impatient.close()


def test_what_a_checkpoint_follows_outlives_a_kill_and_waits_for_no_database(db, run, start):
    """What is left of a process that is killed is its folder."""
    reporter, spool = start(), Path(run.folder, "spool.jsonl")
    reporter.metrics(1, {"reward/mean": 1.0})
    wait_until(lambda: points(db, run), "the first point")
    with db.write():
        reporter.metrics(2, {"reward/mean": 2.0})
        wait_until(lambda: reporter._writing, "the writer to wait for the database")
        reporter.metrics(3, {"reward/mean": 3.0})
        reporter.keep()
        reporter.keep()
        kept = [values["step"] for _, values in map(json.loads, filter(str.strip, spool.open()))]
        assert sorted({*kept}) == [2, 3]
    assert reporter.close()
    assert points(db, run) == {("reward/mean", step): float(step) for step in (1, 2, 3)}
    assert not spool.exists()


def test_what_is_set_aside_during_a_replay_stays_for_the_next_one(db, run, monkeypatch):
    spool, store = Spool(Path(run.folder)), module.store

    def meanwhile(*stored):
        spool.append([Point("reward/mean", 2, 0.0, 2.0)])
        return store(*stored)

    spool.append([Point("reward/mean", 1, 0.0, 1.0)])
    monkeypatch.setattr(module, "store", meanwhile)
    spool.replay(db, run.id)
    assert spool and set(points(db, run)) == {("reward/mean", 1)}
    monkeypatch.setattr(module, "store", store)
    spool.replay(db, run.id)
    assert not spool and set(points(db, run)) == {("reward/mean", 1), ("reward/mean", 2)}


def test_half_a_line_of_a_killed_process_costs_the_next_one_nothing(db, run):
    path = Path(run.folder, "spool.jsonl")
    path.write_text('["Point", {"metr')
    spool = Spool(Path(run.folder))
    spool.append([Point("reward/mean", 1, 0.0, 1.0)])
    spool.replay(db, run.id)
    assert set(points(db, run)) == {("reward/mean", 1)} and not path.exists()


def test_rate_is_units_per_second_of_the_last_seconds(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    rate = Rate()
    assert rate.value() is None
    for second in range(20):
        clock[0] = float(second)
        rate.update(second * 2)
    assert rate.value() == pytest.approx(2.0)
    for second in range(20, 40):  # ten times slower: the fast past is forgotten
        clock[0] = float(second)
        rate.update(38 + (second - 19) // 5)
    assert rate.value() == pytest.approx(0.2, abs=0.1)


def test_a_rate_survives_an_evaluation_between_two_steps(db, run, start, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    reporter = start()
    for step in range(5):
        reporter.phase("training", step, 10)
        clock[0] += 0.02
    reporter.phase("evaluating", 4, 10)
    reporter.close()
    now = get_run(db, run.id)
    assert now.phase == "evaluating" and now.phase_rate == pytest.approx(40) and now.step == 4


def sick(step: int) -> dict[str, float]:
    """From step 11 on no group carries a signal; the alert comes ten steps later."""
    return {"reward/mean": 0.5 if step <= 10 else 0.0, "groups/live_fraction": 1.0 if step <= 10 else 0.0}


def test_an_alert_is_stored_and_said_in_the_log_once(db, run, start):
    reporter = start()
    reporter.watch(Health(TrainConfig()))
    before = time.time()
    for step in range(1, 60):
        reporter.metrics(step, sick(step))
    assert reporter.close()
    (fallen, silent) = alerts_of(db, run.id)
    assert (fallen.name, silent.name, silent.severity, silent.step) == ("collapse", "no_signal", "serious", 20)
    assert before <= silent.time <= time.time()
    log = Path(run.folder, "log.txt").read_text()
    assert log.count(f"Serious at step 20: {silent.message}") == 1


def test_alerts_wait_with_the_points_while_the_database_is_locked(db, data, run, start, monkeypatch):
    monkeypatch.setattr(storage.database, "BUSY_TIMEOUT", 0.2)
    impatient = open_database(sqlite_url(data / "bgpo.db"))
    reporter, spool = start(impatient), Path(run.folder, "spool.jsonl")
    with db.write():
        reporter.watch(Health(TrainConfig()))  # reading is not locked
        for step in range(1, 40):
            reporter.metrics(step, sick(step))
        wait_until(lambda: spool.exists() and '"no_signal"' in spool.read_text(), "the alert to be set aside")
        assert alerts_of(db, run.id) == []
    assert reporter.close()
    assert [alert.name for alert in alerts_of(db, run.id)] == ["collapse", "no_signal"]
    assert len(points(db, run)) == 78 and not spool.exists()
    impatient.close()


@pytest.mark.parametrize("died_after", [5, 15, 19, 20, 25])
def test_a_resumed_run_raises_what_is_new_and_nothing_twice(db, run, start, died_after):
    for first, last in ((1, died_after), (max(1, died_after - 3), 40)):  # the last steps are trained again
        reporter = start()
        reporter.watch(Health(TrainConfig()))
        for step in range(first, last + 1):
            reporter.metrics(step, sick(step))
        assert reporter.close()
    assert [(alert.name, alert.step) for alert in alerts_of(db, run.id)][-1] == ("no_signal", 20)
    assert len(alerts_of(db, run.id)) == 2
    assert Path(run.folder, "log.txt").read_text().count("Serious at step 20") == 1


def test_a_rule_that_fails_is_switched_off_and_training_goes_on(db, run, start):
    class Broken(Health):
        def observe(self, step, values):
            raise ZeroDivisionError("division by zero")

    reporter = start()
    reporter.watch(Broken(TrainConfig()))
    reporter.metrics(1, sick(1))
    reporter.metrics(2, sick(2))
    assert reporter.close() and len(points(db, run)) == 4
    assert Path(run.folder, "log.txt").read_text().count("The health rules are switched off") == 1
