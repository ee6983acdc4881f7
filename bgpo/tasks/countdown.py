"""Task `countdown` (planning): reach a target with some of four numbers, `14:1,6,9,8` -> `6+8`.

The expression is over three operators and brackets; nothing that a model writes is ever handed to Python. Any
expression that keeps to the rules passes.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import combinations

from bgpo.tasks.base import Generated, Problem, Reward
from bgpo.tasks.expressions import value_of

_COUNT = 4
_PROMPT = re.compile(r"([1-9]\d?):([1-9](?:,[1-9]){3})", re.ASCII)
_SYMBOL = re.compile(r"[1-9]\d?|[-+*()]", re.ASCII)
_EXAMPLE = "14:1,6,9,8"
_MAX_EXPRESSION = 32


class Countdown(Generated):
    """Targets that are a sum or a difference of two of four different numbers; the other two are left over.

    Targets of two digits are sums and others differences: few shapes, each seen often enough to be learnt in a minute.
    """

    name = "countdown"
    title = "Countdown (planning)"
    prompt_length = 10
    longest_answer = 3
    careless = "finds the two numbers but always subtracts them in the order they stand in, so 14:1,6,9,8 gets 6-8"
    placeholder = _EXAMPLE
    example = "14:1,6,9,8 → 6+8"

    def problem(self, rng: random.Random) -> Problem:
        while True:
            numbers = rng.sample(range(1, 10), _COUNT)
            first, second = rng.sample(numbers, 2)
            target = first + second if rng.random() < 0.5 else first - second
            if target < 1 or (first + second == target) != (target >= 10) or target in numbers:
                continue
            problem = self.problem_from(f"{target}:{','.join(map(str, numbers))}")
            if not self.reward(problem, self.demonstration(problem, correct=False)).total:
                return problem

    def problem_from(self, prompt: str) -> Problem:
        match = _PROMPT.fullmatch(prompt.strip())
        if not match:
            raise ValueError(
                f"{prompt.strip()[:40]!r} is not a target and four numbers from 1 to 9; write one such as {_EXAMPLE}."
            )
        target, numbers = _read(match.group())
        answer = _answer(target, numbers)
        if answer is None:
            raise ValueError(
                f"No two of {match.group(2)} add up to {target} or differ by it; give numbers that do, such as "
                f"{_EXAMPLE}."
            )
        return Problem(match.group(), answer)

    def demonstration(self, problem: Problem, correct: bool) -> str:
        if correct:
            return problem.expected
        used = sorted((problem.expected[0], problem.expected[2]), key=problem.prompt.split(":")[1].index)
        return "-".join(used)

    def reward(self, problem: Problem, completion: str) -> Reward:
        target, numbers = _read(problem.prompt)
        try:
            value, used = evaluate(completion)
        except ValueError as error:
            return Reward(0.0, str(error), {"form": 0.0, "numbers": 0.0, "correct": 0.0})
        extra = sorted((Counter(used) - Counter(numbers)).elements())
        parts = {"form": 1.0, "numbers": float(not extra), "correct": float(not extra and value == target)}
        if value != target:
            return Reward(0.0, f"it gives {value}, not {target}", parts)
        if extra:
            how = "there only once" if extra[0] in numbers else "not among the numbers"
            return Reward(0.0, f"it gives {target}, but {extra[0]} is {how}", parts)
        return Reward(1.0, f"it gives {target} with the numbers there are", parts)


def evaluate(expression: str) -> tuple[int, list[int]]:
    """The value of an expression over + - * and brackets, and the numbers in it.

    Raises:
        ValueError: one sentence on what is wrong with it.
    """
    if len(expression) > _MAX_EXPRESSION:
        raise ValueError(f"the expression has {len(expression)} characters; {_MAX_EXPRESSION} are allowed")
    symbols = _SYMBOL.findall(expression)
    if "".join(symbols) != expression or not symbols:
        raise ValueError(f"{expression!r} is not an expression of numbers, + - * and brackets")
    used = [int(symbol) for symbol in symbols if symbol.isdigit()]
    return int(value_of(symbols, expression, signs=False)), used


def _read(prompt: str) -> tuple[int, list[int]]:
    target, numbers = prompt.split(":")
    return int(target), [int(number) for number in numbers.split(",")]


def _answer(target: int, numbers: list[int]) -> str | None:
    """The first pair, in the order of the prompt, whose difference is the target, or else whose sum is."""
    pairs = list(combinations(numbers, 2))
    differences = (f"{max(pair)}-{min(pair)}" for pair in pairs if max(pair) - min(pair) == target)
    sums = (f"{first}+{second}" for first, second in pairs if first + second == target)
    return next(differences, None) or next(sums, None)
