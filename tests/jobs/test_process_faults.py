"""Faults of the machine around a run: Ctrl-C, a dead rank, a full disk, a locked database, NaN. Real processes all.

After each: state and reason are right, the next run starts, no process and no lease is left, and no step is lost.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import psutil
import pytest

from bgpo.jobs import control, logs, runner
from bgpo.jobs.archive import export_run
from bgpo.jobs.settling import marked_processes
from storage.checkpoints import checkpoints_of
from storage.metrics import points_after
from storage.queue import leases
from storage.runs import Run, get_run, list_runs
from tests.waiting import PATIENCE, wait_until

from .conftest import ROOT, reaches
from .tiny_worker import figure

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, signals and mounts")


def steps_of(db, run) -> list[int]:
    points = points_after(db, run.id, 0, 10**6)[0]
    assert all(p.value == figure(0, p.step) for p in points if p.metric == "reward/mean")
    return sorted(point.step for point in points if point.metric == "reward/mean")


def nothing_left(db, run) -> None:
    wait_until(lambda: marked_processes(run) == [], "its processes to be gone")
    wait_until(lambda: all(lease.run_id != run.id for lease in leases(db)), "its device to be given back")


# ---- Ctrl-C in the terminal of the app

APP = """
import sys
from bgpo.jobs import launcher
def command(db, id):
    return [sys.executable, "-m", "tests.jobs.tiny_worker", str(id), "--database", db.url]
launcher.worker_command = command
import app
sys.exit(app.main(["--data-dir", sys.argv[1], "--port", "0"]))
"""


@pytest.mark.slow
def test_ctrl_c_ends_the_app_and_no_run(db, data, submit):
    run = submit(seed=0, train_steps=1_000_000)
    # a terminal sends the signal to the whole group of processes that it has in front
    app = subprocess.Popen([sys.executable, "-c", APP, str(data)], cwd=ROOT, start_new_session=True,
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    reaches(db, run, "running")
    os.killpg(app.pid, signal.SIGINT)
    said, _ = app.communicate(timeout=PATIENCE)
    assert app.returncode == 0 and "Traceback" not in said, said
    before = get_run(db, run.id).step
    wait_until(lambda: get_run(db, run.id).step > before + 5, "the run to go on without the app")
    control.stop(db, run.id)
    stopped = reaches(db, run, "stopped")
    assert steps_of(db, run) == list(range(1, stopped.step + 1))
    wait_until(lambda: marked_processes(run) == [], "its processes to be gone")


# ---- a tree of processes, as torchrun makes it: each rank in a session of its own

AGENT = """
import subprocess, sys, time
ranks = [subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(3600)", "rank"], start_new_session=True)
         for _ in range(2)]
while all(rank.poll() is None for rank in ranks):
    time.sleep(0.05)
for rank in ranks:
    rank.kill()
sys.exit(1)
"""
TREE = f"""
import os, subprocess, sys
agent = subprocess.Popen([sys.executable, "-S", "-c", {AGENT!r}, "agent"])
print("the agent ended with code", agent.wait(), flush=True)
os._exit(1)
"""


def member(run, name: str) -> list[psutil.Process]:
    return [process for process in marked_processes(run) if process.cmdline()[-1:] == [name]]


@pytest.mark.parametrize("victim, kind", [
    ("agent", "exception"), pytest.param("rank", "exception", marks=pytest.mark.slow),
    pytest.param("all", "", marks=pytest.mark.slow),
])
def test_no_rank_outlives_its_run(db, scheduler, tiny, submit, victim, kind):
    tiny(TREE)
    run, following = submit(seed=0), submit(seed=1, train_steps=3)
    running = reaches(db, run, "running")
    wait_until(lambda: len(member(running, "rank")) == 2 and member(running, "agent"), "the ranks")
    if victim == "all":
        control.kill(db, run.id)
    else:
        member(running, victim)[0].kill()
    ended = reaches(db, run, "failed" if kind else "stopped")
    assert ended.failure_kind == kind
    if kind:
        assert ended.reason.startswith("The training process ended with code 1: the agent ended with code")
    nothing_left(db, running)
    reaches(db, following, "finished")


def test_a_run_that_is_frozen_as_a_whole_can_be_killed(db, scheduler, tiny, submit):
    tiny("")
    run = submit(seed=1, train_steps=1_000_000)
    running = reaches(db, run, "running")
    os.killpg(psutil.Process(running.pid).ppid(), signal.SIGSTOP)  # the runner leads its group
    control.kill(db, run.id)
    assert reaches(db, run, "stopped").reason == "Killed on request."
    nothing_left(db, running)


TORCHRUN = """
import os, subprocess, sys
code = ("import time, torch.distributed as d; d.init_process_group('gloo'); d.barrier(); "
        "print('together', flush=True); time.sleep(3600)")
script = os.path.join(folder, "rank.py")
open(script, "w").write(code)
done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", script])
os._exit(done.returncode and 1)
"""


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["agent", "rank", "all"])
def test_no_rank_of_torchrun_outlives_its_run(db, scheduler, tiny, submit, victim):
    tiny(TORCHRUN)
    run = submit(seed=0, train_steps=10)
    running = reaches(db, run, "running")
    words = {"agent": "torch.distributed.run", "rank": "rank.py"}
    wait_until(lambda: "\n".join(logs.tail(Path(run.folder))).count("together") == 2, "both ranks to have met", 200)

    def named(word: str) -> list[psutil.Process]:
        return [process for process in marked_processes(running) if any(word in part for part in process.cmdline())]

    if victim == "all":
        control.kill(db, run.id)
    else:
        of_rank = [p for p in named(words["rank"]) if not any(words["agent"] in part for part in p.cmdline())]
        (of_rank if victim == "rank" else named(words["agent"]))[0].kill()
    reaches(db, run, "stopped" if victim == "all" else "failed")
    nothing_left(db, running)


# ---- another process holds the database


def saved_step(run) -> int:
    return (runner.read_json(Path(run.folder) / "state.json") or {"step": 0})["step"]


WAITS = "points wait in the run's folder"


def log_of(run: Run) -> str:
    return "\n".join(logs.tail(Path(run.folder), 400))


@pytest.mark.parametrize("past_the_timeout", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_locked_database_holds_up_no_step_and_loses_none(db, scheduler, tiny, submit, past_the_timeout):
    tiny("")
    run = submit(seed=0, train_steps=1_000_000)
    reaches(db, run, "running")
    with db.write():  # nobody else can write for as long as this takes
        began = saved_step(run)
        wait_until(lambda: saved_step(run) > began + 30, "the training to go on")
        assert [seen.id for seen in list_runs(db)] == [run.id]  # and pages to be answered
        if past_the_timeout:
            wait_until(lambda: WAITS in log_of(run), "points to wait in the folder", 120)
            began = saved_step(run)
            wait_until(lambda: saved_step(run) > began + 30, "the training to go on")
    control.stop(db, run.id)
    stopped = reaches(db, run, "stopped", seconds=120)
    assert steps_of(db, run) == list(range(1, stopped.step + 1))
    assert (WAITS in log_of(run) and "The database is back" in log_of(run)) == past_the_timeout
    nothing_left(db, run)


# ---- a full disk: a real one, of a few megabytes, that bubblewrap mounts for the processes of the test alone


def on_a_small_disk(data: Path, megabytes: int, scenario: str, *words: str) -> dict:
    """Runs `scenario`, which prints one JSON object as its last line, with such a disk at the path that it is given."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap, which mounts the small disk, is not installed (apt install bubblewrap)")
    disk = data / "disk"
    disk.mkdir()
    small = ["--size", str(megabytes * 2**20), "--tmpfs", str(disk)]
    wrapped = ["bwrap", "--dev-bind", "/", "/", *small, "--die-with-parent"]
    if subprocess.run([*wrapped, "true"], check=False, capture_output=True).returncode:
        pytest.skip("bubblewrap may mount nothing here (user namespaces are switched off)")
    done = subprocess.run(
        [*wrapped, sys.executable, "-c", SMALL_DISK + scenario, str(disk), str(data), *words], cwd=ROOT, check=False,
        capture_output=True, text=True, timeout=280, env=os.environ | {"TMPDIR": tempfile.gettempdir()},
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


SMALL_DISK = """
import json, os, subprocess, sys
from pathlib import Path
import psutil
from bgpo.jobs import control, logs, runner
from bgpo.jobs.archive import export_run
from bgpo.jobs.retention import LEAST_FREE_GB
from bgpo.jobs.settling import settle
from storage.checkpoints import checkpoints_of
from storage.database import open_database, sqlite_url
from storage.metrics import points_after
from storage.runs import get_run, transition
from storage.settings import set_setting
from tests.jobs.conftest import QUICK
from tests.waiting import wait_until

disk, data = Path(sys.argv[1]), Path(sys.argv[2])
filler = disk / "filler"

def fill(spare=0):
    with open(filler, "ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
        file.truncate(max(0, file.tell() - spare))

def start(module, run, url):
    environment = os.environ | {"BGPO_DATABASE": url}
    log = open(Path(run.folder, "log.txt"), "ab")
    words = [sys.executable, "-S", "-E", runner.__file__, run.folder, sys.executable, "-m", module, str(run.id)]
    return subprocess.Popen(words, env=environment, stdout=log, stderr=log)

def claimed(db, run):
    assert transition(db, run.id, ("queued", "failed"), "launching" if run.status == "queued" else "queued")
    if run.status != "queued":
        assert transition(db, run.id, ("queued",), "launching")

def steps(db, run):
    return sorted(p.step for p in points_after(db, run.id, 0, 10**6)[0] if p.metric == "reward/mean")
"""

METRICS = """
db = open_database(sqlite_url(disk / "bgpo.db"))
run = control.submit(db, QUICK.with_values(train_steps=1_000_000, seed=1), data / "runs")
claimed(db, run)
process = start("tests.jobs.tiny_worker", run, db.url)
wait_until(lambda: get_run(db, run.id).step > 5, "the first steps")
fill()
state = Path(run.folder, "state.json")
def saved(): return runner.read_json(state)["step"]
wait_until(lambda: Path(run.folder, "spool.jsonl").exists(), "points to wait in the folder")
while_full = saved()
wait_until(lambda: saved() > while_full + 30, "the training to go on")
filler.unlink()
wait_until(lambda: get_run(db, run.id).step > while_full + 30, "the database to be written again")
control.stop(db, run.id)
code = process.wait(60)
now = get_run(db, run.id)
print(json.dumps({"code": code, "status": now.status, "step": now.step, "steps": steps(db, run),
                  "log": "\\n".join(logs.tail(Path(run.folder), 400))}))
"""


def test_a_full_disk_under_the_database_stops_no_run_and_loses_no_step(data):
    found = on_a_small_disk(data, 3, METRICS)
    assert (found["code"], found["status"]) == (75, "stopped")
    assert found["steps"] == list(range(1, found["step"] + 1))
    assert "is full; free some space, nothing stored so far is lost" in found["log"]
    assert "The database is back; everything that waited has been written." in found["log"]


CHECKPOINT = """
from bgpo.models.checkpoints import newest, verify
db = open_database(sqlite_url(disk / "bgpo.db"))
set_setting(db, LEAST_FREE_GB, "-1")  # or a slow machine pauses the run before the disk is full
values = dict(train_steps=44, eval_every=40, warmup_steps=40)
run = control.submit(db, QUICK.with_values(**values), disk / "runs")
claimed(db, run)
process = start("bgpo.jobs.worker", run, db.url)
saved = Path(run.folder, "checkpoints")
wait_until(lambda: checkpoints_of(db, run.id), "the first checkpoint", 200)
worker = psutil.Process(process.pid).children(recursive=True)
for each in worker: each.suspend()  # or a quick machine is at the next checkpoint before the disk is full
fill(spare=300_000)
for each in worker: each.resume()
code = process.wait(200)
left = sorted(path.name for path in saved.iterdir())
verify(newest(saved))
filler.unlink()
import time
settle(db, get_run(db, run.id), time.time())
failed = get_run(db, run.id)
claimed(db, failed)
again = start("bgpo.jobs.worker", run, db.url).wait(200)
finished = get_run(db, run.id)
print(json.dumps({"code": code, "left": left, "status": failed.status, "kind": failed.failure_kind,
                  "reason": failed.reason, "again": again, "finished": finished.status, "steps": steps(db, run)}))
"""


@pytest.mark.slow
def test_a_full_disk_in_a_checkpoint_keeps_the_one_before_and_says_so(data):
    """All of it on one disk, as it usually is: weights, log, database and the run's last word."""
    found = on_a_small_disk(data, 24, CHECKPOINT)
    assert found["code"] == 1
    assert found["left"] == ["step-000000"]  # neither half a folder nor a temporary one
    assert (found["status"], found["kind"]) == ("failed", "disk_full")
    assert found["reason"].startswith("The disk that holds the run's folder is full; free some space and press Resume.")
    assert (found["again"], found["finished"], found["steps"]) == (0, "finished", list(range(1, 45)))


# ---- secrets

CRASH = """
import os, traceback
try:
    raise RuntimeError("in the middle of a step")
except RuntimeError:
    traceback.print_exc()
os._exit(1)
"""


def test_no_token_is_in_what_a_crashed_run_leaves(db, scheduler, tiny, submit, data, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_of_this_test")
    monkeypatch.setenv("WANDB_API_KEY", "key_of_this_test")
    tiny(CRASH)
    run = submit(seed=0)
    failed = reaches(db, run, "failed")
    assert failed.reason == "The training process ended with code 1: RuntimeError: in the middle of a step."
    exported = export_run(db, run.id, data / "run.zip")
    with zipfile.ZipFile(exported) as archive:
        archive.extractall(data / "unpacked")
    db.close()
    for path in filter(Path.is_file, data.rglob("*")):
        assert b"_of_this_test" not in path.read_bytes(), f"{path} holds a secret"


# ---- NaN

NAN = """
calls = 0
def objective(elbo, old_elbo, advantage):
    global calls
    calls += 1
    return advantage * (elbo - old_elbo).mean(-1).exp() * (float("nan") if calls > 2 else 1.0)
"""


@pytest.mark.slow  # the trainer's own test of it is one of every run
def test_a_gradient_that_is_no_number_ends_the_run_with_its_weights_whole(db, scheduler, data, submit):
    (data / "objective.py").write_text(NAN)
    (data / "reward.py").write_text("def reward(prompt, expected, completion): return float(hash(completion) % 2)\n")
    run = submit(objective="custom", objective_file=str(data / "objective.py"), reward_file=str(data / "reward.py"),
                 train_steps=40, eval_every=40, warmup_steps=5, retries=3)
    failed = reaches(db, run, "failed", seconds=200)
    assert failed.failure_kind == "nan" and failed.retries == 0  # the same seed would come to the same step
    assert "Lower learning_rate" in failed.reason and failed.step < 5
    saved = checkpoints_of(db, run.id)
    assert [item.step for item in saved] == [0]
    from bgpo.models.checkpoints import verify

    verify(Path(saved[0].folder))
    assert all(point.value is not None for point in points_after(db, run.id, 0, 10**6)[0] if point.step <= failed.step)
    nothing_left(db, run)
