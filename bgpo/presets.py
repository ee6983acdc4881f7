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


def sudoku() -> TrainConfig:
    """4x4 grids with four blanks; the warm start mostly looks at the rows only."""
    return TrainConfig(
        task="sudoku", completion_length=4, denoising_steps=4, block_length=4, warmup_steps=1500, train_steps=60
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
    "sudoku": Preset(
        "sudoku", "Sudoku 4x4 (planning), tiny model, CPU",
        "Fills the blanks of a small grid. It starts out looking at rows only; every row, column and box is checked.",
        sudoku,
    ),
}
