"""The queue: order by priority and by hand, plans, dependencies, a paused queue, and devices that never clash."""

import threading
import time

import pytest

from storage import queue
from storage.queue import (
    RESERVED_AFTER,
    Offer,
    claim_next,
    lease_if_free,
    leases,
    move,
    plan,
    queued_runs,
    release,
)
from storage.runs import HIGH, LOW, RunNotFound, delete_run, get_run, transition
from storage.settings import cpu_slots, pause_queue, queue_paused, set_cpu_slots
from tests.waiting import PATIENCE

SLOTS = Offer(tuple(f"cpu@here:{number}" for number in range(99)))
GPUS = Offer(("cpu@here:0",), tuple(f"GPU-{number}" for number in range(8)), has_gpu=True)


def claimed(db, offer=SLOTS, **how) -> int | None:
    run = claim_next(db, offer, **how)
    return run and run.id


def test_priority_goes_first_and_then_the_order_by_hand(db, new_run):
    low, first, second, high = (new_run(priority=p).id for p in (LOW, 0, 0, HIGH))
    assert queued_runs(db) == [high, first, second, low]
    assert [get_run(db, id).queue_position for id in (high, first, second, low)] == [1, 2, 3, 4]
    assert move(db, second, 2)
    assert queued_runs(db) == [high, second, first, low]
    assert [claimed(db) for _ in range(5)] == [high, second, first, low, None]
    assert not move(db, second, 1)


def test_nobody_passes_over_the_head_of_the_queue_while_another_claims_it(db, new_run, monkeypatch):
    head = new_run().id
    new_run()
    begun, go_on, take, found = threading.Event(), threading.Event(), queue._take, {}

    def undone(*_):
        monkeypatch.setattr(queue, "_take", take)
        begun.set()
        go_on.wait(PATIENCE)
        raise queue._Taken

    monkeypatch.setattr(queue, "_take", undone)
    one, two = (threading.Thread(target=lambda name=name: found.update({name: claimed(db)})) for name in ("one", "two"))
    one.start()
    assert begun.wait(PATIENCE)
    two.start()
    two.join(0.3)  # time enough to pass by, were it possible
    go_on.set()
    one.join()
    two.join()
    assert found == {"one": None, "two": head}


@pytest.mark.parametrize("place", [1, 2, 3, 4, 99, -5])
def test_a_run_stays_where_it_was_put_whatever_its_priority(db, new_run, place):
    ids = [new_run(priority=p).id for p in (HIGH, HIGH, LOW, LOW)]
    for id in ids:
        others = [other for other in queued_runs(db) if other != id]
        at = min(max(place, 1), 4) - 1
        move(db, id, place)
        assert queued_runs(db) == [*others[:at], id, *others[at:]]


def test_a_new_run_goes_behind_those_that_were_moved(db, new_run):
    ids = [new_run().id for _ in range(3)]
    move(db, ids[2], 1)
    last = new_run().id
    assert queued_runs(db) == [ids[2], ids[0], ids[1], last]


def test_a_planned_run_waits_for_its_time_and_lets_others_pass(db, new_run):
    now = time.time()
    planned, other = new_run(start_at=now + 3600).id, new_run().id
    assert claimed(db, now=now) == other
    assert claimed(db, now=now + 3599) is None
    assert claimed(db, now=now + 3601) == planned  # late, as after a night in which no app ran, and once
    assert claimed(db, now=now + 9999) is None


def test_a_clock_that_is_set_back_starts_nothing_twice(db, new_run):
    now = time.time()
    planned = new_run(start_at=now + 10).id
    assert claimed(db, now=now + 11) == planned
    assert claimed(db, now=now - 3600) is None


def test_a_clock_that_is_set_back_does_not_lengthen_the_pause_before_a_retry(db, new_run):
    now = time.time()
    again = new_run(status="running").id
    transition(db, again, ("running",), "queued", retries=1, start_at=now + 10)
    assert claimed(db, now=now + 5) is None
    assert claimed(db, now=now - 3600) == again


@pytest.mark.parametrize("end", ["finished", "stopped", "failed"])
def test_a_run_waits_for_another_to_end(db, new_run, end):
    first = new_run(status="running").id
    second = new_run(after_id=first).id
    assert claimed(db) is None
    transition(db, first, ("running",), "paused")
    assert claimed(db) is None  # paused is not the end
    transition(db, first, ("paused",), end)
    assert claimed(db) == second


def test_a_run_that_waited_for_a_deleted_one_may_start(db, new_run):
    first = new_run(status="finished").id
    second = new_run(status="paused", after_id=first).id
    delete_run(db, first)
    transition(db, second, ("paused",), "queued")
    assert claimed(db) == second


def test_runs_never_wait_for_each_other_in_a_circle(db, new_run):
    first, second, third = (new_run().id for _ in range(3))
    assert plan(db, second, after_id=first) and plan(db, third, after_id=second)
    with pytest.raises(ValueError, match=f"Run {first} cannot wait for run {third}"):
        plan(db, first, after_id=third)
    with pytest.raises(ValueError, match="cannot wait for run"):
        plan(db, first, after_id=first)
    with pytest.raises(RunNotFound):
        plan(db, first, after_id=999)
    assert plan(db, first, priority=HIGH, start_at=5.0)
    assert (get_run(db, first).priority, get_run(db, first).start_at) == (HIGH, 5.0)
    assert not plan(db, new_run(status="finished").id, priority=HIGH)


def test_a_paused_queue_starts_nothing(db, new_run):
    id = new_run().id
    pause_queue(db, True)
    assert queue_paused(db) and claimed(db) is None
    pause_queue(db, False)
    assert not queue_paused(db) and claimed(db) == id


def test_as_many_runs_as_there_are_slots(db, new_run):
    ids = [new_run().id for _ in range(4)]
    two = Offer(SLOTS.cpu[:2])
    assert [claimed(db, two) for _ in range(3)] == [ids[0], ids[1], None]
    assert [(held.device, held.run_id, held.epoch) for held in leases(db)] == [
        ("cpu@here:0", ids[0], 1), ("cpu@here:1", ids[1], 1)]
    assert claimed(db, Offer(("cpu@elsewhere:0",))) == ids[2]  # another machine has slots of its own
    release(db, next(held for held in leases(db) if held.device == "cpu@here:0"))
    assert claimed(db, Offer(SLOTS.cpu[:1])) is None  # the run in the slot that is gone still counts
    assert claimed(db, two) == ids[3]


def test_gpus_go_all_or_none_and_cpu_runs_need_none(db, new_run):
    big, small, cpu = new_run(devices=8).id, new_run().id, new_run(device_kind="cpu").id
    assert claimed(db, GPUS) == big
    assert len(leases(db)) == 8
    assert claimed(db, GPUS) == cpu
    assert claimed(db, GPUS) is None
    for held in leases(db):
        assert held.run_id == (cpu if held.device == "cpu@here:0" else big)
        release(db, held)
    assert claimed(db, GPUS) == small
    again = new_run(devices=8).id
    assert claimed(db, GPUS) is None and get_run(db, again).status == "queued"


def test_small_runs_pass_a_large_one_only_for_a_while(db, new_run):
    now = time.time()
    first = new_run().id
    assert claimed(db, GPUS, now=now) == first
    big, small = new_run(devices=8).id, new_run().id
    assert claimed(db, GPUS, now=now) == small
    last = new_run().id
    late = now + RESERVED_AFTER + 60
    assert claimed(db, GPUS, now=late) is None
    for held in leases(db):
        release(db, held)
    assert [claimed(db, GPUS, now=late), claimed(db, GPUS, now=late)] == [big, None]
    assert get_run(db, last).status == "queued"


def test_where_no_gpu_is_known_a_run_that_wants_one_starts_and_says_so_itself(db, new_run):
    wants = new_run(device_kind="gpu").id
    assert claimed(db, Offer(("cpu@here:0",), (), has_gpu=True)) is None  # all in other hands
    assert claimed(db, Offer(("cpu@here:0",))) == wants


def test_only_the_lease_that_was_looked_at_is_released(db, new_run):
    run = new_run()
    claim_next(db, SLOTS)
    old = leases(db)[0]
    transition(db, run.id, ("launching",), "stopped")
    transition(db, run.id, ("stopped",), "queued")
    assert release(db, old)
    claim_next(db, SLOTS)
    assert [held.epoch for held in leases(db)] == [2]
    assert not release(db, old)
    assert len(leases(db)) == 1 and release(db, leases(db)[0])


def test_a_run_waits_until_its_own_last_process_has_given_its_device_back(db, new_run):
    run, other = new_run(), new_run()
    claim_next(db, SLOTS)
    held = leases(db)[0]
    transition(db, run.id, ("launching",), "stopped")
    transition(db, run.id, ("stopped",), "queued")
    assert claimed(db) == other.id and claimed(db) is None
    assert release(db, held) and claimed(db) == run.id


def test_a_run_outside_the_queue_takes_what_is_free(db, new_run):
    first, second = new_run(status="running"), new_run(status="running")
    assert lease_if_free(db, first, SLOTS.cpu[:1])
    assert not lease_if_free(db, second, SLOTS.cpu[:1])
    assert lease_if_free(db, second, SLOTS.cpu[:2])


def test_slots_are_a_number_that_makes_sense(db):
    assert cpu_slots(db) == 1
    set_cpu_slots(db, 3)
    assert cpu_slots(db) == 3
    for slots in (0, -1, 10**6):
        with pytest.raises(ValueError, match="give a whole number from 1 to 1024"):
            set_cpu_slots(db, slots)
