"""Whether a run's process still lives, how to kill all of it, and what to say of a run whose process is gone."""

from __future__ import annotations

import contextlib
import logging
import re
import signal
from dataclasses import replace
from pathlib import Path

import psutil
from sqlalchemy import select

from bgpo.jobs import logs, runner
from bgpo.jobs.ends import End
from bgpo.jobs.reporter import replay_spool
from bgpo.jobs.retrying import conclude, newest_step
from bgpo.jobs.runner import Identity
from bgpo.jobs.unlisted import list_checkpoints
from storage import tables
from storage.database import Database
from storage.runs import ENDED, LIVE, Run, get_run

LAUNCH_DEADLINE = 60.0  # seconds from the claim until the runner must hold the lock
SILENCE = 120.0  # seconds without heartbeat after which a run whose folder is not on this machine counts as lost

_log = logging.getLogger(__name__)


def live_runs(db: Database) -> list[Run]:
    """The runs that a process should be working on. Asked every second, so it does not read the others."""
    with db.read() as connection:
        ids = connection.scalars(select(tables.run.c.id).where(tables.run.c.status.in_(LIVE))).all()
    return [get_run(db, id) for id in ids]


def worker_identity(run: Run) -> Identity | None:
    """The worker that the row names; None before there is one."""
    return Identity(run.pid, run.process_started, run.boot_id) if run.pid else None


def is_gone(run: Run, now: float) -> bool:
    """Whether nobody works on this live run any more. `now` in epoch seconds.

    The lock decides. It is free, too, while a worker whose runner was killed saves its last checkpoint, and
    between a claim and the start of the runner.
    """
    folder = Path(run.folder)
    state = runner.lock_state(folder)
    quiet = now - (run.heartbeat_at or run.created_at)
    if state == "unknown":  # the folder was removed, or it is on another machine, which is the one to judge
        return quiet > SILENCE
    if state == "held":
        return False
    if run.status == "launching":
        return quiet > LAUNCH_DEADLINE or (folder / runner.EXIT).exists()
    worker = worker_identity(run)
    return worker is None or not worker.alive()


def tree_alive(run: Run) -> bool:
    """Whether anything of the run still lives: its lock's holder, its worker, or what these have left behind."""
    worker = worker_identity(run)
    held = runner.lock_state(Path(run.folder)) == "held"
    return held or (worker is not None and worker.alive()) or bool(marked_processes(run))


def marked_processes(run: Run) -> list[psutil.Process]:
    """The living processes that carry the run's mark in their environment, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            marked = process.environ().get(runner.RUN_FOLDER) == run.folder
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_marked(run: Run) -> None:
    """SIGKILL for what is left of a run whose runner and worker are gone."""
    for process in marked_processes(run):
        with contextlib.suppress(psutil.Error):
            process.kill()


def kill_tree(run: Run) -> None:
    """SIGKILL for the worker and everything below it. The runner stays: it buries them and keeps the exit code.

    For that a runner which was stopped, as all of a frozen run is, is told to go on.

    Signals nobody whose identity (pid, start, boot) is not exactly that of the row or of the lock's holder.
    """
    holder, worker = runner.lock_holder(Path(run.folder)), worker_identity(run)
    victims: dict[int, psutil.Process] = {}
    for root in filter(None, (holder, worker)):
        if root.alive():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(root.pid)
                below = process.children(recursive=True)
                # the lock's holder is the worker itself when it was started in a terminal
                victims |= {p.pid: p for p in [*below, *([process] if root == worker else [])]}
    for process in victims.values():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process.kill()  # psutil compares the start time again first
    if holder is not None and holder.alive():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            psutil.Process(holder.pid).resume()


def settle(db: Database, run: Run, now: float) -> None:
    """Gives a live run whose process is gone its end; leaves every other run alone."""
    if not is_gone(run, now):
        return
    run = get_run(db, run.id)  # the worker's own last act may have come between
    if run.status not in LIVE or not is_gone(run, now):
        return
    kill_marked(run)
    replay_spool(db, run, _log.warning)
    list_checkpoints(db, run)  # the newest may have been saved in the last moment
    end = end_of(run)
    saved = newest_step(db, run.id)
    if end.status != "finished" and saved is not None:
        end = replace(end, reason=f"{end.reason} Resume goes on from step {saved}.".strip())
    conclude(db, run, end, who="scheduler")


def end_of(run: Run) -> End:
    """What happened, from the worker's own last word, the request, the exit code and the log, in this order."""
    folder = Path(run.folder)
    result = runner.read_json(folder / runner.RESULT)
    if result and result.get("status") in (*ENDED, "paused"):
        return End(result["status"], str(result.get("reason", "")), str(result.get("kind", "")))
    if run.requested == "kill":
        return End("stopped", "Killed on request.")
    if run.requested == "hung":
        return End("failed", "It made no progress any more and was ended.", "hung")
    left = runner.read_json(folder / runner.EXIT)
    if run.requested and (run.requested.endswith("_overdue") or (left or {}).get("returncode") == -signal.SIGTERM):
        status, asked = ("paused", "Pause") if run.requested.startswith("pause") else ("stopped", "Stop")
        return End(status, f"It did not answer to {asked} and was ended without a last checkpoint.")
    if left is not None:
        return _cause(left, folder)
    if run.status == "launching":
        late = f"No process took up the run within {LAUNCH_DEADLINE:.0f} seconds of its start."
        return End("failed", late, "launch_timeout")
    if run.boot_id and run.boot_id != runner.boot_id():
        return End("failed", "The computer was restarted while the run was going on.", "lost")
    return End("failed", "Its processes disappeared without a word; something killed them all at once.", "lost")


def last_cause(lines: list[str]) -> str:
    """The line that says why: the exception under the last traceback, else the last line that says anything."""
    starts = [number for number, line in enumerate(lines) if line.startswith("Traceback (most recent call last)")]
    after = lines[starts[-1] + 1 :] if starts else []
    exception = next((line for line in after if re.match(r"[A-Za-z_]", line)), None)
    return exception or next((line.strip() for line in reversed(lines) if line.strip()), "")


def _cause(left: dict, folder: Path) -> End:
    code, cause = left.get("returncode"), last_cause(logs.tail(folder, lines=400))
    if left.get("problem"):
        return End("failed", f"The training process did not start: {left['problem']}.", "exception")
    if isinstance(code, int) and code < 0:
        return _signalled(-code, bool(left.get("out_of_memory")))
    said = f": {cause.rstrip('.')}." if cause else " and left no message."
    return End("failed", f"The training process ended with code {code}{said}", "exception")


def _signalled(number: int, out_of_memory: bool) -> End:
    if number == getattr(signal, "SIGKILL", 9):
        if out_of_memory:
            return End("failed", "The system killed the training process because memory had run out.", "oom_host")
        perhaps = "perhaps by hand, perhaps because the machine ran out of memory"
        return End("failed", f"The training process was killed (signal 9), {perhaps}.", "killed")
    kind = "killed" if number in (signal.SIGTERM, signal.SIGINT) else "exception"
    return End("failed", f"The training process crashed ({_signal_name(number)}).", kind)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
