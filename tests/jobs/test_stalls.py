"""A run that stands still is noted, and acted upon only as its config says and only if it stays so."""

from __future__ import annotations

import time

import pytest

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import pace, stalls
from bgpo.jobs.pace import STALL_FACTOR, UNKNOWN_FACTOR, Pace
from storage.metrics import Progress, flush
from storage.runs import get_run, run_events


def still(db, run, seconds: float, stall_after: float = 30.0):
    """The run's row, as a worker leaves it that has made no progress for so long."""
    now = time.time()
    flush(db, run.id, [], progress=Progress("training", 3, 10, None, 3, 1.0, now - seconds, stall_after))
    return get_run(db, run.id), now


@pytest.mark.parametrize("policy, asked", [("show", None), ("kill", "hung"), ("restart", "hung")])
def test_noted_at_once_and_acted_upon_later(db, row, policy, asked):
    run, now = still(db, row("running", TrainConfig(when_stalled=policy).to_json()), 31)
    stalls.watch(db, run, now)
    noted = get_run(db, run.id)
    assert noted.stalled_at == now and noted.requested is None
    assert run_events(db, run.id)[-1].why == "No progress for 31 s, where 30 s are too many."
    stalls.watch(db, noted, now + 9)
    assert get_run(db, run.id).requested is None
    stalls.watch(db, noted, now + 11)
    assert get_run(db, run.id).requested == asked
    assert len(run_events(db, run.id)) == 2 + bool(asked)


def test_progress_takes_the_note_back(db, row):
    run, now = still(db, row("running", TrainConfig(when_stalled="kill").to_json()), 31)
    stalls.watch(db, run, now)
    run, now = still(db, run, 1)
    stalls.watch(db, run, now)
    assert get_run(db, run.id).stalled_at is None
    assert run_events(db, run.id)[-1].why == "It makes progress again."


def test_a_machine_that_slept_is_no_reason_to_kill(db, row):
    """Its worker has just woken up, too, and says so before the second look."""
    run, now = still(db, row("running", TrainConfig(when_stalled="kill").to_json()), 8 * 3600)
    stalls.watch(db, run, now)
    run, now = still(db, run, 0)
    stalls.watch(db, run, now)
    assert get_run(db, run.id).requested is None


def test_a_quick_run_may_pause_for_the_least_and_a_slow_one_for_longer(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    watched = Pace(60)
    watched.mark("training", 0)
    assert watched.stall_after() == UNKNOWN_FACTOR * 60
    for step, seconds in enumerate((1, 2, 1), 1):
        now[0] += seconds
        watched.mark("training", step)
    assert watched.stall_after() == 60
    for step in range(4, 11):
        now[0] += 100
        watched.mark("training", step)
    assert watched.stall_after() == STALL_FACTOR * 100


def test_an_evaluation_has_a_pace_of_its_own(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    watched = Pace(10)
    for step in range(5):
        watched.mark("training", step)
        now[0] += 1
    watched.mark("evaluating", 5)
    assert watched.stall_after() == UNKNOWN_FACTOR * 10
    now[0] += 200
    watched.mark("training", 5)
    assert watched.stall_after() == 10
    watched.mark("evaluating", 10)
    assert watched.stall_after() == STALL_FACTOR * 200


def test_a_restart_that_could_never_be_is_refused():
    with pytest.raises(ConfigError, match="set retries to 1 or more, or when_stalled to"):
        TrainConfig(retries=0).with_values(when_stalled="restart")
