"""Stop ends every run: one that listens with a checkpoint, one that does not by a signal, one that is deaf by force."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from bgpo.jobs import control, runner, stopping
from bgpo.jobs.scheduler import Scheduler
from bgpo.jobs.settling import marked_processes
from bgpo.jobs.stopping import Escalation, writes_checkpoint
from storage.metrics import points_after
from storage.queue import leases
from storage.runs import get_run, run_events, transition
from tests.waiting import PATIENCE, wait_until

from .conftest import bury, reaches

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and signals")

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: time.sleep(0.05)"
# asks nobody whether it should stop, but a signal ends what it waits for
ABSENT = """
import signal, time
from bgpo.jobs.worker import StopSignals
heard = signal.getsignal(signal.SIGTERM)
def leave(*given):
    heard(*given)
    raise TimeoutError
signal.signal(signal.SIGTERM, leave)
try:
    while True: time.sleep(0.05)
except TimeoutError:
    pass
"""


@pytest.fixture
def impatient(db):
    """A scheduler whose grace is short."""
    scheduler = Scheduler(db, grace=1.0)
    scheduler.start()
    yield scheduler
    scheduler.shutdown()
    wait_until(lambda: bury(scheduler), "the runners to be buried")


def stuck(db, run):
    """The run once it stands in the step of its fault. It never does a further one."""
    reaches(db, run, "running")
    return wait_until(lambda: get_run(db, run.id).step == 4 and get_run(db, run.id), "it to be in its fifth step")


@pytest.mark.slow
@pytest.mark.parametrize("ask, status, word", [
    (control.stop, "stopped", "Stop"), (control.pause, "paused", "Pause"),
])
def test_a_deaf_run_is_ended_and_the_next_one_starts(db, impatient, tiny, submit, ask, status, word):
    tiny(DEAF)
    run, following = submit(seed=0, stalled_after=1), submit(seed=1, train_steps=6)
    running = stuck(db, run)
    ask(db, run.id)
    ended = reaches(db, run, status)
    assert ended.reason == f"It did not answer to {word} and was ended without a last checkpoint."
    assert (ended.step, ended.failure_kind, ended.requested) == (4, "", None)
    why = [event.why for event in run_events(db, run.id) if event.who == "scheduler"]
    assert any(words.endswith("asked by SIGTERM") for words in why)
    assert f"killed, because it did not {word.lower()} when asked" in why
    reaches(db, following, "finished")
    wait_until(lambda: marked_processes(running) == [], "its processes to be gone")
    wait_until(lambda: leases(db) == [], "the devices to be given back")


def test_a_signal_that_comes_late_still_has_its_time_to_be_heard(db, row, monkeypatch):
    """As after a night in which the machine slept: the next tick finds both graces gone."""
    run = row("running")
    control.stop(db, run.id)
    firm = Escalation(grace=60.0)

    def asked_at(seconds: float) -> str | None:
        monkeypatch.setattr(stopping.time, "monotonic", lambda: seconds)
        firm.look(db, [get_run(db, run.id)])
        return get_run(db, run.id).requested

    assert [asked_at(seconds) for seconds in (0, 9_000, 9_059, 9_061)] == ["stop", "stop", "stop", "stop_overdue"]


def test_a_run_that_only_hears_the_signal_ends_in_order(db, impatient, tiny, submit):
    tiny(ABSENT)
    run = submit(seed=0, stalled_after=1)
    stuck(db, run)
    control.stop(db, run.id)
    stopped = reaches(db, run, "stopped")
    assert stopped.reason.startswith("Stopped at step 5 of 40; Resume goes on from there.")
    assert run_events(db, run.id)[-1].who == "worker"


def test_nobody_is_ended_in_the_middle_of_a_checkpoint(row):
    run = row("running")
    half = Path(run.folder, "checkpoints", ".step-000004-x")
    half.mkdir(parents=True)
    assert not writes_checkpoint(run)
    weights = half / "model.safetensors"
    weights.write_bytes(b"half")
    assert writes_checkpoint(run)
    os.utime(weights, (time.time() - 60, time.time() - 60))
    assert not writes_checkpoint(run)


@pytest.mark.slow
def test_resume_in_the_same_moment_goes_on_as_soon_as_the_last_process_is_gone(db, scheduler, tiny, submit):
    """Stop, Resume, Stop, Resume, each at once: no press is refused, no step is done by two processes."""
    tiny("")
    run = submit(seed=1, train_steps=1_000_000)
    for _ in range(2):
        before = get_run(db, run.id).step
        wait_until(lambda before=before: get_run(db, run.id).step > before, "a step")
        control.stop(db, run.id)
        stopped = reaches(db, run, "stopped")
        assert control.resume(db, run.id).status == "queued"
    wait_until(lambda: get_run(db, run.id).step > stopped.step, "it to go on")
    control.stop(db, run.id)
    stopped = reaches(db, run, "stopped")
    steps = [point.step for point in points_after(db, run.id, 0, 10**6)[0] if point.metric == "reward/mean"]
    assert steps == list(range(1, stopped.step + 1))  # each once, in the order of their writing
    assert stopped.retries == 0 and "Another process" not in Path(run.folder, "log.txt").read_text()


def test_resume_of_a_run_whose_process_holds_no_device(db, row, tiny):
    """One in a terminal may have found none free; the lock tells that it still ends."""
    run = row("stopped")
    ticks = Scheduler(db)
    with runner.acquire_lock(Path(run.folder)):
        assert control.resume(db, run.id).status == "queued"
        for _ in range(3):
            ticks.dispatch()
        assert get_run(db, run.id).status == "queued"
        assert [event.to_status for event in run_events(db, run.id)].count("launching") == 1
    ticks.dispatch()
    wait_until(lambda: (ticks.reap(), get_run(db, run.id).status)[1] == "failed", "it to run")  # its config cannot
    wait_until(lambda: bury(ticks), "its runner to be buried")


def test_a_delete_in_the_same_moment_waits_for_the_last_words(db, row):
    run = row("running")
    lock = runner.acquire_lock(Path(run.folder))
    transition(db, run.id, ("running",), "stopped")
    last_words = threading.Timer(0.3, lock.close)
    last_words.start()
    control.delete(db, run.id)
    last_words.join(PATIENCE)
    assert not Path(run.folder).exists()
