"""Faults that happen to real runs: paused, killed and started again, hung, in a crash loop, out of memory.

After each: the state and the reason are right, no process and no lease is left over, and a run that went on is equal to
one that nothing happened to.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import insert, select

from bgpo.jobs import control, runner
from bgpo.jobs.scheduler import Scheduler
from bgpo.jobs.settling import marked_processes
from storage import queue
from storage.checkpoints import checkpoints_of
from storage.metrics import points_after
from storage.queue import leases
from storage.runs import get_run, list_runs, run_events
from storage.tables import run as table
from tests.statements import selects, statements_to, work
from tests.waiting import paused, wait_until

from .conftest import processes_of, reaches

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and signals")
SPENT = ("time/", "memory/", "warmup/")  # what differs from process to process; the warm start is made once


def curve(db, run) -> dict[tuple[str, int], float | None]:
    """Every point of the run that its seed decides."""
    points = points_after(db, run.id, 0, limit=10**6)[0]
    return {(p.metric, p.step): p.value for p in points if not p.metric.startswith(SPENT)}


def at_step(db, run, step: int):
    wait_until(lambda: get_run(db, run.id).step >= step, f"step {step} of run {run.id}")
    return get_run(db, run.id)


def at_once(db, run) -> None:
    """Does not wait for the time that a retry leaves to whatever was wrong."""
    assert queue.plan(db, run.id, start_at=None)


def nothing_left(db, run) -> None:
    wait_until(lambda: leases(db) == [], "the device to be given back")
    wait_until(lambda: processes_of(Path(run.folder)) == [], "its processes to be gone")


@linux
@pytest.mark.slow
def test_paused_and_killed_runs_are_equal_to_an_unbroken_one(db, scheduler, submit):
    unbroken = submit(train_steps=40)
    reaches(db, unbroken, "finished", seconds=200)
    broken = submit(train_steps=40, retries=1)
    at_step(db, broken, 8)
    control.pause(db, broken.id)
    held = reaches(db, broken, "paused")
    assert held.reason == f"Paused at step {held.step} of 40; Resume goes on from there."
    assert checkpoints_of(db, broken.id)[-1].step == held.step
    nothing_left(db, broken)

    control.resume(db, broken.id)
    running = at_step(db, broken, max(22, held.step + 1))
    os.kill(running.pid, signal.SIGKILL)
    wait_until(lambda: get_run(db, broken.id).retries == 1, "the retry")
    newest = max(20, held.step)  # of the evaluation or of the pause
    assert get_run(db, broken.id).reason.startswith(f"Starts again from step {newest} in 10 s.")
    at_once(db, broken)
    finished = reaches(db, broken, "finished", seconds=200)
    assert (finished.retries, finished.failure_kind) == (1, "")
    assert curve(db, broken) == curve(db, unbroken)
    nothing_left(db, broken)


@linux
@pytest.mark.slow
def test_a_crash_loop_ends_by_itself(db, scheduler, tiny, submit):
    """The process ends with code 1 in the same step after every start."""
    tiny("import os; os._exit(1)")
    run = submit(seed=0, retries=5)
    wait_until(lambda: get_run(db, run.id).retries == 1, "the retry")
    at_once(db, run)
    failed = reaches(db, run, "failed")
    assert (failed.failure_kind, failed.retries) == ("exception", 1)
    assert failed.reason.startswith("The training process ended with code 1")
    assert [e.to_status for e in run_events(db, run.id)].count("running") == 2
    nothing_left(db, run)


@pytest.mark.slow
@linux
def test_a_hung_run_is_noted_and_ended_and_the_next_one_starts(db, scheduler, tiny, submit):
    tiny("import time; time.sleep(3600)")
    run = submit(seed=0, when_stalled="kill", stalled_after=3)
    following = submit(seed=1, train_steps=1_000_000)
    noted = wait_until(lambda: get_run(db, run.id).stalled_at and get_run(db, run.id), "it to be noted")
    assert noted.status == "running" and noted.heartbeat_at > noted.progress_at  # alive, but it makes no progress
    failed = reaches(db, run, "failed")
    assert (failed.failure_kind, failed.reason.split(" Resume")[0]) == (
        "hung", "It made no progress any more and was ended.")
    wait_until(lambda: processes_of(Path(run.folder)) == [], "its processes to be gone")
    reaches(db, following, "running")
    assert [lease.run_id for lease in leases(db)] == [following.id]
    control.kill(db, following.id)
    reaches(db, following, "stopped")


@linux
def test_a_stop_while_it_starts_and_a_second_press(db, scheduler, tiny, submit):
    tiny("")
    run = reaches(db, submit(train_steps=1_000_000), "running")
    with paused(db, run.pid):  # it does not stop between the two
        control.stop(db, run.id)
        control.stop(db, run.id)
    stopped = reaches(db, run, "stopped")
    assert stopped.requested is None
    with pytest.raises(control.ControlError, match="is not running"):
        control.stop(db, run.id)
    nothing_left(db, run)


@linux
@pytest.mark.slow
def test_a_pause_during_the_warm_start_loses_no_step(db, scheduler, submit):
    run = submit(warmup_steps=4000, train_steps=1)
    wait_until(lambda: get_run(db, run.id).phase == "warming_up" and get_run(db, run.id).phase_done > 50, "warm-up")
    control.pause(db, run.id)
    held = reaches(db, run, "paused")
    saved = [path.name for path in Path(run.folder, "checkpoints").iterdir()]
    assert len(saved) == 1 and saved[0].startswith("warm-up-")
    control.resume(db, run.id)
    wait_until(lambda: get_run(db, run.id).phase_done > int(saved[0][-6:]), "it to go on from there")
    assert held.step == 0
    control.kill(db, run.id)
    reaches(db, run, "stopped")


@linux
def test_strays_of_a_killed_tree_are_found_by_their_mark(db, scheduler, tiny, submit):
    """A child in its own session, whose runner and worker are both killed: nobody's descendant any more."""
    stray = "import subprocess, time; subprocess.Popen(['sleep', '3600'], start_new_session=True); time.sleep(3600)"
    tiny(stray)
    run = submit(seed=0)
    running = reaches(db, run, "running")
    wait_until(lambda: any(p.name() == "sleep" for p in marked_processes(running)), "the stray")
    holder = runner.lock_holder(Path(run.folder))
    os.kill(holder.pid, signal.SIGSTOP)  # or it would bury the tree in an orderly way
    os.kill(running.pid, signal.SIGKILL)
    os.kill(holder.pid, signal.SIGKILL)
    assert reaches(db, run, "failed").failure_kind == "lost"
    wait_until(lambda: marked_processes(running) == [], "the stray to be gone")
    wait_until(lambda: leases(db) == [], "the device to be given back")


GROUP = Path("/sys/fs/cgroup/memory")


@linux
@pytest.mark.slow
@pytest.mark.skipif(not os.access(GROUP / "cgroup.procs", os.W_OK), reason="needs a memory control group of its own")
def test_the_kernels_kill_for_memory_is_told_apart(data):
    group = GROUP / f"bgpo-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(100 * 2**20))
    except OSError as error:
        pytest.skip(f"no control group can be made ({error})")
    hog = "x = []\nwhile True: x.append(bytearray(2**20))"
    command = [sys.executable, "-S", "-E", runner.__file__, str(data), sys.executable, "-c", hog]
    try:
        process = subprocess.Popen(
            command, preexec_fn=lambda: (group / "cgroup.procs").write_text(str(os.getpid())), start_new_session=True)
        process.wait(60)
        assert runner.read_json(data / "exit.json")["out_of_memory"] is True
    finally:
        wait_until(lambda: (group / "cgroup.procs").read_text() == "", "the group to be empty")
        group.rmdir()


def test_two_thousand_runs_cost_the_clockwork_nothing(db, row):
    """Ticks look at what is queued and what works, never at all runs."""
    row("finished")
    quiet = Scheduler(db)
    few = ticks(db, quiet)
    with db.write() as connection:
        one = dict(connection.execute(select(table)).mappings().one())
        connection.execute(insert(table), [{**one, "id": number} for number in range(2, 2002)])
    assert len(list_runs(db)) == 2001
    many = ticks(db, quiet)
    assert len(many[0]) == len(few[0]) < 8, many[0]
    assert many[1] < few[1] + 1000  # instructions; a look at each run would be tens of thousands


def ticks(db, scheduler) -> tuple[list[str], int]:
    """What both ticks ask the database, and how much work it is to it."""
    with statements_to(db) as statements:
        scheduler.dispatch()
        scheduler.reap()
    with work(db, every=10) as instructions:
        scheduler.dispatch()
        scheduler.reap()
    return selects(statements), sum(instructions)
