"""Task `countdown_numbers` (planning): reach a target with all of three numbers, as d1, BGPO and others pose it.

Problems are made here by the rule of the published set (numbers and target from 1 to 99), or come from it:
`data = Jiayi-Pan/Countdown-Tasks-3to4`, or d1's `countdown_cd3_test.jsonl` for its 256 held-out ones.
The expression is evaluated over exact fractions; nothing that a model writes is run.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from bgpo.tasks.base import Problem, Reward, TaskError
from bgpo.tasks.data import Row, Tables
from bgpo.tasks.expressions import value_of
from bgpo.tasks.formats import TAGS, tagged_answer
from bgpo.tasks.listed import ListedTask, clipped
from bgpo.tasks.maths import last_boxed

_GENERATED = 25_000  # of which 20,000 are left for training, as many as BGPO's set
_LONGEST = 200  # characters of an expression
_FORM_ONLY = 0.1  # what the published reward pays for any answer in tags
_SYMBOL = re.compile(r"\d{1,6}|[-+*/()]", re.ASCII)
_LATEX = (("\\times", "*"), ("\\cdot", "*"), ("\\div", "/"), ("\\left", ""), ("\\right", ""), ("×", "*"), ("÷", "/"))
_FRACTION = re.compile(r"\\[dt]?frac\{([^{}]{1,100})\}\{([^{}]{1,100})\}")


class CountdownNumbers(ListedTask):
    """0 without an answer, 0.1 for a wrong one, 1 for an expression that uses each number once and hits the target."""

    name = "countdown_numbers"
    title = "Countdown, three numbers (planning)"
    prompt_length = 256
    placeholder = "Using only the numbers [30, 100, 93], create an arithmetic expression that evaluates to exactly 23."
    example = "[30, 100, 93] to 23 → 30 - (100 - 93)"
    protocols = ("bgpo", "d1", "espo")  # all three ask and reward alike

    def tables(self) -> Tables:
        if self.data:
            return super().tables()
        rng = random.Random("countdown_numbers")
        return {"train": [_made(rng) for _ in range(_GENERATED)]}

    def problem_of(self, row: Row) -> Problem | None:
        numbers, target = _numbers(row), _whole(row.get("target", row.get("output")), "target")
        if len(numbers) != 3 and "nums" in row:
            return None  # the published set also has rows of four, which d1, BGPO and ESPO leave out
        return Problem(
            f"{TAGS}\n\nUsing only the numbers {numbers}, create an arithmetic expression that evaluates to exactly "
            f"{target}. You must use all numbers from the list, and each number must be used exactly once. You may use "
            "the operations +, -, *, and / as needed. After reasoning, provide only your final expression inside "
            "<answer></answer> tags without including an equals sign or the target number. For example, if the numbers "
            "are [2, 3, 4] and the target is 5, a valid answer is: <answer>\n2*4-3\n</answer>",
            str(target), {"question": f"{numbers} {target}", "numbers": numbers, "target": target},
        )

    def split_key(self, problem: Problem) -> str:
        return f"{sorted(problem.given['numbers'])} {problem.given['target']}"

    def reward(self, problem: Problem, completion: str) -> Reward:
        numbers, target = problem.given["numbers"], problem.given["target"]
        answer = tagged_answer(completion)
        if answer is None:
            return Reward(0.0, "no answer stands between answer tags", {"correct": 0.0, "form": 0.0, "numbers": 0.0})
        try:
            value, used = evaluate(plain_expression(answer))
        except ValueError as error:
            return Reward(_FORM_ONLY, str(error), {"correct": 0.0, "form": 1.0, "numbers": 0.0})
        fair, hit = Counter(used) == Counter(numbers), value == target
        parts = {"correct": float(fair and hit), "form": 1.0, "numbers": float(fair)}
        if fair:
            reason = f"{clipped(answer)} gives {clipped(value)}" + ("" if hit else f", not {target}")
        else:
            reason = f"{clipped(answer)} uses {clipped(used)}, not each of {numbers} once"
        return Reward(1.0 if fair and hit else _FORM_ONLY, reason, parts)


def plain_expression(answer: str) -> str:
    """The expression in an answer: out of its box, LaTeX signs as plain ones, without `= value` behind it."""
    text = (last_boxed(answer) or answer)[: 2 * _LONGEST].strip().strip("$")
    for latex, plain in _LATEX:
        text = text.replace(latex, plain)
    text = _FRACTION.sub(r"((\1)/(\2))", text)
    return text.partition("=")[0].strip()


def evaluate(expression: str) -> tuple[Fraction, list[int]]:
    """The exact value of an expression over + - * / and brackets, and the numbers in it.

    Raises:
        ValueError: one sentence on what is wrong with it.
    """
    if len(expression) > _LONGEST:
        raise ValueError(f"the expression has more than {_LONGEST} characters")
    symbols = _SYMBOL.findall(expression)
    if not symbols or "".join(symbols) != re.sub(r"\s+", "", expression) or re.search(r"\d\s+\d", expression):
        raise ValueError(f"{clipped(expression)!r} is not an expression of whole numbers, + - * / and brackets")
    value = value_of(symbols, clipped(expression), signs=True)
    return value, [int(symbol) for symbol in symbols if symbol.isdigit()]


def _made(rng: random.Random) -> Row:
    """Numbers and a target from 1 to 99 that an expression over all of them reaches."""
    while True:
        numbers = [rng.randint(1, 99) for _ in range(3)]
        value = _reached(numbers, rng)
        if value is not None and 1 <= value <= 99:
            return {"nums": numbers, "target": value}


def _reached(numbers: Sequence[int], rng: random.Random) -> int | None:
    values = list(numbers)
    while len(values) > 1:
        left = values.pop(rng.randrange(len(values)))
        right = values.pop(rng.randrange(len(values)))
        operator = rng.choice("+-*/")
        if operator == "/":
            if not right or left % right:
                return None
            values.append(left // right)
        else:
            values.append(left + right if operator == "+" else left - right if operator == "-" else left * right)
    return values[0]


def _numbers(row: Row) -> list[int]:
    """`nums` of the published set, or `input` of d1's file: `30,100,93`."""
    given: Any = row.get("nums", row.get("numbers", row.get("input")))
    if isinstance(given, str):
        given = given.strip("[] ").split(",")
    if not isinstance(given, list) or not 2 <= len(given) <= 6:
        columns = ", ".join(map(str, row))[:200]
        raise TaskError(f"A row has the columns {columns}; it needs nums (two to six) and target.")
    return [_whole(number, "nums") for number in given]


def _whole(value: Any, column: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise TaskError(f"{clipped(value)!r} in column {column} is not a whole number; mend the row.") from None
