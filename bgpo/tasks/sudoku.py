"""Task `sudoku` (planning): fill a 4x4 grid; rows, columns and 2x2 boxes hold 1 to 4 once each.

There are 288 filled grids, so puzzles are split by their solution: a split by puzzle, such as d1's, shows most held-out
solutions in training. Puzzles are made here, each with one solution, or come from a file with the columns of d1's
`4x4_sudoku_unique_puzzles.csv`.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from itertools import permutations
from operator import itemgetter

from bgpo.tasks.base import Problem, Reward, TaskError
from bgpo.tasks.data import Row, Tables, text_of
from bgpo.tasks.formats import TAGS, tagged_answer
from bgpo.tasks.listed import ListedTask, clipped

_GENERATED = 12_000
_EMPTY = (4, 11)  # cells of a puzzle that is made here
_GRID = re.compile(r"[0-4]{16}", re.ASCII)
_RULES = """Please solve the following 4x4 Sudoku puzzle. The puzzle is provided as a 16-character string reading \
left-to-right, top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-4
- Each row must contain digits 1-4 exactly once
- Each column must contain digits 1-4 exactly once
- Each 2x2 box must contain digits 1-4 exactly once
"""
_WORKED = """
Example:
Puzzle: 0401002010030310
Solution: 2431312412434312
"""
_HOW = """
Important: Your solution must be a COMPLETE 16-character string with only the digits 1-4, representing your final \
solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[16-character solution string]
</answer>

Solve this puzzle: """


class Sudoku(ListedTask):
    """The share of the empty cells that are right, as in d1; the whole grid solves it. espo shows a worked example."""

    name = "sudoku"
    title = "Sudoku, 4x4 (planning)"
    prompt_length = 384
    placeholder = "Solve this puzzle: 0401002010030310"
    example = "0401002010030310 → 2431312412434312"
    protocols = ("bgpo", "d1", "espo")

    def tables(self) -> Tables:
        return super().tables() if self.data else {"train": _made_rows()}

    def problem_of(self, row: Row) -> Problem:
        puzzle = text_of(row, "Puzzle", "puzzle", "prompt").strip()
        solution = text_of(row, "Solution", "solution", "answer").strip()
        if not _GRID.fullmatch(puzzle) or solution not in grids() or not _fits(puzzle, solution):
            raise TaskError(
                f"The row {clipped(puzzle)!r}, {clipped(solution)!r} is no 4x4 puzzle of 16 digits with its solution; "
                "mend or remove it."
            )
        worked = _WORKED if self.protocol == "espo" else ""
        prompt = f"{TAGS}\n\n{_RULES}{worked}{_HOW}{puzzle}"
        return Problem(prompt, solution, {"question": puzzle, "puzzle": puzzle})

    def split_key(self, problem: Problem) -> str:
        return problem.expected

    def reward(self, problem: Problem, completion: str) -> Reward:
        puzzle, answer = problem.given["puzzle"], tagged_answer(completion)
        if answer is None:
            return Reward(0.0, "no answer stands between answer tags", {"correct": 0.0, "form": 0.0, "cells": 0.0})
        digits = "".join(character for character in answer[:1000] if character in "0123456789")
        empty = [cell for cell in range(16) if puzzle[cell] == "0"]
        right = sum(digits[cell : cell + 1] == problem.expected[cell] for cell in empty)
        whole = digits == problem.expected
        parts = {"correct": float(whole), "form": float(len(digits) == 16), "cells": right / max(1, len(empty))}
        kept = _fits(puzzle, digits.ljust(16, "0")[:16]) or "a given digit was changed; "
        note = kept if isinstance(kept, str) else ""
        if len(digits) != 16:
            note = f"{len(digits)} digits were written, not 16; "
        return Reward(parts["cells"], f"{note}{right} of {len(empty)} empty cells are right", parts)


def _fits(puzzle: str, grid: str) -> bool:
    return all(given in ("0", filled) for given, filled in zip(puzzle, grid))


@lru_cache(maxsize=1)
def grids() -> frozenset[str]:
    """The 288 filled grids."""
    rows = ["".join(row) for row in permutations("1234")]
    found = set()
    for a in rows:
        for b in rows:
            if set(a[:2]) & set(b[:2]):
                continue
            for c in rows:
                if any(c[i] in (a[i], b[i]) for i in range(4)):
                    continue
                d = "".join(({*"1234"} - {a[i], b[i], c[i]}).pop() for i in range(4))
                if len(set(d)) == 4 and not set(c[:2]) & set(d[:2]):
                    found.add(a + b + c + d)
    return frozenset(found)


def _made_rows() -> list[Row]:
    """Puzzles with one solution each, always the same ones."""
    rng, all_grids = random.Random("sudoku"), sorted(grids())
    found: dict[str, str] = {}
    while len(found) < _GENERATED:
        solution = rng.choice(all_grids)
        hidden = set(rng.sample(range(16), rng.randint(*_EMPTY)))
        shown = itemgetter(*(cell for cell in range(16) if cell not in hidden))
        if list(map(shown, all_grids)).count(shown(solution)) == 1:
            found["".join("0" if cell in hidden else digit for cell, digit in enumerate(solution))] = solution
    return [{"Puzzle": puzzle, "Solution": solution} for puzzle, solution in found.items()]
