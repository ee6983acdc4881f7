"""The process that works on one run: trains it, or does another of the JOBS.

    python -m bgpo.jobs.worker 12 --database URL                     the run of a row, as the app starts it
    python -m bgpo.jobs.worker --preset adder --seed 0 --database sqlite:///runs.db     a new run, in this terminal

Exit codes: 0 finished, 75 stopped or paused, 1 failed, 2 something wrong with what was asked.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import pkgutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NoReturn

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import runner
from bgpo.jobs.command import (
    DATABASE_VARIABLE,
    add_config_arguments,
    config_from_arguments,
    data_folder,
    given_knobs,
)
from bgpo.jobs.control import default_name, device_kind
from bgpo.jobs.devices import nvidia_gpus, offer
from bgpo.jobs.ends import End, failed, one_line
from bgpo.jobs.housekeeping import Housekeeping
from bgpo.jobs.lineage import origin_now
from bgpo.jobs.mirror import mirror_of
from bgpo.jobs.narrator import Narrator
from bgpo.jobs.reporter import Reporter
from bgpo.jobs.retention import with_disk_words
from bgpo.jobs.retrying import conclude
from bgpo.jobs.settling import settle
from bgpo.training.health import Health
from storage.database import Database, StorageError, open_database
from storage.metrics import points_after
from storage.queue import lease_if_free
from storage.runs import LIVE, Run, create_run, get_run, transition
from storage.settings import cpu_slots

FINISHED, FAILED, REFUSED, STOPPED = 0, 1, 2, 75  # exit codes
HEADLINE = "reward/heldout_greedy"
_LAST_WORDS = 30.0  # seconds for the process of an earlier start, whose run has ended, to end as well
_BUSY_PATIENCE = 150.0  # seconds in which a start is tried again while another process writes to the database
_CODES = {"finished": FINISHED, "stopped": STOPPED, "paused": STOPPED, "failed": FAILED}
# What a process can do, by the knob `job`: a function (config, folder, listener, warm_start_cache) -> Outcome, named
# and not imported here, because most load torch. A new one needs its name in JOBS of bgpo/config.py, too.
JOBS = {
    "train": "bgpo.training.trainer:run", "finetune": "bgpo.training.finetune:run", "probe": "bgpo.training.probe:run",
    "evaluate": "bgpo.training.assess:run",
}


class Refused(Exception):
    """The command asks for something that cannot be done; the message is a sentence for a person."""


ABORTED = End("stopped", "Ended at once by a second Ctrl-C; Resume goes on from the newest checkpoint.")


def main(argv: list[str] | None = None) -> int:
    """Parses the command line, trains, returns the exit code."""
    arguments = _parser().parse_args(argv)
    # from before there is a row: a Ctrl-C in the first second must not leave one that says running
    with StopSignals() as signals:
        try:
            under_runner = os.environ.get(runner.RUNNER_PID) == str(os.getppid())
            db, run = _find_run(arguments, under_runner)
            lock = None if under_runner else _lock(run)
            run = _take_up(db, run, under_runner)
            if not under_runner:
                _lease(db, run)
        except (Refused, ConfigError, StorageError) as error:
            print(f"{Path(sys.argv[0]).stem}: {one_line(error)}", file=sys.stderr)
            return REFUSED
        try:
            return _work(db, run, signals, in_terminal=not under_runner, as_json=arguments.json)
        finally:
            db.close()
            if lock:
                lock.close()
            _let_output_go()


def _let_output_go() -> None:
    """Drops what a full disk does not take of the log: Python would try it again at exit, and exit with 120."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


class StopSignals:
    """SIGTERM and the first Ctrl-C ask for a stop with a checkpoint, the second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self._asked = False
        self._stop: Callable[[], None] = lambda: None
        self._conclude: Callable[[], None] = lambda: None

    def __enter__(self) -> StopSignals:
        self._before = {number: signal.signal(number, self._heard) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def attach(self, stop: Callable[[], None], conclude: Callable[[], None]) -> None:
        """What to do: `stop` asks (now, if a signal has come before), `conclude` writes the end of an aborted run."""
        self._stop, self._conclude = stop, conclude
        if self._asked:
            stop()

    def _heard(self, number: int, frame: Any) -> None:
        again, self._asked = self._asked, True  # first: the next signal may come in the middle of this one
        if number == signal.SIGINT and again:
            # KeyboardInterrupt would be lost if it came while a weak reference's callback runs
            threading.Thread(target=self._abort, daemon=True).start()
            return
        if number == signal.SIGINT:
            # not through the narrator: the signal may have come while it holds its lock
            os.write(2, b"\nStopping with a checkpoint; press Ctrl-C again to end at once.\n")
        self._stop()

    def _abort(self) -> None:
        try:
            self._conclude()
        finally:
            os._exit(STOPPED)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One sentence; the usage of forty flags would push it off the screen."""
        self.exit(REFUSED, f"{self.prog}: {message}; see --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bgpo.jobs.worker", allow_abbrev=False,
        usage="%(prog)s [RUN_ID] [--preset NAME] [--KNOB VALUE ...] [--database URL] [--data-dir FOLDER] [--json]",
        description="Trains one run: that of a row (RUN_ID), or a new one from a preset and knobs. "
        "Ctrl-C stops it with a checkpoint; starting it again by its RUN_ID goes on from there.",
        epilog="Exit codes: 0 finished, 75 stopped or paused, 1 failed, 2 something wrong with what was asked.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN_ID", help="a run that is in the database")
    parser.add_argument(
        "--database", metavar="URL",
        help=f"such as sqlite:///runs.db (default: the environment variable {DATABASE_VARIABLE})",
    )
    parser.add_argument(
        "--data-dir", metavar="FOLDER", type=Path,
        help="where a new run keeps its log and checkpoints "
        "(default: beside the SQLite file, else the user's data folder)",
    )
    parser.add_argument("--name", help="what a new run is called")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line of stdout")
    add_config_arguments(parser)
    return parser


def _find_run(arguments: argparse.Namespace, under_runner: bool) -> tuple[Database, Run]:
    """The database and the row to work on, made here for a new run. Raises Refused, ConfigError, StorageError."""
    url = arguments.database or os.environ.get(DATABASE_VARIABLE)
    config = None
    if arguments.run_id is None:
        config = config_from_arguments(arguments)  # before the database: a wrong flag leaves no trace
    elif given_knobs(arguments) or arguments.preset:
        raise Refused("A run that exists keeps its config; give either RUN_ID or --preset and knobs, not both.")
    elif not arguments.run_id.isdecimal():
        raise Refused(f"{arguments.run_id!r} is not a run's id; give a number, such as 12, or --preset for a new run.")
    if not url:
        raise Refused(f"No database is given; add --database sqlite:///runs.db, or set {DATABASE_VARIABLE}.")
    # the app has already brought the schema up to date for its workers
    db = Database(url) if under_runner else open_database(url)
    if config is None:
        run = get_run(db, int(arguments.run_id))
        if not under_runner:  # the process of an earlier start may have been killed while no app was there to notice
            settle(db, run, time.time())
        return db, get_run(db, run.id)
    begin = origin_now(db, config)
    return db, create_run(
        db, name=arguments.name or default_name(config), config_json=begin.config.to_json(),
        train_steps=config.train_steps, runs_folder=data_folder(arguments.data_dir, db) / "runs", status="launching",
        who="terminal", parent_id=begin.parent_id, parent_step=begin.parent_step, device_kind=device_kind(config),
    )


def _lock(run: Run) -> IO[str]:
    folder = Path(run.folder)
    ending = run.status not in LIVE and runner.lock_state(folder) == "held"
    if ending:
        print(f"Waits for the last process of run {run.id} to end.", file=sys.stderr, flush=True)
    lock = runner.acquire_lock(folder, _LAST_WORDS) if ending else runner.acquire_lock(folder)
    if lock is None:
        raise Refused(f"Another process already works on run {run.id}.")
    return lock


def _take_up(db: Database, run: Run, under_runner: bool) -> Run:
    """The row says from here on that this process works on it. Raises Refused, ConfigError, StorageError."""
    begins = {} if under_runner else _settled_origin(db, run)
    allowed = ("launching",) if under_runner or run.status == "launching" else ("queued", "paused", "stopped", "failed")
    me = runner.Identity.of(os.getpid())
    if not under_runner:
        runner.forget_last_end(Path(run.folder))
    if not _when_not_busy(lambda: transition(
        db, run.id, allowed, "running", who="worker", phase="starting", phase_done=0, phase_total=0, phase_rate=None,
        pid=me.pid, process_started=me.started, boot_id=me.boot_id, **begins,
    )):  # fmt: skip
        raise Refused(f"Run {run.id} is {get_run(db, run.id).status}, so it cannot be started.")
    return get_run(db, run.id)


def _settled_origin(db: Database, run: Run) -> dict[str, Any]:
    """Columns of a run that waited for another one to end, as a scheduler would settle them. Raises ConfigError."""
    try:
        config = TrainConfig.from_json(run.config_json)
    except ConfigError:
        return {}  # said later, in the run's log
    if not config.start_from.startswith("run:"):
        return {}
    begin = origin_now(db, config)
    return {"config_json": begin.config.to_json(), "parent_id": begin.parent_id, "parent_step": begin.parent_step}


def _when_not_busy(write: Callable[[], bool]) -> bool:
    """Writes what no run can begin without, even if another process holds the database for minutes. Raises StorageError
    when it is still held then, and for anything else that is wrong."""
    until = time.monotonic() + _BUSY_PATIENCE
    while True:
        try:
            return write()
        except StorageError as error:
            if "locked" not in str(error.__cause__) or time.monotonic() > until:
                raise
            print(f"{one_line(error)} This one waits for it.", file=sys.stderr, flush=True)


class _Told(logging.Handler):
    """What parts of the trainer have to say, such as which sandbox runs programs, stands in the run's log."""

    def __init__(self, narrator: Narrator):
        super().__init__(logging.INFO)
        self._narrator = narrator

    def emit(self, record: logging.LogRecord) -> None:
        self._narrator.say(record.getMessage())


def _lease(db: Database, run: Run) -> None:
    """A device that is free counts as taken by this run; it does not wait for one, as a person wants it now."""
    offered = offer(cpu_slots(db), nvidia_gpus())
    lease_if_free(db, run, offered.gpu if offered.pool(run.device_kind) == "gpu" else offered.cpu)


def _work(db: Database, run: Run, signals: StopSignals, *, in_terminal: bool, as_json: bool) -> int:
    log_file = Path(run.folder) / runner.LOG if in_terminal else None
    narrator = Narrator(log_file, bars=in_terminal and sys.stderr.isatty())
    logging.getLogger("bgpo").addHandler(_Told(narrator))
    logging.getLogger("bgpo").setLevel(logging.INFO)
    reporter = Reporter(db, run, narrator)
    signals.attach(reporter.stop, lambda: _conclude(db, run, reporter, narrator, ABORTED, as_json))
    reporter.finally_do(Housekeeping(db, run, narrator.say).close)
    narrator.say(f"Run {run.id}, {run.name}" + (f", goes on from step {run.step}" if run.step else ""))
    config = None
    try:
        config = TrainConfig.from_json(run.config_json)
        reporter.mirror_to(mirror_of(config, run, narrator.say))
        end = _do(config, run, reporter)
    except BaseException as error:  # SystemExit ends a run as well
        end = failed(error, reporter.step, config)
        narrator.file_only("".join(traceback.format_exception(error)))
    _conclude(db, run, reporter, narrator, with_disk_words(db, run, end), as_json)
    return _CODES[end.status]


def _do(config: TrainConfig, run: Run, reporter: Reporter) -> End:
    folder = Path(run.folder)
    (folder / "config.json").write_text(config.to_json())
    runner.keep_room(folder)
    if reporter.should_stop():
        return _stopped(reporter, "before it began; Resume starts it.")
    reporter.watch(Health(config))
    reporter.patience(config.stalled_after)
    # threads that wait should sleep: spinning ones starve each other on a machine that does something else as well
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    job = pkgutil.resolve_name(JOBS[config.job])  # torch: seconds, in which the heartbeat goes and Stop is heard
    if reporter.should_stop():
        return _stopped(reporter, "before it began; Resume starts it.")
    outcome = job(config, folder, reporter, folder.parent.parent / "warm_starts")
    if outcome.status == "stopped":
        return _stopped(reporter, f"at step {outcome.step} of {config.train_steps}; Resume goes on from there.")
    return End(outcome.status)


def _stopped(reporter: Reporter, where: str) -> End:
    """Stopped, or paused if that is what somebody asked for."""
    status = "paused" if reporter.requested in ("pause", "pause_overdue") else "stopped"
    return End(status, f"{status.capitalize()} {where}")


def _conclude(db: Database, run: Run, reporter: Reporter, narrator: Narrator, end: End, as_json: bool) -> None:
    """The end into the folder, the points and the end into the database, the last words.

    When the database does not take the end, the scheduler reads it from the folder.
    """
    result = {"status": end.status, "reason": end.reason, "kind": end.kind, "step": reporter.step}
    try:
        runner.write_last_word(Path(run.folder), result)
    except OSError as error:
        narrator.say(f"result.json could not be written ({error.strerror}).")
    complete = reporter.close()
    seconds = reporter.seconds()
    narrator.say(f"{end.status.capitalize()} after {seconds:.0f} s. {end.reason}".rstrip())
    if not complete:
        narrator.say("Some points are still in spool.jsonl; the app writes them when the database is back.")
    try:
        conclude(db, run, end, who="worker", seconds=seconds)
    except StorageError as error:
        narrator.say(f"The end could not be stored ({one_line(error)}); the app will find it in the run's folder.")
    narrator.close()
    if as_json:
        print(json.dumps(_summary(db, run, seconds, end)), flush=True)


def _summary(db: Database, run: Run, seconds: float, end: End) -> dict[str, Any]:
    """What --json prints; `first` and `last` are of the held-out greedy reward, over all resumes."""
    first = last = None
    try:
        points, cursor = points_after(db, run.id, 0)
        values: dict[int, float | None] = {}
        while points:
            values |= {point.step: point.value for point in points if point.metric == HEADLINE}
            points, cursor = points_after(db, run.id, cursor)
        first, last = (values[min(values)], values[max(values)]) if values else (None, None)
    except StorageError:
        pass  # the status and the seconds are known without it
    return {
        "run_id": run.id, "status": end.status, "seconds": round(seconds, 1), "metric": HEADLINE,
        "first": first, "last": last, "reason": end.reason, "folder": run.folder,
    }


if __name__ == "__main__":
    sys.exit(main())
