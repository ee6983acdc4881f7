"""The runner as a process: lock, exit code, log, strays, and what it leaves when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bgpo.jobs import runner
from bgpo.jobs.runner import Identity
from tests.waiting import PATIENCE, wait_until

from .conftest import processes_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


def start(folder: Path, *command: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-S", "-E", runner.__file__, str(folder), *command], start_new_session=True,
        stdout=subprocess.PIPE, text=True,
    )


def test_it_keeps_the_exit_code_and_appends_to_the_log(data):
    (data / "log.txt").write_text("before\n")
    assert start(data, "sh", "-c", "echo out; echo err >&2; exit 75").wait(PATIENCE) == 75
    assert json.loads((data / "exit.json").read_text())["returncode"] == 75
    assert (data / "log.txt").read_text() == "before\nout\nerr\n"
    assert runner.lock_state(data) == "free"


def test_it_tells_a_signal_from_an_exit_code(data):
    start(data, "sh", "-c", "kill -9 $$").wait(PATIENCE)
    assert json.loads((data / "exit.json").read_text())["returncode"] == -9


def test_a_command_that_cannot_be_started_leaves_the_reason(data):
    start(data, "/nonexistent/python").wait(PATIENCE)
    left = json.loads((data / "exit.json").read_text())
    assert left["returncode"] == 127
    assert left["problem"] == "/nonexistent/python could not be started: No such file or directory"


def test_the_lock_is_held_for_as_long_as_the_worker_lives(data):
    process = start(data, "sleep", "600")
    wait_until(lambda: runner.lock_state(data) == "held", "the lock")
    holder = wait_until(lambda: runner.lock_holder(data), "the holder's identity")
    assert holder == Identity.of(process.pid) and holder.alive()

    second = start(data, "sh", "-c", "echo never")
    assert second.wait(PATIENCE) == runner.ALREADY_LOCKED
    assert "never" not in (data / "log.txt").read_text()

    process.send_signal(signal.SIGTERM)  # forwarded to the worker, whose end is then recorded
    process.wait(PATIENCE)
    assert json.loads((data / "exit.json").read_text())["returncode"] == -signal.SIGTERM
    assert runner.lock_state(data) == "free" and runner.lock_holder(data) is None


@linux
def test_what_the_worker_leaves_behind_is_killed(data):
    # a grandchild in a session of its own, as torchrun's ranks are
    script = data / "stray.sh"
    script.write_text(f"setsid sh -c 'sleep 600; true {data}' & exec setsid sh -c 'exit 3'")
    assert start(data, "sh", str(script)).wait(PATIENCE) == 3
    assert processes_of(data) == []


@linux
def test_the_worker_is_told_when_its_runner_is_killed(data):
    script = data / "worker.sh"
    script.write_text(f"trap 'touch {data}/told; exit' TERM; echo ready; while :; do sleep 0.05; done")
    process = start(data, "sh", str(script))
    wait_until(lambda: (data / "log.txt").exists() and "ready" in (data / "log.txt").read_text(), "the worker")
    process.kill()
    process.wait(PATIENCE)
    wait_until(lambda: (data / "told").exists(), "SIGTERM to reach the worker")
    assert runner.lock_state(data) == "free"


def test_the_lock_of_a_missing_folder_is_unknown(data):
    assert runner.lock_state(data / "nowhere") == "unknown"
    assert runner.lock_holder(data / "nowhere") is None


def test_asking_for_the_lock_does_not_take_it(data):
    for _ in range(3):
        assert runner.lock_state(data) == "free"
    with runner.acquire_lock(data):
        assert runner.lock_state(data) == "held"
    assert runner.lock_state(data) == "free"


@linux
def test_an_identity_is_one_process_for_ever():
    child = subprocess.Popen(["sleep", "600"])
    try:
        me = Identity.of(child.pid)
        assert me.alive()
        assert not Identity(me.pid, me.started + 1, me.boot_id).alive()  # the pid went to somebody else
        assert not Identity(me.pid, me.started, "another boot").alive()
        assert not Identity(me.pid, None, me.boot_id).alive()
    finally:
        child.kill()
    wait_until(lambda: not me.alive(), "a zombie to count as gone")
    child.wait()
    assert not me.alive()


@linux
def test_odd_command_names_do_not_confuse_the_start_time(data):
    odd = data / "a) 1 2 (b"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "600"])
    try:
        assert Identity.of(child.pid).alive()
        assert runner.start_ticks(child.pid) >= runner.start_ticks(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_json_is_whole_or_not_there(data):
    runner.write_json(data / "result.json", {"status": "finished"})
    assert runner.read_json(data / "result.json") == {"status": "finished"}
    (data / "result.json").write_text('{"status": "fin')
    assert runner.read_json(data / "result.json") is None
    assert runner.read_json(data / "missing.json") is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_is_small(data):
    process = start(data, "sleep", "600")
    wait_until(lambda: runner.lock_holder(data), "the lock")
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = int(status.split("VmRSS:")[1].split()[0])
    process.terminate()
    process.wait(PATIENCE)
    assert kilobytes < 25_000
