"""Where a run's weights come from: `start_from` as people write it, turned into a folder and the row of its parent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from bgpo.config import ConfigError, TrainConfig
from storage.checkpoints import Checkpoint, checkpoints_of
from storage.database import Database
from storage.runs import ENDED, RunNotFound, get_run

_REFERENCE = re.compile(r"run:(\d{1,18})(?:@(\d{1,18}|best|newest))?")


@dataclass(frozen=True)
class Origin:
    """What a config starts from.

    Attributes:
        config: with the checkpoint's folder in `start_from`, as soon as that can be said.
        parent_id, parent_step: the run and the step that the folder belongs to, None where it is no run's.
        waits_for: a run that has not ended yet and that is to be waited for.
    """

    config: TrainConfig
    parent_id: int | None = None
    parent_step: int | None = None
    waits_for: int | None = None


def origin(db: Database, config: TrainConfig) -> Origin:
    """Reads `start_from`: run:12@40 (that step), run:12@best, run:12 (its newest), or a checkpoint's folder.

    The best and the newest checkpoint of a run that has not ended are not known yet: the new run waits for its end.
    Raises ConfigError for a run or a step that does not exist.
    """
    if not config.start_from.startswith("run:"):
        return Origin(config)
    match = _REFERENCE.fullmatch(config.start_from)
    if match is None:
        raise _problem(f"start_from = {config.start_from} cannot be read; write run:12@40, run:12@best or run:12.")
    run_id, which = int(match[1]), match[2] or "newest"
    try:
        run = get_run(db, run_id)
    except RunNotFound as error:
        raise _problem(f"start_from = {config.start_from}: {error}") from None
    if not which.isdigit() and run.status not in ENDED:
        return Origin(config, run_id, None, run_id)
    found = _choose([saved for saved in checkpoints_of(db, run_id) if _is_training(saved)], which)
    if found is None:
        raise _problem(_missing(db, config.start_from, run_id, which))
    return Origin(config.with_values(start_from=found.folder), run_id, found.step)


def origin_now(db: Database, config: TrainConfig) -> Origin:
    """Like `origin`, of a run that begins now and waits for no other. Raises ConfigError."""
    begin = origin(db, config)
    if begin.waits_for is not None:
        other = begin.waits_for
        raise _problem(
            f"start_from = {config.start_from}: run {other} has not ended; start this one when it has, or name one of "
            f"its steps: run:{other}@STEP."
        )
    return begin


def going_on(config: TrainConfig, start_from: str, **knobs: Any) -> TrainConfig:
    """The config of a run that goes on from a checkpoint of one with `config`; `knobs` differ. Raises ConfigError."""
    return config.with_values(**left_behind(knobs.get("job", config.job)) | knobs | {"start_from": start_from})


def left_behind(job: str) -> dict[str, str]:
    """Knobs that a run which goes on by `job` does not take over: its weights come from the checkpoint, and only
    fine-tuning reads examples."""
    return {"model_path": ""} | ({} if job == "finetune" else {"examples": ""})


def reference(run_id: int, step: int | str) -> str:
    """What to put into `start_from` for a run's checkpoint."""
    return f"run:{run_id}@{step}"


def _choose(saved: list[Checkpoint], which: str) -> Checkpoint | None:
    if which == "best":
        measured = [checkpoint for checkpoint in saved if checkpoint.reward is not None]
        return max(measured, key=lambda checkpoint: (checkpoint.reward, checkpoint.step), default=None)
    if which == "newest":
        return saved[-1] if saved else None
    return next((checkpoint for checkpoint in saved if checkpoint.step == int(which)), None)


def _is_training(saved: Checkpoint) -> bool:
    return not saved.folder.rsplit("/", 1)[-1].startswith("warm-up")


def _missing(db: Database, given: str, run_id: int, which: str) -> str:
    steps = [str(saved.step) for saved in checkpoints_of(db, run_id) if _is_training(saved)]
    if not steps:
        return f"start_from = {given}: run {run_id} has no checkpoint; choose another run."
    if which == "best":
        return f"start_from = {given}: no checkpoint of run {run_id} has a validation reward; name a step: {steps[-1]}."
    shown = ", ".join(steps[:3] + ["..."] * (len(steps) > 6) + steps[-3:] if len(steps) > 6 else steps)
    return f"start_from = {given}: run {run_id} has no checkpoint at step {which}; it has {shown}."


def _problem(sentence: str) -> ConfigError:
    return ConfigError({"start_from": sentence})
