"""A run whose process is gone gets its end and a sentence; a run that lives is left alone; no stranger is signalled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import update

from bgpo.jobs import control, runner, settling
from bgpo.jobs.runner import Identity
from bgpo.jobs.scheduler import Scheduler
from storage import tables
from storage.checkpoints import add_checkpoint, checkpoints_of
from storage.metrics import Point, points_after
from storage.runs import get_run, run_events, transition
from tests.waiting import PATIENCE, wait_until

from .conftest import processes_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def stranger():
    """A process that has nothing to do with any run."""
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def settled(db, run, **changes):
    """The run after one settling, with its columns changed before."""
    if changes:
        with db.write() as connection:
            connection.execute(update(tables.run).where(tables.run.c.id == run.id).values(**changes))
    settling.settle(db, get_run(db, run.id), time.time())
    return get_run(db, run.id)


def left(run, **files):
    for name, content in files.items():
        path = Path(run.folder, name + (".txt" if name == "log" else ".json"))
        path.write_text(content if name == "log" else json.dumps(content))


def test_killed_says_so_with_what_is_kept(db, row):
    run = row("running")
    add_checkpoint(db, run.id, 5, "evaluation", "/x")
    left(run, exit={"returncode": -9})
    end = settled(db, run)
    assert end.status == "failed"
    assert end.reason == (
        "The training process was killed (signal 9), perhaps by hand, perhaps because the machine ran out of memory. "
        "Resume goes on from step 5."
    )
    assert end.failure_kind == "killed"
    assert run_events(db, run.id)[-1].who == "scheduler"


def test_a_kill_by_the_system_is_told_apart(db, row):
    run = row("running")
    left(run, exit={"returncode": -9, "out_of_memory": True})
    end = settled(db, run)
    assert (end.failure_kind, "because memory had run out" in end.reason) == ("oom_host", True)


def test_a_crash_shows_the_exception(db, row):
    run = row("running")
    log = "12:00:00 Training\nTraceback (most recent call last):\n  File \"x\", line 1\n    f()\nKeyError: 'lr'\nbye\n"
    left(run, exit={"returncode": 1}, log=log)
    assert settled(db, run).reason == "The training process ended with code 1: KeyError: 'lr'."


def test_a_segmentation_fault_has_a_name(db, row):
    run = row("running")
    left(run, exit={"returncode": -11})
    assert settled(db, run).reason == "The training process crashed (SIGSEGV)."


def test_a_process_that_never_started_says_why(db, row):
    run = row("launching")
    left(run, exit={"returncode": 127, "problem": "/x/python could not be started: No such file or directory"})
    assert "could not be started" in settled(db, run).reason


def test_the_workers_own_word_counts_more_than_its_exit_code(db, row):
    run = row("running")
    left(run, exit={"returncode": -9}, result={"status": "finished", "reason": "", "step": 10})
    assert (settled(db, run).status, settled(db, run).reason) == ("finished", "")


def test_a_kill_on_request_is_no_failure(db, row):
    run = row("running")
    left(run, exit={"returncode": -9})
    end = settled(db, run, requested="kill")
    assert (end.status, end.requested, end.reason) == ("stopped", None, "Killed on request.")


def test_the_workers_word_names_the_kind_of_failure(db, row):
    run = row("running")
    left(run, result={"status": "failed", "reason": "Out of memory.", "kind": "oom_gpu", "step": 3})
    assert settled(db, run).failure_kind == "oom_gpu"
    run = row("running")
    left(run, result={"status": "paused", "reason": "Paused at step 3.", "step": 3})
    assert settled(db, run).status == "paused"


def test_a_reboot_is_recognised(db, row):
    end = settled(db, row("running"), boot_id="an earlier boot", pid=1, process_started=1)
    assert ("restarted" in end.reason, end.failure_kind) == (True, "lost")


def test_everything_killed_at_once(db, row):
    assert "disappeared" in settled(db, row("running")).reason


def test_held_lock_is_alive_whatever_else(db, row):
    run = row("running")
    left(run, exit={"returncode": 1})
    with runner.acquire_lock(Path(run.folder)):
        assert settled(db, run, heartbeat_at=1.0).status == "running"
    assert settled(db, run).status == "failed"


def test_a_launch_has_time(db, row):
    run = row("launching")
    assert settled(db, run, heartbeat_at=time.time() - 5).status == "launching"
    end = settled(db, run, heartbeat_at=time.time() - settling.LAUNCH_DEADLINE - 1)
    assert (end.status, "No process took up the run" in end.reason) == ("failed", True)
    assert end.failure_kind == "launch_timeout"


@linux
def test_a_worker_without_runner_finishes_its_checkpoint_first(db, row, stranger):
    run = row("running")
    me = Identity.of(stranger.pid)
    columns = {"pid": me.pid, "process_started": me.started, "boot_id": me.boot_id}
    assert settled(db, run, **columns).status == "running"
    stranger.kill()
    stranger.wait()
    assert settled(db, run).status == "failed"


def test_a_run_of_another_machine_is_left_alone_while_its_heart_beats(db, row):
    run = row("running")
    Path(run.folder).rmdir()
    assert settled(db, run, boot_id="another machine", heartbeat_at=time.time()).status == "running"
    assert settled(db, run, heartbeat_at=time.time() - settling.SILENCE - 1).status == "failed"


def test_points_that_waited_are_written_before_the_end(db, row):
    run = row("running")
    spool = Path(run.folder) / "spool.jsonl"
    point = {"metric": "reward/mean", "step": 3, "seconds": 1.5, "value": 0.25}
    saved = {"step": 7, "kind": "evaluation", "folder": "/x", "reward": None}
    half = '["Point", {"metr'  # as a killed process leaves it
    spool.write_text("\n".join([json.dumps(["Point", point]), json.dumps(["SavedCheckpoint", saved]), half]))
    end = settled(db, run)
    assert (end.status, end.reason.endswith("Resume goes on from step 7.")) == ("failed", True)
    assert points_after(db, run.id, 0)[0] == [Point("reward/mean", 3, 1.5, 0.25)]
    assert not spool.exists()


def test_a_checkpoint_that_was_saved_in_the_last_moment_gets_its_row(db, row):
    run = row("running")
    add_checkpoint(db, run.id, 5, "evaluation", str(Path(run.folder, "checkpoints", "step-000005")), 0.5)
    for step, whole in ((5, True), (7, True), (9, False)):
        folder = Path(run.folder, "checkpoints", f"step-{step:06d}")
        folder.mkdir(parents=True)
        (folder / "training_state.json").write_text(json.dumps({"phase": "training", "step": step}))
        if whole:
            (folder / "manifest.json").write_text("{}")
    assert settled(db, run).reason.endswith("Resume goes on from step 7.")
    assert [(saved.step, saved.reward) for saved in checkpoints_of(db, run.id)] == [(5, 0.5), (7, None)]


def test_what_has_ended_is_not_ended_again(db, row):
    run = row("running")
    assert transition(db, run.id, ("running",), "finished", who="worker")
    left(run, exit={"returncode": -9})
    settling.settle(db, run, time.time())  # the scheduler's picture is older than the worker's last act
    assert get_run(db, run.id).status == "finished"


@linux
@pytest.mark.parametrize("changed", [{"process_started": 1}, {"boot_id": "another"}, {"process_started": None}])
def test_a_reused_pid_never_gets_a_signal(db, row, stranger, changed):
    run = row("running")
    me = Identity.of(stranger.pid)
    columns = {"pid": me.pid, "process_started": me.started, "boot_id": me.boot_id, "requested": "kill"} | changed
    with db.write() as connection:
        connection.execute(update(tables.run).where(tables.run.c.id == run.id).values(**columns))
    scheduler = Scheduler(db)
    scheduler.dispatch()
    scheduler.reap()
    time.sleep(0.2)
    assert stranger.poll() is None
    assert get_run(db, run.id).status == "stopped"


@linux
def test_a_stale_lock_file_never_gets_anybody_killed(db, row, stranger):
    run = row("running")
    Path(run.folder, runner.LOCK).write_text(json.dumps(vars(Identity.of(stranger.pid))))
    settling.kill_tree(get_run(db, run.id))
    time.sleep(0.2)
    assert stranger.poll() is None


@linux
def test_a_kill_reaches_the_whole_tree(db, data, row):
    run = row("launching")
    folder = Path(run.folder)
    script = folder / "worker.sh"  # deaf to SIGTERM, with a child in its own session
    script.write_text(f"trap '' TERM; setsid sh -c 'sleep 600; true {folder}' & while :; do sleep 0.1; done")
    command = [sys.executable, "-S", "-E", runner.__file__, str(folder), "sh", str(script)]
    process = subprocess.Popen(command, start_new_session=True)
    wait_until(lambda: len(processes_of(folder)) >= 3, "runner, worker and child")
    control.kill(db, run.id)
    scheduler = Scheduler(db)
    scheduler.dispatch()
    process.wait(PATIENCE)
    assert processes_of(folder) == []
    scheduler.reap()
    assert get_run(db, run.id).reason == "Killed on request."


@pytest.mark.parametrize(
    "lines, cause",
    [
        ([], ""),
        (["only this", ""], "only this"),
        (["Traceback (most recent call last):", "  File", "ValueError: one", "", "During handling", "",
          "Traceback (most recent call last):", "  File", "torch.OutOfMemoryError: two", "  more"],
         "torch.OutOfMemoryError: two"),
        (["/usr/bin/python: No module named bgpo"], "/usr/bin/python: No module named bgpo"),
    ],
)
def test_the_cause_is_the_last_exception(lines, cause):
    assert settling.last_cause(lines) == cause


def test_the_end_of_a_run_needs_no_database(row):
    run = replace(row("running"), boot_id=runner.boot_id(), pid=os.getpid())
    assert settling.end_of(run).status == "failed"
