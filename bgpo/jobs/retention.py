"""Disk: checkpoints that nobody needs are freed, and runs are paused before a full disk breaks them.

Kept of a run: the first checkpoint (a KL may hold on to it), the best by validation reward, the final one, the newest
few that its config says, those that somebody pinned and those that a run which may still begin starts from.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs.ends import End
from bgpo.jobs.settling import live_runs
from storage.checkpoints import Checkpoint, checkpoints_of, forget_checkpoint
from storage.database import Database, StorageError
from storage.runs import ENDED, Run, list_runs, request, run_events
from storage.settings import get_setting, pause_queue, queue_state

FREE_EVERY = 60  # seconds
LOOK_EVERY = 10  # seconds
LEAST_FREE_GB = "least_free_gb"  # a setting
DISK = "disk"  # who asked for such a pause
_DEFAULT_LEAST_FREE = 1.0  # GB
_FREED = ".freed-"

_log = logging.getLogger(__name__)


def to_free(
    checkpoints: Sequence[Checkpoint], keep_last: int, needed: frozenset[str] = frozenset()
) -> list[Checkpoint]:
    """Those that may go; `checkpoints` by step, `needed` are folders that others start from."""
    ordered = sorted(checkpoints, key=lambda c: c.step)
    measured = [c for c in ordered if c.reward is not None]
    best = max(measured, key=lambda c: (c.reward, c.step), default=None)
    kept = {c.id for c in ordered[-keep_last:]} | {c.id for c in (*ordered[:1], *([best] if best else []))}
    return [
        c for c in ordered
        if c.id not in kept and not c.pinned and c.kind not in ("warm_start", "final") and c.folder not in needed
    ]


def free_checkpoints(db: Database, run: Run, needed: frozenset[str] | None = None) -> int:
    """Frees what the run's retention does not keep; how many. Two processes that do it at once are harmless."""
    try:
        keep_last = TrainConfig.from_json(run.config_json).keep_last_checkpoints
    except ConfigError:  # of another version: nobody knows what it wants
        return 0
    freed = 0
    for item in to_free(checkpoints_of(db, run.id), keep_last, starting_points(db) if needed is None else needed):
        folder = Path(item.folder)
        if not _is_checkpoint_of(run, folder) or not forget_checkpoint(db, item.id):
            continue
        freed += 1
        # renamed first: a folder under its own name is whole, even if the deleting is cut off
        trash = folder.with_name(_FREED + folder.name)
        with contextlib.suppress(FileNotFoundError):
            folder.rename(trash)
    for trash in Path(run.folder, "checkpoints").glob(_FREED + "*"):
        shutil.rmtree(trash, ignore_errors=True)
    return freed


def free_all(db: Database) -> None:
    """One tick: every run's retention."""
    needed = starting_points(db)
    for run in list_runs(db):
        try:
            free_checkpoints(db, run, needed)
        except (OSError, StorageError):  # one run's folder must not keep the others from being freed
            _log.exception("Checkpoints of run %d could not be freed", run.id)


def starting_points(db: Database) -> frozenset[str]:
    """Folders that runs which may still begin start from."""
    return frozenset(start for start, _ in starts(db))


def starts(db: Database) -> Iterator[tuple[str, Run]]:
    """`start_from` of each run that may still begin there: of one that has not ended, and of one that can be resumed
    and would begin anew, for want of a checkpoint of its own."""
    for run in list_runs(db):
        if run.status == "finished":
            continue
        with contextlib.suppress(ConfigError):
            start = TrainConfig.from_json(run.config_json).start_from
            if start and (run.status not in ENDED or not checkpoints_of(db, run.id)):
                yield start, run


def disk_use(run: Run) -> int:
    """Bytes in the run's folder; what is deleted meanwhile counts or does not."""
    total = 0
    for path in Path(run.folder).rglob("*"):
        with contextlib.suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total


def least_free(db: Database) -> float:
    """Bytes that have to stay free; below, runs are paused."""
    try:
        given = float(get_setting(db, LEAST_FREE_GB, str(_DEFAULT_LEAST_FREE)))
    except ValueError:
        given = _DEFAULT_LEAST_FREE
    return given * 1e9


def watch_disk(db: Database, runs_folder: Path, run_id: int | None = None) -> str:
    """One tick: asks every working run to pause, and pauses the queue, when the disk is nearly full; the sentence why.

    A pause writes one more checkpoint per run, so there has to be room for that, too: twice the largest newest one.
    With `run_id` only that run is looked after, as its own worker does.
    """
    live = [run for run in live_runs(db) if run_id in (None, run.id)]
    if not live:
        return ""
    needed = least_free(db) + 2 * max((_newest_size(db, run) for run in live), default=0)
    free = shutil.disk_usage(runs_folder).free
    if free >= needed:
        return ""
    why = (f"The disk of {runs_folder} is nearly full: {free / 1e9:.1f} GB are free, and {needed / 1e9:.1f} GB are"
           " needed to go on safely. Free some space, then resume the runs and let the queue go on.")
    pause_queue(db, True, why)
    for run in live:
        if run.requested is None:
            request(db, run.id, "pause", who=DISK)
            _log.warning("Run %d: %s", run.id, why)
    return why


def with_disk_words(db: Database, run: Run, end: End) -> End:
    """The end of a run that was asked to pause for want of space, with the sentence why; any other as it is."""
    if end.status != "paused":
        return end
    try:
        asked = [event for event in run_events(db, run.id) if event.from_status == event.to_status]
        why = queue_state(db)["why"]
    except StorageError:
        return end
    return replace(end, reason=why) if why and asked and asked[-1].who == DISK else end


def _newest_size(db: Database, run: Run) -> int:
    saved = checkpoints_of(db, run.id)
    folder = Path(saved[-1].folder) if saved else None
    if folder is None or not folder.is_dir():
        return 0
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def _is_checkpoint_of(run: Run, folder: Path) -> bool:
    """Whether it lies where the run's checkpoints lie: a row never makes anything else be deleted."""
    return folder.parent == Path(run.folder, "checkpoints") and not folder.name.startswith(".")
