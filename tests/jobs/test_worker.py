"""Real worker processes: started, watched, stopped, resumed, killed; and the worker as a command of its own.

A worker needs seconds to load torch, so each test follows one or two of them through many assertions. Where
loading does not matter, the config is one that a worker refuses before it loads anything.
"""

from __future__ import annotations

import inspect
import json
import os
import pkgutil
import pty
import resource
import shlex
import signal
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import psutil
import pytest

from bgpo.config import KNOBS
from bgpo.jobs import control, logs, runner, settling, worker
from bgpo.jobs.command import command_line
from bgpo.jobs.retention import to_free
from bgpo.jobs.scheduler import Scheduler
from bgpo.jobs.worker import JOBS, main
from storage import database
from storage.checkpoints import checkpoints_of
from storage.database import open_database, sqlite_url
from storage.metrics import points_after
from storage.runs import get_run, list_runs, run_events
from storage.settings import set_cpu_slots
from tests.waiting import PATIENCE, paused, wait_until

from .conftest import BAD_CONFIG, QUICK, ROOT, bury, processes_of, reaches

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def steps_of(db, run, metric: str = "reward/mean") -> list[int]:
    return [point.step for point in points_after(db, run.id, 0)[0] if point.metric == metric]


def statuses(db, run) -> list[str]:
    return [event.to_status for event in run_events(db, run.id) if event.from_status != event.to_status]


def restarted(scheduler: Scheduler, db) -> Scheduler:
    """What a restart of the app does: another scheduler on another connection."""
    scheduler.shutdown()
    fresh = Scheduler(open_database(db.url))
    fresh.start()
    return fresh


def test_a_run_is_watched_stopped_and_resumed_to_its_end_over_a_restart_of_the_app(db, scheduler, submit):
    run = submit(train_steps=40)
    assert run.status == "queued"
    running = reaches(db, run, "running")
    assert settling.worker_identity(running).alive()
    assert runner.lock_state(Path(run.folder)) == "held"

    wait_until(lambda: steps_of(db, run), "the first training step")
    with paused(db, running.pid):
        second = restarted(scheduler, db)
        assert reaches(db, run, "running").pid == running.pid
        asked = control.stop(db, run.id)
    stopped = reaches(db, run, "stopped")
    assert stopped.step - asked.step <= 30  # heard within a second or so, counted in its own pace
    assert stopped.requested is None and 0 < stopped.step < 40
    assert stopped.reason == f"Stopped at step {stopped.step} of 40; Resume goes on from there."
    saved = checkpoints_of(db, run.id)[-1]
    assert (saved.step, saved.kind) == (stopped.step, "stop") and Path(saved.folder, "model.safetensors").exists()
    left = wait_until(lambda: runner.read_json(Path(run.folder, "exit.json")), "the exit code")
    assert left["returncode"] == 75
    wait_until(lambda: processes_of(Path(run.folder)) == [], "all its processes to be gone")

    control.resume(db, run.id)
    finished = reaches(db, run, "finished", seconds=150)
    assert finished.step == 40 and finished.seconds > stopped.seconds and finished.started_at == running.started_at
    assert sorted(steps_of(db, run)) == list(range(1, 41))
    started = ["queued", "launching", "running"]
    assert statuses(db, run) == [*started, "stopped", *started, "finished"]
    log = Path(run.folder, "log.txt").read_text()
    assert "goes on from step" in log and "Finished after" in log
    second.shutdown()
    wait_until(lambda: bury(scheduler, second), "the runners to be buried")


def test_a_killed_worker_is_failed_with_a_reason_and_its_log(db, scheduler, tiny, submit):
    tiny("")
    run = reaches(db, submit(train_steps=1_000_000), "running")
    wait_until(lambda: logs.tail(Path(run.folder)), "a line in the log")
    os.kill(run.pid, signal.SIGKILL)
    # its runner gives the lock back last; only a tick that was under way then may still miss it
    wait_until(lambda: runner.lock_state(Path(run.folder)) == "free", "the runner to end")
    before = scheduler.spared
    failed = reaches(db, run, "failed")
    assert scheduler.spared - before <= 1
    assert failed.reason.startswith("The training process was killed (signal 9), perhaps by hand")
    assert failed.failure_kind == "killed"
    assert logs.tail(Path(run.folder))[0].endswith("Run 1, adder bgpo K=2 seed 0")


def test_a_config_that_cannot_run_fails_with_its_sentence(db, scheduler, row):
    failed = reaches(db, row("queued", BAD_CONFIG), "failed")
    assert failed.reason == (
        "The config cannot run: mc_samples = 0 is not allowed; give a whole number from 1 to 1024."
    )
    log = Path(failed.folder, "log.txt").read_text()
    assert "Traceback" in log and log.splitlines()[-1].endswith(failed.reason)
    assert statuses(db, failed)[-3:] == ["launching", "running", "failed"]


@pytest.mark.slow
def test_two_schedulers_start_each_run_once(db, row):
    runs = [row("queued", BAD_CONFIG) for _ in range(6)]
    set_cpu_slots(db, 2)
    schedulers = [Scheduler(open_database(db.url)) for _ in range(2)]
    for each in schedulers:
        each.start()
    most = 0

    def all_failed() -> bool:
        nonlocal most
        seen = [run.status for run in list_runs(db)]  # all at one moment
        most = max(most, seen.count("running"))
        return set(seen) == {"failed"}

    wait_until(all_failed, "all runs to end")
    assert most <= 2
    for run in runs:
        assert statuses(db, run).count("running") == 1
        assert Path(run.folder, "log.txt").read_text().count("Traceback") == 1
    for each in schedulers:
        each.shutdown()
    wait_until(lambda: bury(*schedulers), "the runners to be buried")


APP = """
import sys, time
from bgpo.jobs import launcher
from bgpo.jobs.scheduler import Scheduler
def command(db, id):
    return [sys.executable, "-m", "tests.jobs.tiny_worker", str(id), "--database", db.url]
launcher.worker_command = command
from storage.database import open_database
Scheduler(open_database(sys.argv[1])).start()
time.sleep(600)
"""


@linux
def test_a_killed_app_leaves_the_run_going_and_a_killed_runner_lets_it_end_in_order(db, submit):
    run = submit(train_steps=1_000_000)
    app = subprocess.Popen([sys.executable, "-c", APP, db.url], cwd=ROOT)
    running = reaches(db, run, "running")
    app.kill()
    app.wait()
    beat = get_run(db, run.id).heartbeat_at
    wait_until(lambda: get_run(db, run.id).heartbeat_at > beat + 1, "the run to go on without the app")

    scheduler = Scheduler(db)
    scheduler.start()
    scheduler.reap()
    assert get_run(db, run.id).status == "running"
    os.kill(psutil.Process(running.pid).ppid(), signal.SIGKILL)
    stopped = reaches(db, run, "stopped")  # although the lock has been free since then
    assert stopped.reason.startswith("Stopped")
    assert run_events(db, run.id)[-1].who == "worker"
    wait_until(lambda: processes_of(Path(run.folder)) == [], "all its processes to be gone")
    scheduler.shutdown()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "bgpo.jobs.worker", *words]


def quick_flags(**values: object) -> list[str]:
    words = shlex.split(command_line(QUICK.with_values(**values), "sqlite:///x.db"))
    return words[3 : words.index("--database")]


@pytest.mark.slow
def test_the_command_alone_trains_stops_on_ctrl_c_and_goes_on(data):
    url = sqlite_url(data / "here" / "runs.db")
    process = subprocess.Popen(
        command(*quick_flags(train_steps=50, keep_last_checkpoints=1), "--database", url, "--json"), cwd=ROOT,
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    wait_until(lambda: (data / "here" / "runs" / "1" / "log.txt").exists(), "the log")
    db = open_database(url)
    wait_until(lambda: process.poll() is not None or steps_of(db, get_run(db, 1)), "a step")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75, err
    summary = json.loads(out.splitlines()[-1])
    run = get_run(db, 1)
    assert (summary["run_id"], summary["status"], run.status) == (1, "stopped", "stopped")
    assert "press Ctrl-C again to end at once" in err
    assert Path(run.folder) == data / "here" / "runs" / "1"
    assert (data / "here" / "warm_starts").is_dir()

    began, before = time.monotonic(), run.seconds
    out, bars = in_a_terminal(command("1", "--database", url, "--json"))
    summary = json.loads(out.splitlines()[-1])
    run = get_run(db, 1)
    assert (summary["status"], run.status, run.step) == ("finished", "finished", 50)
    # the row's time is taken a little before the summary's, and no process runs longer than it was waited for
    assert run.seconds - 0.1 <= summary["seconds"] <= before + time.monotonic() - began + 0.1
    rewards = {p.step: p.value for p in points_after(db, 1, 0)[0] if p.metric == "reward/heldout_greedy"}
    assert list(rewards) == [0, 20, 40, 50]
    assert (summary["first"], summary["last"]) == (rewards[0], rewards[50])
    assert "Training:" in bars and "50/50" in bars and "reward" in bars
    kept = checkpoints_of(db, 1)  # no app was there to free the others
    assert to_free(kept, 1) == [] and {0, 50} <= {item.step for item in kept} and len(kept) <= 3
    folders = [path.name for path in Path(run.folder, "checkpoints").iterdir()]
    assert sorted(folders) == [Path(item.folder).name for item in kept]
    db.close()


def in_a_terminal(words: list[str]) -> tuple[str, str]:
    """stdout, and what a terminal on stderr would show."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    process = subprocess.Popen(words, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += part
    os.close(ours)
    out = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, shown.decode()
    return out, shown.decode()


@pytest.mark.slow
def test_a_ctrl_c_in_the_first_moment_leaves_no_row_that_says_running(data):
    url = sqlite_url(data / "runs.db")
    process = subprocess.Popen(command("--database", url), cwd=ROOT, text=True, stderr=subprocess.PIPE)
    wait_until(lambda: (data / "runs" / "1").exists(), "the run's folder")  # its row is not even there yet
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 75 and "Traceback" not in err
    db = open_database(url)
    assert get_run(db, 1).status == "stopped"
    db.close()


def processor_seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_second_ctrl_c_ends_at_once(data):
    url = sqlite_url(data / "runs.db")
    before = processor_seconds_of_children()
    process = subprocess.Popen(
        command(*quick_flags(train_steps=100_000), "--database", url), cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )
    log = data / "runs" / "1" / "log.txt"
    wait_until(lambda: log.exists() and "Run 1," in log.read_text(), "the first line")
    process.send_signal(signal.SIGINT)
    while "press Ctrl-C again" not in process.stderr.readline():
        assert process.poll() is None
    spent = sum(psutil.Process(process.pid).cpu_times()[:2])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    # it does not wait until torch is loaded, in the processor's time: others may use the machine as well
    assert processor_seconds_of_children() - before - spent < 2
    assert process.returncode == 75, err
    db = open_database(url)
    # the first Ctrl-C may have been carried out in the moment before the second one
    assert get_run(db, 1).status == "stopped" and get_run(db, 1).reason.startswith(("Ended at once", "Stopped before"))
    assert "Traceback" not in err
    db.close()


WRONG = [
    (["--preset", "sudokku"], "There is no preset named sudokku; the presets are adder, stack_programs, countdown, "),
    (["--mc-samples", "0"], "mc_samples = 0 is not allowed; give a whole number from 1 to 1024."),
    (["--block-length", "3"], "block_length = 3"),
    (["--learning-rate", "inf"], "learning_rate = inf is not allowed"),
    (["12", "--seed", "1"], "give either RUN_ID or --preset and knobs, not both"),
    (["twelve"], "'twelve' is not a run's id"),
    (["99"], "Run 99 does not exist"),
    (["--data-dir", "/tmp/\udcff"], "'/tmp/\\udcff' is not text in UTF-8"),
    (["--start-from", "run:99"], "Run 99 does not exist"),
    (["--frobnicate"], "unrecognized arguments: --frobnicate"),
    (["--seed"], "argument --seed: expected one argument"),
]


@pytest.mark.parametrize("words, sentence", WRONG, ids=[" ".join(words) for words, _ in WRONG])
def test_wrong_arguments_get_one_sentence_and_exit_code_2(data, capsys, words, sentence):
    try:
        code = main([*words, "--database", sqlite_url(data / "runs.db")])
    except SystemExit as error:  # argparse's own
        code = error.code
    out, err = capsys.readouterr()
    assert code == 2 and out == ""
    assert sentence in err and len(err.strip().splitlines()) == 1
    assert not (data / "runs").exists()


@pytest.mark.parametrize("url", ["nonsense", "mysql://host/db", "sqlite://", "sqlite:///{data}"])
def test_a_wrong_database_gets_one_sentence(data, capsys, url):
    assert main(["--preset", "adder", "--database", url.format(data=data)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_no_database_at_all(capsys, monkeypatch):
    monkeypatch.delenv("BGPO_DATABASE", raising=False)
    assert main(["--preset", "adder"]) == 2
    assert "add --database sqlite:///runs.db" in capsys.readouterr().err


def test_a_finished_run_cannot_be_started(db, row, capsys):
    run = row("finished")
    assert main([str(run.id), "--database", db.url]) == 2
    assert f"Run {run.id} is finished, so it cannot be started." in capsys.readouterr().err


def test_a_run_whose_process_was_killed_while_no_app_was_there_can_be_started(db, row):
    run = row("running", BAD_CONFIG)
    assert main([str(run.id), "--database", db.url]) == 1
    assert statuses(db, run) == ["running", "failed", "running", "failed"]


def held_for(seconds: float, db) -> threading.Thread:
    """Another process's long write, in a thread: nobody else can write meanwhile."""
    began = threading.Event()

    def hold() -> None:
        with db.write():
            began.set()
            time.sleep(seconds)

    holder = threading.Thread(target=hold)
    holder.start()
    assert began.wait(PATIENCE)
    return holder


@pytest.mark.parametrize("patience, code, status", [(60.0, 1, "failed"), (0.0, 2, "launching")])
def test_a_start_outlasts_a_database_that_is_held(db, row, monkeypatch, capsys, patience, code, status):
    monkeypatch.setattr(database, "BUSY_TIMEOUT", 0.2)
    monkeypatch.setattr(worker, "_BUSY_PATIENCE", patience)
    monkeypatch.setenv(runner.RUNNER_PID, str(os.getppid()))
    run = row("launching", BAD_CONFIG)
    holder = held_for(1.0, db)
    assert main([str(run.id), "--database", db.url]) == code
    assert "is busy: another process has been writing to it" in capsys.readouterr().err
    holder.join()
    assert get_run(db, run.id).status == status  # failed for its config: it has begun


def test_two_processes_never_work_on_one_run(db, row, capsys, monkeypatch):
    monkeypatch.setattr(worker, "_LAST_WORDS", 0.2)
    run = row("stopped")
    with runner.acquire_lock(Path(run.folder)):
        assert main([str(run.id), "--database", db.url]) == 2
    assert f"Another process already works on run {run.id}." in capsys.readouterr().err
    assert get_run(db, run.id).status == "stopped"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("leave, code", [("pass", 120), ("worker._let_output_go()", 1)])
def test_a_log_that_cannot_be_written_changes_no_exit_code(leave, code):
    """120 is Python's own, where it cannot write at exit what was printed before."""
    program = f"import sys; from bgpo.jobs import worker; print('the last line'); {leave}; sys.exit(1)"
    with open("/dev/full", "w") as full:
        left = subprocess.run(
            [sys.executable, "-c", program], stdout=full, check=False, env=os.environ | {"PYTHONUNBUFFERED": ""}
        )
    assert left.returncode == code


def test_help_and_wrong_flags_need_no_torch():
    code = (
        "import sys; from bgpo.jobs.worker import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--mc-samples N" in done.stdout and "Ctrl-C stops it" in done.stdout


def test_every_job_that_can_be_chosen_is_a_function_of_four():
    assert JOBS.keys() == set(KNOBS["job"].choices)
    for name in JOBS.values():
        taken = list(inspect.signature(pkgutil.resolve_name(name)).parameters)
        assert taken == ["config", "folder", "listener", "warm_start_cache"], name
