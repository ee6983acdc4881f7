"""A damaged or missing database: the file is kept, a new one is made of what can be read and of the runs' folders.

    python -m bgpo.jobs repair

1. A copy of the file with its write-ahead log is put aside under its own name and `.damaged-TIME`; it is never changed.
2. A new file beside it takes every row that can be read (`storage.salvage`), of the newest sound backup where the
   file has no readable table at all.
3. Runs that have a folder and no row are registered from what they keep there: config, log, result, checkpoints and
   points that wait in their spool. Where their curves are lost, their weights are not: Resume goes on from the newest.
4. The new file takes the place of the old one in one step. Whatever ends the repair before leaves everything as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import control, runner
from bgpo.jobs.reporter import replay_spool
from bgpo.jobs.unlisted import list_checkpoints, saved_in, whole_number
from storage.database import Database, open_database, sqlite_url
from storage.imports import adopt_run
from storage.runs import ENDED, Run, list_runs
from storage.salvage import Wreck, is_sound, salvage_rest, salvage_runs

_SIDES = ("", "-wal", "-shm")  # the files of one database
_REPAIRED = ".repaired"
_RUN_FOLDER = re.compile(r"(\d{1,9})(-\d{1,9})?")
_FIRST_LINE = re.compile(r"Run \d+, (.+?)(, goes on from step \d+)?$", re.MULTILINE)
Say = Callable[[str], None]


class RepairError(Exception):
    """Why nothing can be repaired now, in a sentence; nothing was changed."""


@dataclass
class Report:
    """What a repair has found.

    Attributes:
        sound: there was nothing wrong with the file.
        kept: where the damaged file is now; None if there was none.
        rows: how many rows could be read, by table.
        holes: places of the file at which rows are missing.
        backup: the copy that the rows come from, where the file itself gave none.
        adopted: runs that were registered from their folders; renamed: those of them under a new number.
    """

    sound: bool = False
    kept: Path | None = None
    rows: dict[str, int] = field(default_factory=dict)
    holes: int = 0
    backup: Path | None = None
    adopted: list[int] = field(default_factory=list)
    renamed: list[int] = field(default_factory=list)


def repair(path: Path, runs_folder: Path, say: Say = lambda text: None) -> Report:
    """Makes `path` a whole database again; raises RepairError where that is not possible now."""
    _refuse_while_used(path, runs_folder)
    _finish_last_time(path)
    if path.exists() and is_sound(path):
        with closing(open_database(sqlite_url(path))) as db:
            report = Report(sound=True, rows={"run": len(list_runs(db))})
            _complete(db, _adopt(db, runs_folder, report, say), say)
            return report
    report = Report(kept=_put_aside(path) if path.exists() else None)
    new = path.with_name(path.name + ".repairing")
    _remove(new)
    try:
        with closing(open_database(sqlite_url(new))) as db:
            _fill(db, path, runs_folder, report, say)
        if not is_sound(new):  # a disk that damages files damages new ones as well
            raise RepairError(f"The new file {new} is damaged, too; look at the disk that holds it.")
        os.replace(new, path.with_name(path.name + _REPAIRED))
    finally:
        _remove(new)
    _finish_last_time(path)
    return report


def strangers(db: Database, runs_folder: Path) -> list[Path]:
    """Folders of runs, with a config, that no row of the database names."""
    known = {run.folder for run in list_runs(db)}
    return [folder for folder in run_folders(runs_folder) if str(folder) not in known]


def run_folders(runs_folder: Path) -> list[Path]:
    """The folders of runs that have begun, oldest number first."""
    with suppress(OSError):
        named = [path for path in runs_folder.absolute().iterdir() if _RUN_FOLDER.fullmatch(path.name)]
        begun = [path for path in named if not path.is_symlink() and (path / "config.json").is_file()]
        return sorted(begun, key=lambda path: [int(part) for part in path.name.split("-")])
    return []


# ---- the file


def _refuse_while_used(path: Path, runs_folder: Path) -> None:
    for folder in run_folders(runs_folder):
        if runner.lock_state(folder) == "held":
            raise RepairError(f"A process still works on the run in {folder}; stop it, then repair.")
    mine = os.getpid()
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != mine and any(file.path == str(path) for file in process.open_files()):
                raise RepairError(f"Process {process.pid} ({process.name()}) has {path} open; end it, then repair.")


def _put_aside(path: Path) -> Path:
    """A copy of the file and its log, under a name of its own; the originals stay as they are."""
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    there = [(Path(f"{path}{side}"), Path(f"{kept}{side}")) for side in _SIDES]
    there = [(source, target) for source, target in there if source.exists()]
    size = sum(source.stat().st_size for source, _ in there)
    free = shutil.disk_usage(path.parent).free
    if free < 3 * size:  # the copy, the new file and its log
        raise RepairError(
            f"{path} has {size / 1e9:.2f} GB, and a repair needs three times that where {free / 1e9:.2f} GB are free; "
            "free some space, then repair."
        )
    for source, target in there:
        shutil.copy2(source, target)
    return kept


def _finish_last_time(path: Path) -> None:
    """Puts a repaired file in its place; what stood there has a copy aside. Goes on where an earlier try was ended."""
    repaired = path.with_name(path.name + _REPAIRED)
    if repaired.exists():
        for side in _SIDES[1:]:  # a log that does not belong to the new file would be written into it
            Path(f"{path}{side}").unlink(missing_ok=True)
        os.replace(repaired, path)


def _remove(path: Path) -> None:
    for side in (*_SIDES, ".lock"):
        Path(f"{path}{side}").unlink(missing_ok=True)


def _fill(db: Database, path: Path, runs_folder: Path, report: Report, say: Say) -> None:
    source = _readable(path, report)
    if source is None:
        _complete(db, _adopt(db, runs_folder, report, say), say)
        return
    say(f"Reading {source.name} ...")
    with closing(Wreck(source)) as wreck:
        rows = salvage_runs(wreck, db)
        adopted = _adopt(db, runs_folder, report, say)
        report.rows = salvage_rest(wreck, db, rows, set(report.adopted) - set(report.renamed))
        report.holes = wreck.holes
    _complete(db, adopted, say)


def _readable(path: Path, report: Report) -> Path | None:
    """The damaged file, if its runs' table can be opened, else the newest sound copy; None if there is neither."""
    if report.kept is not None:
        with closing(Wreck(report.kept)) as wreck:
            if wreck.columns("run"):
                return report.kept
    report.backup = next(_backups(path), None)
    return report.backup


def _backups(path: Path) -> Iterator[Path]:
    """Copies that were made before a change of the schema, the newest first, if SQLite finds no fault in them."""
    copies = path.parent.glob(f"{path.name}.schema-*.backup")
    return filter(is_sound, sorted(copies, key=lambda copy: copy.stat().st_mtime, reverse=True))


# ---- the folders


def _adopt(db: Database, runs_folder: Path, report: Report, say: Say) -> list[Run]:
    """Rows for the folders that have none, under their old numbers where these are free."""
    adopted = []
    for folder in strangers(db, runs_folder):
        try:
            adopted.append(_adopt_one(db, folder, report))
        except (ConfigError, OSError) as error:
            say(f"The run in {folder} cannot be registered ({' '.join(str(error).split())[:300]}).")
    report.adopted = [run.id for run in adopted]
    return adopted


def _adopt_one(db: Database, folder: Path, report: Report) -> Run:
    text = (folder / "config.json").read_text(encoding="utf-8", errors="replace")
    config = TrainConfig.from_json(text)
    number, taken = int(folder.name.split("-")[0]), {run.id for run in list_runs(db)}
    if number in taken:
        number = max(taken) + 1
        folder = _renumber(folder, number)
        report.renamed.append(number)
    newest = next((state for _, state in reversed(saved_in(folder))), {})
    row = _result(folder) | {
        "created_at": (folder / "config.json").stat().st_mtime, "step": whole_number(newest.get("step")),
        "seconds": float(whole_number(newest.get("seconds"))),
    }
    return adopt_run(
        db, number, str(folder), name=_name(folder, config), config_json=config.to_json(),
        train_steps=config.train_steps, why="registered again from its folder", **row,
    )


def _complete(db: Database, adopted: list[Run], say: Say) -> None:
    """Checkpoints that no row names, and the points that wait in the folders."""
    for run in adopted:
        list_checkpoints(db, run)
        replay_spool(db, run, say)


def _renumber(folder: Path, number: int) -> Path:
    """Its number is another run's: the folder gets that of its new row, which a deletion looks at."""
    target = folder.with_name(str(number))
    attempt = 1
    while target.exists():
        attempt += 1
        target = folder.with_name(f"{number}-{attempt}")
    return folder.rename(target)


def _result(folder: Path) -> dict[str, Any]:
    """How the run ended, by its own last word; stopped if there is none."""
    said = runner.read_json(folder / runner.RESULT) or {}
    if said.get("status") in (*ENDED, "paused"):
        when = (folder / runner.RESULT).stat().st_mtime
        return {"status": said["status"], "reason": str(said.get("reason", ""))[:2000], "finished_at": when,
                "failure_kind": str(said.get("kind", ""))[:40]}
    return {"status": "stopped", "reason": "Its row was lost with the database; Resume goes on from its newest "
            "checkpoint.", "finished_at": time.time()}


def _name(folder: Path, config: TrainConfig) -> str:
    """What the run was called, as the first line of its log says."""
    with suppress(OSError), open(folder / runner.LOG, encoding="utf-8", errors="replace") as log:
        said = _FIRST_LINE.search(log.read(100_000))
        if said:
            return said[1][: control.NAME_LIMIT]
    return control.default_name(config)


def words(report: Report, path: Path) -> str:
    """The report as a few lines for a person."""
    adopted = f"{len(report.adopted)} runs were registered from their folders." if report.adopted else ""
    if report.sound:
        return f"{path} is sound, with {report.rows['run']} runs in it. {adopted}".strip()
    rows = report.rows
    read = f"{rows.get('run', 0)} runs, {rows.get('point', 0)} points of curves and {rows.get('rollout', 0)} rollouts"
    lines = [f"{path} is whole again: {read} were read from {report.backup.name if report.backup else 'the old file'}."
             if rows else f"{path} is new: no rows could be read."]
    if report.holes:
        lines.append(f"Rows are missing at {report.holes} places of the old file.")
    if report.kept:
        lines.append(f"The damaged file is kept as {report.kept}.")
    return "\n".join([*lines, *([adopted] if adopted else []), "Start the app again."])


def as_json(report: Report, path: Path) -> str:
    """The report for a script."""
    kept, backup = (str(item) if item else None for item in (report.kept, report.backup))
    return json.dumps({
        "database": str(path), "sound": report.sound, "kept": kept, "backup": backup, "rows": report.rows,
        "holes": report.holes, "adopted": report.adopted,
    })  # fmt: skip
