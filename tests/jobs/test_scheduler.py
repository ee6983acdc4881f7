"""The clockwork: it goes on after its thread has died, and two of them on one database are harmless, whatever dies."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from itertools import pairwise

import pytest

from bgpo.jobs import control, scheduler
from bgpo.jobs.devices import Gpu
from bgpo.jobs.scheduler import Chore, Scheduler
from storage.database import StorageError, open_database
from storage.queue import leases
from storage.runs import ENDED, LIVE, get_run, list_runs, run_events, transition
from storage.settings import pause_queue, set_cpu_slots
from tests.waiting import PATIENCE, wait_until

from .conftest import BAD_CONFIG, ROOT, bury

ALLOWED = {
    ("", "queued"), ("queued", "launching"), ("queued", "stopped"), ("queued", "paused"), ("launching", "running"),
    ("launching", "failed"), ("launching", "stopped"), ("running", "finished"), ("running", "stopped"),
    ("running", "paused"), ("running", "failed"), ("paused", "queued"), ("paused", "stopped"), ("stopped", "queued"),
    ("failed", "queued"), ("launching", "queued"),
}  # fmt: skip


@pytest.fixture
def ticking(db, monkeypatch):
    """A scheduler that counts a chore of its own, and whose watchdog is quick."""
    monkeypatch.setattr(scheduler, "LATE", 2.0)
    beats: list[float] = []
    ticking = Scheduler(db, chores=[Chore("beat", 0.2, lambda: beats.append(time.monotonic()))])
    ticking.start()
    ticking.beats = beats
    yield ticking
    ticking.shutdown()


def test_an_app_that_starts_while_the_disk_is_full_ticks_all_the_same(db, monkeypatch):
    def full(*_: object) -> None:
        raise StorageError("The disk is full.")

    ticked = threading.Event()
    monkeypatch.setattr(scheduler, "note_app", full)
    started = Scheduler(db, chores=[Chore("beat", 0.05, ticked.set)])
    started.start()
    try:
        assert ticked.wait(PATIENCE)
    finally:
        started.shutdown()


def test_a_dead_thread_is_replaced(ticking):
    wait_until(lambda: ticking.beats, "a tick")
    dead = ticking._clock
    dead._jobstores["default"].get_due_jobs = lambda now: 1 / 0  # outside any job, where nothing catches it
    dead.wakeup()
    wait_until(lambda: ticking.restarts, "the watchdog")
    before = len(ticking.beats)
    wait_until(lambda: len(ticking.beats) > before + 2, "ticks to go on")
    assert ticking._clock is not dead


def test_a_wall_clock_that_was_set_back_holds_up_nothing(ticking):
    """APScheduler then waits for the time that it had planned, an hour from now."""
    from datetime import timedelta

    wait_until(lambda: ticking.beats, "a tick")
    for job in ticking._clock.get_jobs():
        job.modify(next_run_time=job.next_run_time + timedelta(hours=1))
    wait_until(lambda: ticking.restarts, "the watchdog")
    before = len(ticking.beats)
    wait_until(lambda: len(ticking.beats) > before + 2, "ticks to go on")


def test_a_job_that_raises_does_not_stop_the_others(db):
    beats = []
    broken = Scheduler(db, chores=[Chore("broken", 0.1, lambda: 1 / 0), Chore("beat", 0.1, lambda: beats.append(1))])
    broken.start()
    wait_until(lambda: len(beats) > 5, "ticks beside one that raises")
    broken.shutdown()


APP = """
import sys, time
from bgpo.jobs.scheduler import Scheduler
from storage.database import StorageError, open_database
Scheduler(open_database(sys.argv[1])).start()
time.sleep(600)
"""


@contextlib.contextmanager
def app(url: str):
    """An app process: a scheduler that ticks."""
    process = subprocess.Popen([sys.executable, "-c", APP, url], cwd=ROOT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)


def test_two_apps_start_each_run_once_whatever_happens_to_them(db, row):
    set_cpu_slots(db, 2)
    runs = [row("queued", BAD_CONFIG) for _ in range(8)]

    def ended() -> int:
        return sum(run.status == "failed" for run in list_runs(db))

    with app(db.url) as first, app(db.url) as second:
        wait_until(lambda: ended() >= 2, "the first runs to end")
        os.kill(first.pid, signal.SIGKILL)
        wait_until(lambda: ended() >= 4, "the other app to go on")
        os.kill(second.pid, signal.SIGSTOP)
        with app(db.url):
            wait_until(lambda: ended() >= 6, "a third app to take over from a frozen one")
            os.kill(second.pid, signal.SIGCONT)
            wait_until(lambda: ended() == len(runs), "all runs to end")
        wait_until(lambda: leases(db) == [], "the slots to be given back")
    for run in runs:
        assert [event.to_status for event in run_events(db, run.id)].count("running") == 1


def test_a_paused_queue_and_a_planned_run_wait(db, row):
    pause_queue(db, True)
    run = row("queued", BAD_CONFIG)
    ticks = Scheduler(db)
    ticks.dispatch()
    assert get_run(db, run.id).status == "queued"
    pause_queue(db, False)
    ticks.dispatch()
    wait_until(lambda: (ticks.reap(), get_run(db, run.id).status)[1] == "failed", "it to run")
    wait_until(lambda: bury(ticks), "its runner to be buried")


def test_gpus_are_leased_by_uuid_and_full_ones_avoided(db, runs_folder, monkeypatch):
    from bgpo.config import TrainConfig

    started = {}
    monkeypatch.setattr(scheduler, "launch", lambda db, run, devices: started.setdefault(run.id, devices))
    gib = 2**30
    cards = [
        Gpu("GPU-a", "H100", 80 * gib, 60 * gib, 99, ((999_999, 60 * gib),)),
        Gpu("GPU-b", "H100", 80 * gib, 1 * gib, 0),
        Gpu("GPU-c", "H100", 80 * gib, 30 * gib, 50, ((os.getpid(), 30 * gib),)),  # ours: a model to chat with
    ]
    runs = [control.submit(db, TrainConfig(device=device), runs_folder) for device in ("auto", "cpu", "cuda", "auto")]
    Scheduler(db, gpus=lambda: cards).dispatch()
    assert started[runs[0].id] == ["GPU-b"] and started[runs[2].id] == ["GPU-c"]
    assert started[runs[1].id][0].startswith("cpu@")
    assert get_run(db, runs[3].id).status == "queued"
    transition(db, runs[0].id, ("launching",), "failed")
    Scheduler(db, gpus=lambda: cards).dispatch()  # its device comes back and goes on
    assert started[runs[3].id] == ["GPU-b"]


def test_intents_from_all_sides_never_leave_the_allowed_graph(db, row):
    """Twenty threads press buttons at random, and make the statements of a dispatcher and a worker in between."""
    from bgpo.jobs.ends import End
    from bgpo.jobs.retrying import conclude
    from storage.queue import Offer, claim_next, release

    runs = [row("queued").id for _ in range(4)]
    slots = Offer(("cpu@here:0", "cpu@here:1"))

    generator = random.Random(0)

    def worker_says(id: int) -> None:
        conclude(db, get_run(db, id), End(generator.choice(["stopped", "failed"])), who="worker")

    acts = [
        partial(act, db) for act in (control.stop, control.pause, control.resume, control.kill)
    ] + [
        worker_says, lambda id: claim_next(db, slots), lambda id: transition(db, id, ("launching",), "running"),
        lambda id: [release(db, lease) for lease in leases(db) if get_run(db, lease.run_id).status not in LIVE],
    ]

    def press() -> None:
        for _ in range(15):
            with contextlib.suppress(control.ControlError):
                generator.choice(acts)(generator.choice(runs))

    threads = [threading.Thread(target=press) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for id in runs:
        moves = [(e.from_status, e.to_status) for e in run_events(db, id) if e.from_status != e.to_status]
        assert set(moves) <= ALLOWED
        assert all(before[1] == after[0] for before, after in pairwise(moves))
        assert get_run(db, id).status in (*ENDED, *LIVE, "queued", "paused")


def test_devices_are_never_shared_by_dispatchers_that_race(db, row):
    """8 cards, 40 runs that want 1 to 8 of them, 4 dispatchers: no card twice, all done, the large ones too."""
    from storage.queue import Offer, claim_next, release
    from storage.tables import run as table

    offer = Offer((), tuple(f"GPU-{number}" for number in range(8)), has_gpu=True)
    runs = [row("queued").id for _ in range(40)]
    with db.write() as connection:
        for number, id in enumerate(runs):
            connection.execute(table.update().where(table.c.id == id).values(devices=(1, 2, 4, 8)[number % 4]))
    faults: list[str] = []
    done = threading.Semaphore(0)

    def dispatch() -> None:
        own = open_database(db.url)
        while any(run.status == "queued" for run in list_runs(own)):
            run = claim_next(own, offer)
            if run is None:
                time.sleep(0.01)
                continue
            held = [lease for lease in leases(own) if lease.run_id == run.id]
            if len(held) != run.devices:
                faults.append(f"run {run.id} has {len(held)} of {run.devices}")
            transition(own, run.id, ("launching",), "finished")
            for lease in held:
                release(own, lease)
            done.release()
        own.close()

    threads = [threading.Thread(target=dispatch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == [] and leases(db) == []
    assert {run.status for run in list_runs(db)} == {"finished"}
