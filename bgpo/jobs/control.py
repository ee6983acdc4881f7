"""What a person can do with runs. Pages call this; it writes intent into rows and touches no process."""

from __future__ import annotations

import os
import re
import shutil
import time
from pathlib import Path

from bgpo.config import TrainConfig
from bgpo.jobs import runner
from storage.database import Database, StorageError
from storage.runs import ENDED, LIVE, Run, create_run, delete_run, get_run, request, transition

NAME_LIMIT = 80  # characters
_WHO = "user"
_LAST_WORDS_S = 3.0


class ControlError(Exception):
    """Something that cannot be done with this run now; the message is a sentence for a person."""


def submit(db: Database, config: TrainConfig, runs_folder: Path, name: str | None = None) -> Run:
    """Queues a new run. Raises ControlError for a name that is too long or a folder that cannot be made."""
    name = " ".join((name or default_name(config)).split())
    if len(name) > NAME_LIMIT:
        raise ControlError(f"The name has {len(name)} characters; use at most {NAME_LIMIT}.")
    try:
        return create_run(
            db, name=name, config_json=config.to_json(), train_steps=config.train_steps, runs_folder=runs_folder,
            who=_WHO, device_kind={"cuda": "gpu"}.get(config.device, config.device),
        )
    except StorageError as error:
        raise ControlError(str(error)) from error


def default_name(config: TrainConfig) -> str:
    """What a run is called when nobody says."""
    return f"{config.task} {config.objective} K={config.mc_samples} seed {config.seed}"


def stop(db: Database, id: int) -> Run:
    """Asks a run to save a checkpoint and end; a queued one is stopped at once. A second time is harmless."""
    return _end(db, id, "stop")


def kill(db: Database, id: int) -> Run:
    """Ends the run's processes at once, without a checkpoint. For a run that does not answer to `stop`."""
    return _end(db, id, "kill")


def resume(db: Database, id: int) -> Run:
    """Queues a stopped or failed run again; its worker goes on from the newest checkpoint."""
    run = _get(db, id)
    if run.status not in ("stopped", "failed"):
        why = "there is nothing left to do" if run.status == "finished" else "only a stopped or failed run can go on"
        raise ControlError(f"Run {id} is {run.status}; {why}.")
    if _held(Path(run.folder)):
        raise ControlError(f"A process of run {id} is still ending; try again in a few seconds.")
    if not transition(db, id, ("stopped", "failed"), "queued", who=_WHO):
        raise ControlError(f"Run {id} has just changed to {_get(db, id).status}; look again.")
    return _get(db, id)


def delete(db: Database, id: int) -> None:
    """Deletes a run that no process works on: rows, log, checkpoints. There is no way back."""
    run = _get(db, id)
    folder = _own_folder(run)
    if run.status == "queued":  # or a scheduler could start it in the middle
        transition(db, id, ("queued",), "stopped", reason="Deleted before it began.", who=_WHO)
    if run.status in LIVE or _held(folder):
        raise ControlError(f"Run {id} is still working; stop it first.")
    try:
        delete_run(db, id)
    except StorageError as error:
        raise ControlError(str(error)) from error
    _remove(folder)


def _end(db: Database, id: int, what: str) -> Run:
    run = _get(db, id)
    if run.status in ENDED:
        raise ControlError(f"Run {id} is not running; it is {run.status}.")
    stopped = transition(db, id, ("queued",), "stopped", reason="Stopped before it began.", who=_WHO)
    if not stopped:
        request(db, id, what, who=_WHO)
    return _get(db, id)


def _held(folder: Path) -> bool:
    """Whether a process still works on the folder. A run says that it has ended a moment before its processes have."""
    until = time.monotonic() + _LAST_WORDS_S
    while runner.lock_state(folder) == "held":
        if time.monotonic() > until:
            return True
        time.sleep(0.05)
    return False


def _get(db: Database, id: int) -> Run:
    try:
        return get_run(db, id)
    except StorageError as error:
        raise ControlError(str(error)) from error


def _own_folder(run: Run) -> Path:
    """The run's folder, once it is certain that it is one: named after the run, in a folder named runs, no link."""
    folder = Path(run.folder)
    named = re.fullmatch(rf"{run.id}(-\d+)?", folder.name) and folder.parent.name == "runs"
    if not (named and folder.is_absolute() and folder == Path(os.path.normpath(folder)) and not folder.is_symlink()):
        raise ControlError(f"Run {run.id} names {folder} as its folder, which is no run's folder; nothing was deleted.")
    return folder


def _remove(folder: Path) -> None:
    if not folder.exists():
        return
    try:
        # renamed first: half a folder never looks like a run's
        trash = folder.rename(folder.with_name(folder.name + ".deleted"))
        shutil.rmtree(trash)
    except OSError as error:
        raise ControlError(
            f"The run is deleted, but its files in {folder.parent} are not all gone ({error.strerror});"
            " remove them by hand."
        ) from error
