"""What a person can do with runs. Pages call this; it writes intent into rows and touches no process."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import runner
from bgpo.jobs.ends import OUT_OF_MEMORY, smaller_budget
from bgpo.jobs.lineage import going_on, origin, reference
from bgpo.jobs.retention import starts
from bgpo.jobs.times import plannable
from storage.database import Database, StorageError
from storage.labels import plain_line
from storage.runs import ENDED, LIVE, Run, create_run, delete_run, get_run, request, transition

MAKES_CHECKPOINTS = ("train", "finetune")  # jobs
RESUMABLE = ("paused", "stopped", "failed")
NAME_LIMIT = 80  # characters
NOT_PLANNABLE = "That time is not within this century; give another one."
_WHO = "user"
_LAST_WORDS_S = 20.0  # how long a delete waits for a process that says its last words


class ControlError(Exception):
    """Something that cannot be done with this run now; the message is a sentence for a person."""


def submit(db: Database, config: TrainConfig, runs_folder: Path, name: str | None = None, **columns: Any) -> Run:
    """Queues a new run.

    Args:
        columns: others of its row: when it may start (`priority`, `start_at`, `after_id`), `sweep_id`, `parent_id`.

    Raises:
        ControlError: a name that is too long, a run to wait for that does not exist, a time that no start can be
            planned for, a folder that cannot be made.
        ConfigError: `start_from` names a checkpoint that is not there.
    """
    name = one_line_name(name or default_name(config))
    if columns.get("start_at") is not None and not plannable(columns["start_at"]):
        raise ControlError(NOT_PLANNABLE)
    begin = origin(db, config)
    if columns.get("after_id") is not None:
        _get(db, columns["after_id"])
    elif begin.waits_for is not None:
        columns["after_id"] = begin.waits_for
    if begin.parent_id is not None:
        columns |= {"parent_id": begin.parent_id, "parent_step": begin.parent_step}
    try:
        return create_run(
            db, name=name, config_json=begin.config.to_json(), train_steps=config.train_steps,
            runs_folder=runs_folder, who=_WHO, device_kind=device_kind(config), **columns,
        )
    except StorageError as error:
        raise ControlError(str(error)) from error


def evaluate(db: Database, id: int, runs_folder: Path, which: str = "") -> Run:
    """Queues an evaluation of a run's checkpoint: at once, or when the run ends, if it goes on.

    Args:
        which: a step, `best` or `newest`; by default the best of a run that measures itself, the newest of any other.

    Raises:
        ControlError: a run that is none, or that leaves no checkpoints.
        ConfigError: a checkpoint that is not there.
    """
    run = _get(db, id)
    measured = measuring(TrainConfig.from_json(run.config_json), id, which)
    return submit(db, measured, runs_folder, one_line_name(f"evaluate {run.name}"[:NAME_LIMIT]))


def measuring(config: TrainConfig, id: int, which: str = "") -> TrainConfig:
    """The config of an evaluation of the run `id`, which has this config; `which` as for `evaluate`.

    Raises ControlError for a job that leaves no checkpoints, and ConfigError where they cannot be evaluated.
    """
    if config.job not in MAKES_CHECKPOINTS:
        raise ControlError(f"A run of job = {config.job} leaves no checkpoint to evaluate; name one that trains.")
    which = which or ("best" if config.job == "train" else "newest")
    return going_on(config, reference(id, which), job="evaluate")


def one_line_name(name: str) -> str:
    """The name in one line; raises ControlError for one that is too long."""
    name = plain_line(name)
    if len(name) > NAME_LIMIT:
        raise ControlError(f"The name has {len(name)} characters; use at most {NAME_LIMIT}.")
    return name


def device_kind(config: TrainConfig) -> str:
    """What kind of device the run waits for."""
    return {"cuda": "gpu"}.get(config.device, config.device)


def default_name(config: TrainConfig) -> str:
    """What a run is called when nobody says."""
    if config.job == "finetune":
        return f"fine-tune on {Path(config.examples).name[:40]} seed {config.seed}"
    words = f"{config.task} {config.objective} K={config.mc_samples} seed {config.seed}"
    return words if config.job == "train" else f"{config.job} {words}"


def stop(db: Database, id: int) -> Run:
    """Asks a run to save a checkpoint and end; a queued or paused one ends at once. A second time is harmless."""
    return _end(db, id, "stop", ("queued", "paused"), "stopped", "Stopped before it began.")


def pause(db: Database, id: int) -> Run:
    """Asks a run to save a checkpoint and give its device back until it is resumed; a queued one leaves the queue."""
    run = _get(db, id)
    if run.status == "paused":
        return run
    return _end(db, id, "pause", ("queued",), "paused", "Paused before it began.")


def kill(db: Database, id: int) -> Run:
    """Ends the run's processes at once, without a checkpoint. For a run that does not answer to `stop`."""
    return _end(db, id, "kill", ("queued", "paused"), "stopped", "Stopped before it began.")


def resume(db: Database, id: int) -> Run:
    """Queues a paused, stopped or failed run again; its worker goes on from the newest checkpoint.

    A process of it that still ends is no obstacle: the run waits in the queue until its device is given back.
    """
    return _again(db, id)


def resume_smaller(db: Database, id: int) -> Run:
    """Queues a run whose memory ran out again, with half the tokens in a pass: the same steps, in more passes."""
    run = _get(db, id)
    if run.failure_kind not in OUT_OF_MEMORY:
        raise ControlError(f"Run {id} did not fail for want of memory; press Resume.")
    try:
        config = TrainConfig.from_json(run.config_json)
        budget = smaller_budget(config, _last_budget(run))
        if budget is None:
            raise ControlError(
                f"Each pass of run {id} is a single completion already; fork it with a shorter completion_length, or "
                "with activation_checkpointing or an adapter."
            )
        smaller = config.with_values(token_budget=budget)
    except ConfigError as error:
        raise ControlError(str(error)) from error
    return _again(db, id, config_json=smaller.to_json())


def _again(db: Database, id: int, **columns: object) -> Run:
    run = _get(db, id)
    if run.status not in RESUMABLE:
        ended = run.status == "finished"
        why = "there is nothing left to do" if ended else "only a paused, stopped or failed run can go on"
        raise ControlError(f"Run {id} is {run.status}; {why}.")
    if not transition(db, id, RESUMABLE, "queued", who=_WHO, retries=0, retry_step=None, **columns):
        raise ControlError(f"Run {id} has just changed to {_get(db, id).status}; look again.")
    return _get(db, id)


def _last_budget(run: Run) -> int:
    """The token budget of the newest checkpoint: it falls by itself when memory runs out. 0 if it is not known."""
    states = [runner.read_json(path) or {} for path in Path(run.folder, "checkpoints").glob("*/training_state.json")]
    newest = max(states, key=lambda state: (state.get("phase") == "training", state.get("step", 0)), default={})
    budget = newest.get("token_budget", 0)
    return budget if isinstance(budget, int) else 0


def delete(db: Database, id: int, beside: Collection[int] = ()) -> None:
    """Deletes a run that no process works on and that no other starts from: rows, log, checkpoints. No way back.

    Args:
        beside: runs that are deleted together with it; what they start from need not stay.
    """
    run = _get(db, id)
    folder = _own_folder(run)
    _refuse_parent(db, run, {id, *beside})
    if run.status == "queued":  # or a scheduler could start it in the middle
        transition(db, id, ("queued",), "stopped", reason="Deleted before it began.", who=_WHO)
    if run.status in LIVE or _held(folder):
        raise ControlError(f"Run {id} is still working; stop it first.")
    try:
        delete_run(db, id)
    except StorageError as error:
        raise ControlError(str(error)) from error
    _remove(folder)


def _refuse_parent(db: Database, run: Run, leaving: Collection[int]) -> None:
    """Raises ControlError if a run that may still begin has its weights from this one."""
    for start, other in starts(db):
        if other.id not in leaving and _is_of(start, run):
            raise ControlError(
                f"Run {run.id} cannot be deleted now: run {other.id}, which is {other.status}, starts from it; delete "
                "that one first, or let it finish."
            )


def _is_of(start: str, run: Run) -> bool:
    """Whether a config's `start_from` is a checkpoint of this run, by its number or by its folder."""
    if start.startswith("run:"):
        return start.removeprefix("run:").partition("@")[0] == str(run.id)
    return Path(os.path.realpath(start)).is_relative_to(os.path.realpath(run.folder))


def _end(db: Database, id: int, what: str, idle: tuple[str, ...], to: str, reason: str) -> Run:
    """Asks a working run; a run of a status in `idle`, which no process works on, is moved `to` another at once."""
    run = _get(db, id)
    if run.status in ENDED:
        raise ControlError(f"Run {id} is not running; it is {run.status}.")
    began = f"Stopped while it was paused, at step {run.step} of {run.train_steps}."
    moved = transition(db, id, idle, to, reason=began if run.status == "paused" and run.step else reason, who=_WHO)
    if not moved:
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
