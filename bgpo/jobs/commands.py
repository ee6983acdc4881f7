"""The command line of the runs: `python -m bgpo.jobs list | start | stop | ...`, with or without the app.

It writes the same rows as the pages do; whichever app is on the database acts on them. `start --here` needs no app:
the run then computes in this terminal.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import archive, control, logs, queueing, repair, sweeps
from bgpo.jobs.command import (
    DATABASE_VARIABLE,
    add_config_arguments,
    config_from_arguments,
    data_folder,
    given_knobs,
)
from bgpo.jobs.control import ControlError
from bgpo.jobs.ends import one_line
from bgpo.jobs.lineage import going_on, origin_now, reference
from bgpo.jobs.times import parse_time, time_words
from storage.database import Database, StorageError, open_database, sqlite_url
from storage.queue import queued_runs
from storage.runs import STATUSES, Run, RunNotFound, get_run, list_runs
from storage.settings import app_seen, pause_queue, queue_paused

DONE, FAILED, REFUSED, NOT_FOUND, NOT_NOW = 0, 1, 2, 3, 4  # exit codes
CODES = (
    "Exit codes: 0 done; 1 the run failed (--here); 2 something wrong with what was asked; 3 there is no such run; "
    "4 not possible in the run's present state; 75 the run was stopped (--here)."
)
APP_SILENCE = 30.0  # seconds since an app's last sign of life after which none counts as running


class Refused(Exception):
    """The command asks for something that cannot be done; the message is a sentence for a person."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Carries out one command and returns its exit code."""
    given = _parser().parse_args(arguments)
    if given.act is _repair:
        return _repair(given)
    try:
        db = open_database(given.database or sqlite_url(data_folder(given.data_dir) / "bgpo.db"))
    except StorageError as error:
        return _refuse(error, REFUSED)
    try:
        return given.act(db, given)
    except RunNotFound as error:
        return _refuse(error, NOT_FOUND)
    except ControlError as error:
        return _refuse(error, NOT_FOUND if isinstance(error.__cause__, RunNotFound) else NOT_NOW)
    except (Refused, ConfigError, StorageError, sweeps.SweepError, archive.ArchiveError) as error:
        return _refuse(error, REFUSED)
    finally:
        db.close()


def _refuse(error: Exception, code: int) -> int:
    print(f"bgpo.jobs: {one_line(error)}", file=sys.stderr)
    return code


# ---- what can be done


def _list(db: Database, given: argparse.Namespace) -> int:
    runs = [run for run in list_runs(db) if given.status in (None, run.status)]
    _show(runs, given, time.time())
    return DONE


def _start(db: Database, given: argparse.Namespace) -> int:
    config = config_from_arguments(given)
    return _submit(db, config, given)


def _fork(db: Database, given: argparse.Namespace) -> int:
    """A run with the config of another one, from one of its checkpoints."""
    if given.preset:
        raise Refused("A fork has the config of its run; leave out --preset and name the knobs that differ.")
    run_id, _, step = given.run.partition("@")
    parent = get_run(db, _id(run_id))
    config = TrainConfig.from_json(parent.config_json)
    return _submit(db, going_on(config, reference(parent.id, step or "newest"), **given_knobs(given)), given)


def _evaluate(db: Database, given: argparse.Namespace) -> int:
    run_id, _, step = given.run.partition("@")
    runs_folder = data_folder(given.data_dir, db) / "runs"
    _show([control.evaluate(db, _id(run_id), runs_folder, step)], given, time.time())
    _say_who_starts(db)
    return DONE


def _submit(db: Database, config: TrainConfig, given: argparse.Namespace) -> int:
    runs_folder = data_folder(given.data_dir, db) / "runs"
    if given.evaluate:
        control.measuring(config, 0)  # of a run that has no number yet: says what is wrong before one is queued
    place = {"priority": queueing.PRIORITIES[given.priority], "after_id": given.after, "start_at": _time(given.at)}
    if given.sweep:
        if given.here:
            raise Refused("A sweep is many runs, and a terminal holds one; leave out --here.")
        lines = "\n".join(given.sweep)
        runs = sweeps.launch(db, config, lines, given.samples, runs_folder, given.name or "", **place)
    elif given.here:
        _refuse_later(given, place)
        origin_now(db, config)  # before there is a row
        # paused: no app takes it in the moment before it begins here
        run = control.submit(db, config, runs_folder, given.name, status="paused")
        return _here(db, run.id, given)
    else:
        runs = [control.submit(db, config, runs_folder, given.name, **place)]
    if given.evaluate:
        runs += [control.evaluate(db, run.id, runs_folder) for run in runs]
    _show(runs, given, time.time())
    _say_who_starts(db)
    return DONE


def _refuse_later(given: argparse.Namespace, place: dict[str, Any]) -> None:
    """Raises Refused where --here, which is now, meets a wish for later."""
    if given.evaluate:
        raise Refused("What computes here is evaluated by a command of its own when it has ended: evaluate RUN.")
    flags = {"start_at": "--at", "after_id": "--after", "priority": "--priority"}
    named = [flags[name] for name, wish in place.items() if wish not in (None, queueing.PRIORITIES["normal"])]
    if named:
        raise Refused(f"What computes here begins at once; leave out --here or {', '.join(named)}.")


def _here(db: Database, run_id: int, given: argparse.Namespace) -> int:
    from bgpo.jobs import worker

    return worker.main([str(run_id), "--database", db.url, *(["--json"] if given.json else [])])


def _resume(db: Database, given: argparse.Namespace) -> int:
    if given.here:
        if len(given.runs) != 1:
            raise Refused("One run at a time can go on in a terminal; give one, or leave out --here.")
        return _here(db, get_run(db, given.runs[0]).id, given)
    code = _each(control.resume)(db, given)
    _say_who_starts(db)
    return code


def _each(act: Callable[[Database, int], Run | None]) -> Callable[[Database, argparse.Namespace], int]:
    """Does the same with every run that is named; the first that cannot be done ends it."""

    def acts(db: Database, given: argparse.Namespace) -> int:
        for run_id in given.runs:
            get_run(db, run_id)  # all of them exist, or nothing is done
        _show([run for run_id in given.runs if (run := act(db, run_id))], given, time.time())
        return DONE

    return acts


def _remove(db: Database, given: argparse.Namespace) -> int:
    runs = [get_run(db, run_id) for run_id in given.runs]
    if not given.yes:
        if not sys.stdin.isatty():
            raise Refused("Deleting cannot be undone; add --yes to mean it.")
        names = ", ".join(f"{run.id} ({run.name})" for run in runs)
        if input(f"Delete {names}, with curves, log and checkpoints? [y/N] ").strip().lower() not in ("y", "yes"):
            return DONE
    for run in sorted(runs, key=lambda run: -run.id):  # what starts from another run is younger, and goes first
        control.delete(db, run.id, given.runs)
    if given.json:
        print(json.dumps([{"id": run.id, "deleted": True} for run in runs]))
    return DONE


def _queue(db: Database, given: argparse.Namespace) -> int:
    if given.what in ("pause", "go"):
        pause_queue(db, given.what == "pause")
    elif given.what == "move":
        if len(given.values) != 2:
            raise Refused("Give a run and its new place, such as: queue move 12 1.")
        queueing.move_to(db, _id(given.values[0]), _id(given.values[1]))
    elif given.what == "plan":
        if len(given.values) != 1:
            raise Refused("Give one run, such as: queue plan 12 --at 22:30.")
        queueing.plan_start(db, _id(given.values[0]), **_wishes(given))
    if queue_paused(db) and not given.json:
        print("The queue is paused; `queue go` lets it go on.")
    _show([get_run(db, run_id) for run_id in queued_runs(db)], given, time.time())
    return DONE


def _wishes(given: argparse.Namespace) -> dict[str, Any]:
    wishes: dict[str, Any] = {}
    if given.at is not None:
        wishes["start_at"] = _time(given.at)
    if given.after is not None:
        wishes["after_id"] = given.after or None
    if given.priority is not None:
        wishes["priority"] = queueing.PRIORITIES[given.priority]
    return wishes


def _log(db: Database, given: argparse.Namespace) -> int:
    for line in logs.tail(Path(get_run(db, given.run).folder), given.lines):
        print(line)
    return DONE


def _export(db: Database, given: argparse.Namespace) -> int:
    target = (given.file or Path(f"run-{given.run}.zip")).absolute()
    written = archive.export_run(db, given.run, target, given.checkpoints)
    print(json.dumps({"id": given.run, "file": str(written)}) if given.json else written)
    return DONE


def _import(db: Database, given: argparse.Namespace) -> int:
    runs_folder = data_folder(given.data_dir, db) / "runs"
    _show([archive.import_run(db, given.file, runs_folder)], given, time.time())
    return DONE


def _repair(given: argparse.Namespace) -> int:
    """Without the database: it may be one that cannot be opened."""
    try:
        path = Database(given.database or sqlite_url(data_folder(given.data_dir) / "bgpo.db")).path
        if path is None:
            raise Refused("Only SQLite files are repaired here; PostgreSQL has means of its own.")
        runs_folder = (data_folder(given.data_dir) if given.data_dir else path.parent) / "runs"
        report = repair.repair(path, runs_folder, lambda text: print(text, file=sys.stderr))
    except (Refused, StorageError) as error:
        return _refuse(error, REFUSED)
    except repair.RepairError as error:
        return _refuse(error, NOT_NOW)
    print(repair.as_json(report, path) if given.json else repair.words(report, path))
    return DONE


# ---- words


def _show(runs: Sequence[Run], given: argparse.Namespace, now: float) -> None:
    if given.json:
        print(json.dumps([_row(run) for run in runs]))
        return
    for run in runs:
        print(f"{run.id:>5}  {_status(run, now):<22} {run.step:>6} / {run.train_steps:<6} {run.name}")
        if run.reason and run.status in ("failed", "queued"):
            print(f"{'':7}{run.reason}")


def _status(run: Run, now: float) -> str:
    if run.status == "queued" and run.start_at and run.start_at > now:
        return f"queued, {time_words(run.start_at, now)}"
    if run.status == "queued":
        after = f", after run {run.after_id}" if run.after_id else ""
        return f"queued, no. {run.queue_position}{after}"
    return f"{run.status}, asked to {run.requested.removesuffix('_overdue')}" if run.requested else run.status


def _row(run: Run) -> dict[str, Any]:
    names = (
        "id", "name", "status", "phase", "step", "train_steps", "seconds", "reason", "failure_kind", "requested",
        "parent_id", "parent_step", "sweep_id", "priority", "start_at", "after_id", "queue_position", "folder",
        "created_at", "started_at", "finished_at",
    )  # fmt: skip
    return {name: getattr(run, name) for name in names} | {"config": json.loads(run.config_json)}


def _say_who_starts(db: Database) -> None:
    if time.time() - app_seen(db) > APP_SILENCE:
        print(
            "No app is running on this database: it starts when `python app.py` does, or now with --here.",
            file=sys.stderr,
        )


def _time(text: str | None) -> float | None:
    try:
        return parse_time(text or "", time.time())
    except ValueError as error:
        raise Refused(str(error)) from None


def _id(text: str) -> int:
    if not (text.isdecimal() and len(text) < 10):
        raise Refused(f"{text[:40]!r} is not a run's number; give one, such as 12.")
    return int(text)


# ---- the arguments


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One sentence; the usage of forty flags would push it off the screen."""
        self.exit(REFUSED, f"{self.prog}: {message}; see --help.\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m bgpo.jobs", description="Everything that can be done with runs.", epilog=CODES,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def command(name: str, help: str, act: Callable[[Database, argparse.Namespace], int]) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, epilog=CODES, allow_abbrev=False)
        made.add_argument("--database", metavar="URL", default=os.environ.get(DATABASE_VARIABLE),
                          help=f"such as sqlite:///runs.db (default: {DATABASE_VARIABLE}, else the app's own)")
        made.add_argument("--data-dir", metavar="FOLDER", type=Path, help="the app's (default: as the app's)")
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(act=act)
        return made

    def runs(made: argparse.ArgumentParser) -> argparse.ArgumentParser:
        made.add_argument("runs", nargs="+", type=int, metavar="RUN")
        return made

    command("list", "List the runs, newest first.", _list).add_argument("--status", choices=STATUSES)
    start = command("start", "Queue a run of a preset and knobs, or many as a sweep.", _start)
    _add_place(start)
    add_config_arguments(start)
    fork = command("fork", "Queue a run from another one's checkpoint, with its config and other knobs.", _fork)
    fork.add_argument("run", metavar="RUN[@STEP]", help="12 (its newest checkpoint), 12@40 or 12@best")
    _add_place(fork)
    add_config_arguments(fork)
    measure = command("evaluate", "Queue an evaluation of a run: now, or when it ends, if it goes on.", _evaluate)
    measure.add_argument("run", metavar="RUN[@STEP]", help="12 (its best checkpoint), 12@40 or 12@newest")
    runs(command("stop", "Ask runs to save a checkpoint and end.", _each(control.stop)))
    runs(command("pause", "Ask runs to save a checkpoint and wait until they are resumed.", _each(control.pause)))
    runs(command("kill", "End runs at once, without a checkpoint.", _each(control.kill)))
    resume = runs(command("resume", "Queue paused, stopped or failed runs again.", _resume))
    resume.add_argument("--here", action="store_true", help="go on in this terminal")
    remove = runs(command("rm", "Delete runs: rows, logs, checkpoints.", _remove))
    remove.add_argument("--yes", action="store_true", help="without a question")
    _add_queue(command("queue", "Show the queue, pause it, let it go on, move a run, plan a start.", _queue))
    log = command("log", "The last lines of a run's log.", _log)
    log.add_argument("run", type=int, metavar="RUN")
    log.add_argument("--lines", type=int, default=40, metavar="N")
    out = command("export", "Write a run to one file: config, curves, completions, checkpoints.", _export)
    out.add_argument("run", type=int, metavar="RUN")
    out.add_argument("file", type=Path, nargs="?", metavar="FILE", help="(default: run-RUN.zip here)")
    out.add_argument("--checkpoints", choices=archive.CHOICES, default="best_and_last")
    command("repair", "Make a damaged or missing database whole again from what can be read.", _repair)
    come = command("import", "Make a run of a file that export wrote.", _import)
    come.add_argument("file", type=Path, metavar="FILE")
    return parser


def _add_place(made: argparse.ArgumentParser) -> None:
    made.add_argument("--name", help="what the run is called")
    made.add_argument("--here", action="store_true", help="compute in this terminal instead of queueing")
    made.add_argument("--priority", choices=queueing.PRIORITIES, default="normal")
    made.add_argument("--at", metavar="TIME", help="not before: 22:30, tomorrow 7:00, 2026-11-26 02:00, in 90 min")
    made.add_argument("--after", metavar="RUN", type=int, help="not before that run has ended")
    made.add_argument("--evaluate", action="store_true", help="and evaluate its best checkpoint when it ends")
    made.add_argument("--sweep", metavar="'KNOB = A, B'", action="append",
                      help="a knob's values or range (1e-5..1e-3 log); once per knob, every combination is a run")
    made.add_argument("--samples", metavar="N", type=int, default=0, help="draw so many combinations instead of all")


def _add_queue(made: argparse.ArgumentParser) -> None:
    made.add_argument("what", nargs="?", choices=("show", "pause", "go", "move", "plan"), default="show")
    made.add_argument("values", nargs="*", metavar="RUN [PLACE]")
    made.add_argument("--priority", choices=queueing.PRIORITIES)
    made.add_argument("--at", metavar="TIME", help="for plan: not before this time; now for at once")
    made.add_argument("--after", metavar="RUN", type=int, help="for plan: not before that run has ended; 0 for none")
