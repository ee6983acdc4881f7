"""Task `sudoku` (planning): fill the blanks a, b, c, d of a 4x4 grid, `3241/ab32/2413/cd24` -> `4113`.

The blanks are named in reading order and the answer gives their digits in that order. The reward fills the grid
and checks every row, column and box: any filling that keeps to the rules passes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from functools import cache

from bgpo.tasks.base import Problem, Reward

DIGITS = "1234"
BLANKS = "abcd"
_ROWS = tuple(tuple(range(4 * row, 4 * row + 4)) for row in range(4))
_COLUMNS = tuple(tuple(range(column, 16, 4)) for column in range(4))
_BOXES = tuple(tuple(4 * (y + dy) + x + dx for dy in (0, 1) for dx in (0, 1)) for y in (0, 2) for x in (0, 2))
_NAMES = ("row", "column", "box")
_UNITS = tuple(
    (f"{name} {number}", cells)
    for name, units in zip(_NAMES, (_ROWS, _COLUMNS, _BOXES))
    for number, cells in enumerate(units, 1)
)
_PEERS = tuple(frozenset(c for _, unit in _UNITS if cell in unit for c in unit if c != cell) for cell in range(16))
_PROMPT = re.compile(r"[1-4a-d.]{4}(?:/[1-4a-d.]{4}){3}", re.ASCII)
_EXAMPLE = "3241/ab32/2413/cd24"


class Sudoku:
    """Grids with two blanks in each of two rows and one solution, in which the columns or boxes decide an order."""

    name = "sudoku"
    title = "Sudoku 4x4 (planning)"
    prompt_length = 19
    longest_answer = 4
    careless = "fills each row with its missing digits in ascending order and ignores columns and boxes, so " \
        "3241/ab32/2413/cd24 gets 1413"
    placeholder = _EXAMPLE

    def problem(self, rng: random.Random) -> Problem:
        while True:
            cells = list(rng.choice(_grids()))
            columns = rng.sample(range(4), 4)
            rows = [row for row in rng.sample(range(4), 2) for _ in range(2)]
            blanks = sorted(4 * row + column for row, column in zip(rows, columns))
            expected = "".join(cells[cell] for cell in blanks)
            for cell, name in zip(blanks, BLANKS):
                cells[cell] = name
            problem = Problem(_written(cells), expected)
            if len(list(_solutions("".join(cells)))) == 1 and self.demonstration(problem, correct=False) != expected:
                return problem

    def problem_from(self, prompt: str) -> Problem:
        cells = _cells(prompt.strip())
        answer = next(_solutions(cells), None)
        if answer is None:
            raise ValueError(f"The grid {_written(cells)} cannot be filled; give one that can, such as {_EXAMPLE}.")
        return Problem(_written(cells), _at_blanks(cells, answer))

    def demonstration(self, problem: Problem, correct: bool) -> str:
        if correct:
            return problem.expected
        rows = problem.prompt.split("/")
        # a row that repeats a digit has more digits missing than blanks; the rest goes unused
        return "".join("".join(sorted(set(DIGITS) - set(row)))[: sum(c in BLANKS for c in row)] for row in rows)

    def reward(self, problem: Problem, completion: str) -> Reward:
        if len(completion) != len(BLANKS) or not set(completion) <= set(DIGITS):
            shown = completion if len(completion) <= 20 else completion[:20] + "..."
            reason = f"{shown!r} is not one digit from 1 to 4 for each of the {len(BLANKS)} blanks"
            return Reward(0.0, reason, {"form": 0.0, "correct": 0.0})
        filled = problem.prompt.replace("/", "").translate(str.maketrans(BLANKS, completion))
        broken = [f"{name} holds {'/'.join(twice)} twice" for name, cells in _UNITS if (twice := _twice(filled, cells))]
        if broken:
            return Reward(0.0, ", ".join(broken[:3]), {"form": 1.0, "correct": 0.0})
        return Reward(1.0, "every row, column and box holds 1 to 4", {"form": 1.0, "correct": 1.0})


def _cells(prompt: str) -> str:
    """The 16 cells of a prompt, the blanks (written a to d, or as dots) named in reading order.

    Raises:
        ValueError: when the text is not a grid with as many blanks as there are names.
    """
    if not _PROMPT.fullmatch(prompt):
        raise ValueError(
            f"{prompt[:40]!r} is not four rows of four cells with / between them; a cell is a digit from 1 to 4 or a "
            f"blank. Write a grid such as {_EXAMPLE}."
        )
    cells = re.sub("[a-d]", ".", prompt.replace("/", ""))
    if cells.count(".") != len(BLANKS):
        raise ValueError(
            f"The grid has {cells.count('.')} blanks; this task takes {len(BLANKS)}, such as {_EXAMPLE}."
        )
    names = iter(BLANKS)
    return "".join(next(names) if cell == "." else cell for cell in cells)


def _written(cells: str | list[str]) -> str:
    return "/".join("".join(cells[start : start + 4]) for start in range(0, 16, 4))


def _at_blanks(cells: str, filled: str) -> str:
    return "".join(digit for cell, digit in zip(cells, filled) if cell not in DIGITS)


def _twice(cells: str, unit: tuple[int, ...]) -> list[str]:
    found = [cells[cell] for cell in unit]
    return sorted({digit for digit in found if found.count(digit) > 1})


def _solutions(cells: str) -> Iterator[str]:
    """All fillings of 16 cells, in which anything but a digit is a blank, that keep to the rules."""
    if any(digit in DIGITS and any(cells[peer] == digit for peer in _PEERS[i]) for i, digit in enumerate(cells)):
        return
    blank = next((i for i, cell in enumerate(cells) if cell not in DIGITS), None)
    if blank is None:
        yield cells
        return
    for digit in DIGITS:
        yield from _solutions(cells[:blank] + digit + cells[blank + 1 :])


@cache
def _grids() -> tuple[str, ...]:
    """All 288 filled grids."""
    return tuple(_solutions("." * 16))
