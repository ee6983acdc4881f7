"""How a run ends, for its row: the status, a sentence for a person, and what kind of failure it was."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import ConfigError, TrainConfig
from bgpo.tasks.registry import TASKS

OUT_OF_MEMORY = ("oom_gpu", "oom_host")


@dataclass(frozen=True)
class End:
    """Attributes:
    status: one that a run can end with, or paused.
    reason: a sentence; empty for a run that has done all its steps.
    kind: one of FAILURE_KINDS if it failed.
    """

    status: str
    reason: str = ""
    kind: str = ""


def failed(error: BaseException, step: int, config: TrainConfig | None) -> End:
    """The end of a run that `error` has broken at the step after `step`. Loads torch."""
    kind = kind_of(error)
    if isinstance(error, ConfigError):
        return End("failed", f"The config cannot run: {one_line(error)}", kind)
    if kind in OUT_OF_MEMORY and not _is_sentence(error):
        where = "GPU memory" if kind == "oom_gpu" else "memory"
        return End("failed", f"Out of {where} at step {step + 1}. {memory_advice(config, kind)}", kind)
    if kind == "disk_full":
        reason = "The disk that holds the run's folder is full; free some space and press Resume."
        return End("failed", reason, kind)
    said = one_line(error)
    # what our own code raises is already a sentence; of anything else the kind of error is half the message
    other = f"{type(error).__name__}: {said or 'no message'}".rstrip(".") + "."
    return End("failed", said if _is_sentence(error) else other, kind)


def kind_of(error: BaseException) -> str:
    """One of FAILURE_KINDS for what broke a run inside its process. Loads torch."""
    if isinstance(error, ConfigError):
        return "config_invalid"
    from bgpo.models.checkpoints import CheckpointError
    from bgpo.training.machine import is_out_of_memory

    if is_out_of_memory(error):
        return "oom_gpu" if any(_is_of_gpu(cause) for cause in _chain(error)) else "oom_host"
    if any(_is_full_disk(cause) for cause in _chain(error)):
        return "disk_full"
    if isinstance(error, (CheckpointError, OSError)):
        return "data_error"
    if isinstance(error, ArithmeticError) and _is_sentence(error):
        return "nan"
    return "config_invalid" if isinstance(error, ValueError) and _is_sentence(error) else "exception"


def memory_advice(config: TrainConfig | None, kind: str) -> str:
    """What to change when memory has run out, where most of it goes first."""
    objective = OBJECTIVES.get(config.objective) if config else None
    smaller = "lower token_budget, which cuts a step into more passes and is the same step"
    if objective and objective.retained:
        first = f"choose objective bgpo, which frees every pass at once where {config.objective} keeps them all, or "
        return f"{first[0].upper()}{first[1:]}{smaller}."
    held = "one pass is held at a time already, so " if objective else ""
    where = "the card: close it, or choose another" if kind == "oom_gpu" else "the machine's memory, and close it"
    sentence = f"{held}{smaller}, or lower group_size. See what else uses {where}."
    return sentence[0].upper() + sentence[1:]


def smaller_budget(config: TrainConfig, last: int) -> int | None:
    """Half the token budget, for the same step in more passes; None where a pass is one completion already.

    Args:
        last: the budget that the run ended with, 0 if it is not known.
    """
    least = TASKS[config.task].prompt_length + config.completion_length
    everything = least * config.prompts_per_step * config.group_size * config.mc_samples
    before = min(budget for budget in (last, config.token_budget, everything) if budget)
    return max(least, before // 2) if before > least else None


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500]


def _is_sentence(error: BaseException) -> bool:
    return isinstance(error, (ValueError, ArithmeticError, MemoryError)) and str(error).endswith(".")


def _is_full_disk(error: BaseException) -> bool:
    """Safetensors, which is not written in Python, has an error of its own and the system's words in it."""
    numbers = (errno.ENOSPC, errno.EDQUOT)
    known = isinstance(error, OSError) and error.errno in numbers
    return known or any(os.strerror(number) in str(error) for number in numbers)


def _is_of_gpu(error: BaseException) -> bool:
    import torch

    return isinstance(error, torch.OutOfMemoryError) or "CUDA" in str(error)


def _chain(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
