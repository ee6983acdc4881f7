"""Presets: functions that return a whole config. A variant is `adder().with_values(mc_samples=16)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgpo.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A named config with the words that its card shows."""

    name: str
    title: str
    summary: str
    config: Callable[[], TrainConfig]


def adder() -> TrainConfig:
    """Two-digit sums that need a carry; the warm start mostly forgets it."""
    return TrainConfig(task="adder")


def stack_programs() -> TrainConfig:
    """Expressions compiled to stack programs; the warm start mostly ignores precedence."""
    return TrainConfig(task="stack_programs", warmup_steps=1200, train_steps=40)


def countdown() -> TrainConfig:
    """A target and four numbers; the warm start mostly subtracts, whatever the target."""
    return TrainConfig(
        task="countdown", completion_length=4, denoising_steps=4, block_length=4, warmup_steps=4000, train_steps=80
    )


PRESETS: dict[str, Preset] = {
    "adder": Preset(
        "adder", "Adder (maths), tiny model, CPU",
        "Adds two numbers. It starts out forgetting the carry, and learns from 0/1 rewards to keep it.", adder,
    ),
    "stack_programs": Preset(
        "stack_programs", "Stack programs (code), tiny model, CPU",
        "Compiles an expression to a stack program. It starts out ignoring precedence; every program it writes is "
        "executed.",
        stack_programs,
    ),
    "countdown": Preset(
        "countdown", "Countdown (planning), tiny model, CPU",
        "Reaches a target with two of four numbers. It starts out subtracting, whatever the target; every expression "
        "is evaluated.",
        countdown,
    ),
}
