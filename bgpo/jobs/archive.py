"""A run as one file: config, curves, completions, rollouts with traces, events, alerts, log, chosen checkpoints.

    manifest.json            what this is, and how many rows each table has
    run.json  config.json    the row and the knobs
    points.jsonl  completions.jsonl  rollouts.jsonl  alerts.jsonl  events.jsonl  checkpoints.jsonl
    log.txt  code/*.py  checkpoints/step-000060/*  base/*, the model under adapters, or where it is

An archive comes from anywhere: nothing in it is run, no name in it leads out of the new run's folder, and it is
either imported whole or leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from sqlalchemy.exc import StatementError

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import runner
from bgpo.models.folders import BASE_FOLDER
from storage.alerts import Alert, alerts_of
from storage.checkpoints import KINDS, Checkpoint, add_checkpoint, checkpoints_of, pin_checkpoint
from storage.completions import Completion, completions_of
from storage.database import Database, StorageError
from storage.imports import KEPT, add_events, complete_import
from storage.metrics import Point, flush, points_after
from storage.rollouts import Rollout, whole_rollouts
from storage.runs import ENDED, Run, RunEvent, create_run, delete_run, get_run, run_events

FORMAT, VERSION = "bgpo-run", 1
CHOICES = ("none", "best", "best_and_last", "all")  # which checkpoints go with it
LARGEST = 64 * 2**30  # bytes of all files together
LARGEST_ROW = 64 * 2**20  # bytes of one line
_MOST_FILES = 200_000
_RATIO = 500  # times that a file may be larger than in the archive, beyond its first MB
_SPARE = 500e6  # bytes that stay free on the disk
_BATCH = 2_000  # rows
_TABLES = ("points", "completions", "rollouts", "alerts", "events", "checkpoints")
# what a checkpoint may be made of: no pickle, no code
_CHECKPOINT_FILE = re.compile(r"[\w.-]+\.(?:safetensors|json|txt|jinja|model|md)", re.ASCII)
_NAME = re.compile(
    rf"(?:manifest|run|config)\.json|(?:{'|'.join(_TABLES)})\.jsonl|log\.txt|code/\w+\.py"
    rf"|(?:checkpoints/[\w-]+|{BASE_FOLDER})/{_CHECKPOINT_FILE.pattern}", re.ASCII,
)
_CODE = "imported_code"  # where somebody else's objective or reward is put: to be read, never to be run
_HALF = "The import did not come to its end; delete this run and import the archive again."


class ArchiveError(ValueError):
    """What is wrong with an archive or an export, in a sentence."""


def export_run(db: Database, run_id: int, target: Path, checkpoints: str = "best_and_last") -> Path:
    """Writes the run to `target`, which appears whole or not at all.

    Raises RunNotFound, and ArchiveError for an unknown choice of checkpoints or a target that cannot be written.
    """
    if checkpoints not in CHOICES:
        raise ArchiveError(f"checkpoints = {checkpoints!r} is not known; choose one of {', '.join(CHOICES)}.")
    run = get_run(db, run_id)
    unfinished = target.with_name(target.name + f".{os.getpid()}.part")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
            _write(archive, db, run, _chosen(checkpoints_of(db, run_id), checkpoints))
        os.replace(unfinished, target)
    except OSError as error:
        raise ArchiveError(f"{target} cannot be written ({error.strerror or error}); choose another place.") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return target


def import_run(db: Database, archive: Path, runs_folder: Path, who: str = "user") -> Run:
    """A new run from an archive, with the name that it had; raises ArchiveError or StorageError and leaves nothing."""
    try:
        with zipfile.ZipFile(archive) as opened:
            manifest, row, config = _checked(opened, runs_folder)
            run = create_run(
                db, name=str(row["name"])[:200], config_json=config.to_json(), train_steps=config.train_steps,
                runs_folder=runs_folder, status="failed", who=who,
            )
            try:
                complete_import(db, run.id, "failed", {"reason": _HALF})  # until it is not
                Path(run.folder, "config.json").write_text(config.to_json())
                _read_files(opened, Path(run.folder))
                counts = _read_tables(opened, db, run)
                if counts != manifest["rows"]:
                    raise ArchiveError(f"{archive.name} holds {counts} rows, and its manifest says {manifest['rows']};"
                                       " it is damaged, export the run again.")
                status = row["status"] if row["status"] in ENDED else "stopped"
                complete_import(db, run.id, status, {name: row.get(name) for name in KEPT})
            except BaseException:
                delete_run(db, run.id)
                shutil.rmtree(run.folder, ignore_errors=True)
                raise
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zipfile.LargeZipFile) as error:
        raise ArchiveError(f"{archive.name} is no whole archive of a run ({error}); export it again.") from error
    except OSError as error:
        raise ArchiveError(f"{archive.name} cannot be read or unpacked ({error.strerror or error}).") from error
    return get_run(db, run.id)


# ---- writing

def _write(archive: zipfile.ZipFile, db: Database, run: Run, chosen: list[Checkpoint]) -> None:
    rows: dict[str, Iterable[dict[str, Any]]] = {
        "points": (point._asdict() for point in _all_points(db, run.id)),
        "completions": map(asdict, completions_of(db, run.id)),
        "rollouts": map(asdict, _all_rollouts(db, run.id)),
        "alerts": map(asdict, alerts_of(db, run.id)),
        "events": map(asdict, run_events(db, run.id)),
        "checkpoints": [asdict(item) | {"folder": Path(item.folder).name} for item in chosen],
    }
    counts = {name: _write_rows(archive, name, rows[name]) for name in _TABLES}
    row = {name: getattr(run, name) for name in ("id", "name", "status", *KEPT)}
    archive.writestr("run.json", json.dumps(row))
    archive.writestr("config.json", run.config_json)
    folder = Path(run.folder)
    for path in [folder / runner.LOG, *sorted((folder / "code").glob("*.py"))]:
        if path.is_file():
            archive.write(path, path.relative_to(folder).as_posix())
    places = {f"checkpoints/{Path(item.folder).name}": Path(item.folder) for item in chosen}
    if chosen and (folder / BASE_FOLDER).is_dir():
        places[BASE_FOLDER] = folder / BASE_FOLDER
    for place, inside in places.items():
        for path in sorted(path for path in inside.iterdir() if _CHECKPOINT_FILE.fullmatch(path.name)):
            # weights do not get smaller, and trying takes minutes
            archive.write(path, f"{place}/{path.name}", zipfile.ZIP_STORED)
    archive.writestr("manifest.json", json.dumps({"format": FORMAT, "version": VERSION, "rows": counts}))


def _write_rows(archive: zipfile.ZipFile, name: str, rows: Iterable[dict[str, Any]]) -> int:
    count = 0
    with archive.open(f"{name}.jsonl", "w", force_zip64=True) as file:
        for row in rows:
            file.write(json.dumps(row).encode() + b"\n")
            count += 1
    return count


def _all_points(db: Database, run_id: int) -> Iterator[Point]:
    points, cursor = points_after(db, run_id, 0)
    while points:
        yield from points
        points, cursor = points_after(db, run_id, cursor)


def _all_rollouts(db: Database, run_id: int) -> Iterator[Rollout]:
    rollouts, after = whole_rollouts(db, run_id)
    while rollouts:
        yield from rollouts
        rollouts, after = whole_rollouts(db, run_id, after)


def _chosen(checkpoints: list[Checkpoint], choice: str) -> list[Checkpoint]:
    there = [item for item in checkpoints if Path(item.folder).is_dir()]
    measured = [item for item in there if item.reward is not None]
    best = max(measured, key=lambda item: (item.reward, item.step), default=None)
    steps = {"none": set(), "best": {best}, "best_and_last": {best, *there[-1:]}, "all": set(there)}[choice]
    return [item for item in there if item in steps or (item.pinned and choice != "none")]


# ---- reading

def _checked(archive: zipfile.ZipFile, runs_folder: Path) -> tuple[dict[str, Any], dict[str, Any], TrainConfig]:
    """Manifest, row and config; raises ArchiveError before anything is made of it."""
    entries = archive.infolist()
    _refuse_dangers(entries, shutil.disk_usage(runs_folder).free)
    names = {entry.filename for entry in entries}
    missing = {"manifest.json", "run.json", "config.json", *(f"{name}.jsonl" for name in _TABLES)} - names
    if missing:
        raise ArchiveError(f"It is no archive of a run: {min(missing)} is missing.")
    manifest, row = (_json(archive, name) for name in ("manifest.json", "run.json"))
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ArchiveError(
            f"It is of format {manifest.get('format')!r}, version {manifest.get('version')!r}, and this BGPO Studio"
            f" reads {FORMAT!r}, version {VERSION}; export the run again with this one, or update this one."
        )
    if not isinstance(row.get("name"), str) or not isinstance(manifest.get("rows"), dict):
        raise ArchiveError("It is no archive of a run: the manifest or the run's row is not as it should be.")
    try:
        return manifest, row, TrainConfig.from_json(archive.read("config.json").decode("utf-8", "replace"))
    except ConfigError as error:
        raise ArchiveError(f"Its config cannot run here: {error}") from error


def _refuse_dangers(entries: list[zipfile.ZipInfo], free: float) -> None:
    if len(entries) > _MOST_FILES or len({entry.filename for entry in entries}) != len(entries):
        raise ArchiveError("It holds too many files, or one name twice; export the run again.")
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or not _NAME.fullmatch(name) or ".." in name:
            raise ArchiveError(
                f"It holds {name[:80]!r}, which has no place in the archive of a run; nothing was unpacked."
            )
        if entry.file_size > 2**20 and entry.file_size > _RATIO * max(1, entry.compress_size):
            raise ArchiveError(f"{name} would grow {_RATIO} times or more when unpacked; nothing was unpacked.")
    total = sum(entry.file_size for entry in entries)
    if total > min(LARGEST, free - _SPARE):
        room = max(0, min(LARGEST, free - _SPARE))
        raise ArchiveError(
            f"It needs {total / 1e9:.1f} GB unpacked, and {room / 1e9:.1f} GB may be used; free some space or export"
            " fewer checkpoints."
        )


def _read_files(archive: zipfile.ZipFile, folder: Path) -> None:
    for entry in archive.infolist():
        if entry.filename.startswith(("code/", "checkpoints/", f"{BASE_FOLDER}/")) or entry.filename == runner.LOG:
            target = folder / re.sub("^code/", f"{_CODE}/", entry.filename)
            target.parent.mkdir(parents=True, exist_ok=True)
            # `open` checks the sum, and gives no more than the size that was looked at
            with archive.open(entry) as source, target.open("xb") as file:
                shutil.copyfileobj(source, file, 2**20)


def _read_tables(archive: zipfile.ZipFile, db: Database, run: Run) -> dict[str, int]:
    """Every table into the run, in batches; how many rows each had."""
    writers: dict[str, tuple[type, Callable[[list[Any]], object]]] = {
        "points": (Point, lambda rows: flush(db, run.id, rows)),
        "completions": (Completion, lambda rows: flush(db, run.id, [], rows)),
        "rollouts": (Rollout, lambda rows: flush(db, run.id, [], rollouts=rows)),
        "alerts": (Alert, lambda rows: flush(db, run.id, [], alerts=rows)),
        "events": (RunEvent, lambda rows: add_events(db, run.id, rows)),
        "checkpoints": (Checkpoint, lambda rows: _add_checkpoints(db, run, rows)),
    }
    return {name: _read_rows(archive, name, *writers[name]) for name in _TABLES}


def _read_rows(archive: zipfile.ZipFile, name: str, kind: type, write: Callable[[list[Any]], object]) -> int:
    names = kind._fields if hasattr(kind, "_fields") else [field.name for field in fields(kind)]
    count, batch = 0, []
    try:
        with archive.open(f"{name}.jsonl") as file:
            while line := file.readline(LARGEST_ROW):
                values = json.loads(line)
                batch.append(kind(**{field: values[field] for field in names if field in values}))
                count += 1
                if len(batch) == _BATCH:
                    write(batch)
                    batch = []
        if batch:
            write(batch)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, StorageError, StatementError) as error:
        if isinstance(error, ArchiveError):
            raise
        what = type(getattr(error, "orig", None) or error).__name__
        raise ArchiveError(f"Row {count} of {name}, or one before it, cannot be read ({what}).") from error
    return count


def _add_checkpoints(db: Database, run: Run, rows: list[Checkpoint]) -> None:
    for item in rows:
        folder = Path(run.folder, "checkpoints", str(item.folder))
        if not re.fullmatch(r"[\w-]+", str(item.folder), re.ASCII) or not folder.is_dir() or item.kind not in KINDS:
            raise ArchiveError(f"The checkpoint of step {item.step!r} is not in the archive; export the run again.")
        added = add_checkpoint(db, run.id, item.step, item.kind, str(folder), item.reward)
        pin_checkpoint(db, run.id, added.id, bool(item.pinned))


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        if archive.getinfo(name).file_size < 2**20 and isinstance(value := json.loads(archive.read(name)), dict):
            return value
    raise ArchiveError(f"{name} cannot be read; it is no archive of a run, or a damaged one.")
