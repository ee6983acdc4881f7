"""A run as one file: config, curves, completions, rollouts with traces, events, alerts, log, chosen checkpoints.

    manifest.json            what this is, and how many rows each table has
    run.json  config.json    the row and the knobs
    points.jsonl  completions.jsonl  rollouts.jsonl  alerts.jsonl  events.jsonl  checkpoints.jsonl
    log.txt  code/*.py  checkpoints/step-000060/*  base/*, the model under adapters, or where it is

An archive comes from anywhere: nothing in it is run, no name in it leads out of the new run's folder, no value in it
is one that a page could not show, and it is either imported whole or leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy.exc import StatementError

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import runner
from bgpo.jobs.control import NAME_LIMIT, default_name
from bgpo.models.folders import BASE_FOLDER
from bgpo.tasks.own_file import IMPORTED_CODE, KEPT_CODE
from storage.alerts import Alert, alerts_of
from storage.checkpoints import KINDS, Checkpoint, add_checkpoint, checkpoints_of, pin_checkpoint
from storage.completions import Completion, completions_of
from storage.database import Database, OutOfRange
from storage.imports import KEPT, add_events, complete_import, kept_of, row_of
from storage.labels import plain_line
from storage.metrics import Point, flush, points_after
from storage.rollouts import Rollout, whole_rollouts
from storage.runs import ENDED, STATUSES, Run, RunEvent, create_run, delete_run, get_run, run_events

FORMAT, VERSION = "bgpo-run", 1
CHOICES = ("none", "best", "best_and_last", "all")  # which checkpoints go with it
LARGEST = 64 * 2**30  # bytes of all files together
LARGEST_ROW = 8 * 2**20  # bytes of one line: a completion of 4,096 tokens and its trace take a twentieth
_LARGEST_JSON = 2**20  # bytes of manifest, run and config each
_MOST_FILES = 200_000
_RATIO = 500  # times that a file may be larger than in the archive, beyond its first MB
_SPARE = 500e6  # bytes that stay free on the disk
_BATCH = 2_000  # rows
_BATCH_BYTES = 8 * 2**20  # from here on a batch is written, however few rows it has
_TABLES = ("points", "completions", "rollouts", "alerts", "events", "checkpoints")
# what a checkpoint may be made of: no pickle, no code
_CHECKPOINT_FILE = re.compile(r"[\w.-]+\.(?:safetensors|json|txt|jinja|model|md)", re.ASCII)
_NAME = re.compile(
    rf"(?:manifest|run|config)\.json|(?:{'|'.join(_TABLES)})\.jsonl|log\.txt|code/\w+\.py"
    rf"|(?:checkpoints/[\w-]+|{BASE_FOLDER})/{_CHECKPOINT_FILE.pattern}", re.ASCII,
)
# what a file that is damaged, or made to be, lets zipfile raise
_DAMAGES = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, RuntimeError, OverflowError,
    ValueError,
)
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
    if not target.name or os.path.isdir(target):
        raise ArchiveError(f"{target} is a folder; name the file in it that the archive is to be.")
    unfinished = target.with_name(target.name + f".{os.getpid()}.part")
    try:
        packing = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": 6, "strict_timestamps": False}
        with zipfile.ZipFile(unfinished, "w", **packing) as archive:
            _write(archive, db, run, _chosen(checkpoints_of(db, run_id), checkpoints))
        os.replace(unfinished, target)
    except OSError as error:
        raise ArchiveError(f"{target} cannot be written ({error.strerror or error}); choose another place.") from error
    finally:
        with contextlib.suppress(OSError):  # a place where no file can be has none to remove
            unfinished.unlink()
    return target


def import_run(db: Database, archive: Path, runs_folder: Path, who: str = "user") -> Run:
    """A new run from an archive, with the name that it had; raises ArchiveError or StorageError and leaves nothing."""
    try:
        runs_folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(archive) as opened:
            found = _checked(opened, runs_folder)
            run = create_run(
                db, name=found.name, config_json=found.config.to_json(), train_steps=found.config.train_steps,
                runs_folder=runs_folder, status="failed", who=who,
            )
            try:
                _fill(opened, db, run, found)
            except BaseException:
                shutil.rmtree(run.folder, ignore_errors=True)  # first: a full disk may have no room to delete a row
                delete_run(db, run.id)
                raise
    except ArchiveError:
        raise
    except _DAMAGES as error:
        said = plain_line(str(error)) or type(error).__name__
        raise ArchiveError(f"{archive.name} is no whole archive of a run ({said:.200}); export it again.") from error
    except OSError as error:
        why = error.strerror or error
        raise ArchiveError(
            f"{archive.name} cannot be read or unpacked ({why}); see that it can be read and that the disk has room."
        ) from error
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

class _Found(NamedTuple):
    """What an archive says of the run, once all of it is known to be good."""

    name: str
    status: str
    kept: dict[str, Any]  # of its row
    config: TrainConfig
    counts: dict[str, Any]  # rows of each table


def _checked(archive: zipfile.ZipFile, runs_folder: Path) -> _Found:
    """Raises ArchiveError before anything is made of it."""
    entries = archive.infolist()
    _refuse_dangers(entries, shutil.disk_usage(runs_folder).free)
    names = {entry.filename for entry in entries}
    missing = {"manifest.json", "run.json", "config.json", *(f"{name}.jsonl" for name in _TABLES)} - names
    if missing:
        raise ArchiveError(f"It is no archive of a run: {min(missing)} is missing.")
    manifest, row = (_json(archive, name) for name in ("manifest.json", "run.json"))
    if manifest.get("format") != FORMAT or manifest.get("version") != VERSION:
        raise ArchiveError(
            f"It is of format {manifest.get('format')!r:.60}, version {manifest.get('version')!r:.60}, and this BGPO"
            f" Studio reads {FORMAT!r}, version {VERSION}; export the run again with this one, or update this one."
        )
    if not isinstance(row.get("name"), str) or not isinstance(manifest.get("rows"), dict):
        raise ArchiveError("It is no archive of a run: the manifest or the run's row is not as it should be.")
    if row.get("status") not in STATUSES:
        raise ArchiveError(f"Its run.json says status = {row.get('status')!r:.60}, which is none of a run's; export the"
                           " run again.")
    config = _config(archive)
    try:
        kept = kept_of(row)
    except ValueError as error:
        raise ArchiveError(f"Its run.json cannot be used: {error}; export the run again.") from error
    name = plain_line(row["name"])[:NAME_LIMIT] or default_name(config)
    return _Found(name, row["status"] if row["status"] in ENDED else "stopped", kept, config, manifest["rows"])


def _config(archive: zipfile.ZipFile) -> TrainConfig:
    try:
        return TrainConfig.from_json(_small(archive, "config.json").decode("utf-8", "replace"))
    except ConfigError as error:
        raise ArchiveError(f"Its config cannot run here: {plain_line(str(error))}") from error


def _refuse_dangers(entries: list[zipfile.ZipInfo], free: float) -> None:
    if len(entries) > _MOST_FILES or len({entry.filename for entry in entries}) != len(entries):
        raise ArchiveError("It holds too many files, or one name twice; export the run again.")
    for entry in entries:
        name, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if kind not in (0, stat.S_IFREG) or not _NAME.fullmatch(name) or ".." in name:
            raise ArchiveError(
                f"It holds {name[:80]!r}, which has no place in the archive of a run; nothing was unpacked."
            )
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others ask for any memory
            raise ArchiveError(f"{name} is packed in a way that no archive of a run is; nothing was unpacked.")
        if entry.file_size > 2**20 and entry.file_size > _RATIO * max(1, entry.compress_size):
            raise ArchiveError(f"{name} would grow {_RATIO} times or more when unpacked; nothing was unpacked.")
    total = sum(entry.file_size for entry in entries)
    if total > min(LARGEST, free - _SPARE):
        room = max(0, min(LARGEST, free - _SPARE))
        raise ArchiveError(
            f"It needs {total / 1e9:.1f} GB unpacked, and {room / 1e9:.1f} GB may be used; free some space or export"
            " fewer checkpoints."
        )


def _fill(archive: zipfile.ZipFile, db: Database, run: Run, found: _Found) -> None:
    """All of the archive into the new run."""
    complete_import(db, run.id, "failed", {"reason": _HALF})  # until it is not
    Path(run.folder, "config.json").write_text(found.config.to_json())
    _read_files(archive, Path(run.folder))
    counts = _read_tables(archive, db, run)
    if counts != found.counts:
        raise ArchiveError(f"It holds {counts} rows, and its manifest says {found.counts!r:.300}; it is damaged, export"
                           " the run again.")
    complete_import(db, run.id, found.status, found.kept)


def _read_files(archive: zipfile.ZipFile, folder: Path) -> None:
    # even where there is no code: it says that no file in this folder may be run, see `own_file.check_origin`
    (folder / IMPORTED_CODE).mkdir()
    for entry in archive.infolist():
        if entry.filename.startswith(("code/", "checkpoints/", f"{BASE_FOLDER}/")) or entry.filename == runner.LOG:
            target = folder / re.sub(f"^{KEPT_CODE}/", f"{IMPORTED_CODE}/", entry.filename)
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
    count = 0
    for batch in _batches(archive, name, kind):
        try:
            write(batch)
        except ArchiveError:
            raise
        except (ValueError, TypeError, OutOfRange, StatementError) as error:
            what = plain_line(str(getattr(error, "orig", None) or error))
            raise ArchiveError(
                f"One of the rows {count + 1} to {count + len(batch)} of {name} cannot be kept ({what:.200})."
            ) from error
        count += len(batch)
    return count


def _batches(archive: zipfile.ZipFile, name: str, kind: type) -> Iterator[list[Any]]:
    """The rows of a table, so many at once as fit in little memory. Raises ArchiveError for one that is none."""
    batch, size = [], 0
    with archive.open(f"{name}.jsonl") as file:
        for number, line in enumerate(iter(lambda: file.readline(LARGEST_ROW + 1), b""), 1):
            batch.append(_row(kind, line, f"Row {number} of {name}"))
            size += len(line)
            if len(batch) == _BATCH or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _row(kind: type, line: bytes, which: str) -> Any:
    if len(line) > LARGEST_ROW:
        raise ArchiveError(f"{which} is longer than {LARGEST_ROW / 2**20:g} MiB, which no row of a run is.")
    try:
        return row_of(kind, json.loads(line))
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{which} cannot be read: {plain_line(str(error))}; export the run again.") from error


def _add_checkpoints(db: Database, run: Run, rows: list[Checkpoint]) -> None:
    for item in rows:
        folder = Path(run.folder, "checkpoints", str(item.folder))
        if not re.fullmatch(r"[\w-]+", str(item.folder), re.ASCII) or not folder.is_dir() or item.kind not in KINDS:
            raise ArchiveError(f"The checkpoint of step {item.step!r} is not in the archive; export the run again.")
        added = add_checkpoint(db, run.id, item.step, item.kind, str(folder), item.reward)
        pin_checkpoint(db, run.id, added.id, bool(item.pinned))


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    with contextlib.suppress(ValueError, RecursionError):
        if isinstance(value := json.loads(_small(archive, name)), dict):
            return value
    raise ArchiveError(f"{name} cannot be read; it is no archive of a run, or a damaged one.")


def _small(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _LARGEST_JSON:
        raise ArchiveError(f"{name} has {size} bytes, and {_LARGEST_JSON} are allowed; it is no archive of a run.")
    return archive.read(name)
