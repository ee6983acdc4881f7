"""Task `adder` (maths): `37+48` -> `085`. A carry is always needed."""

from __future__ import annotations

import random
import re

from bgpo.tasks.base import Generated, Problem, Reward

_PROMPT = re.compile(r"([1-9]\d)\+([1-9]\d)", re.ASCII)


class Adder(Generated):
    """Sums of two two-digit numbers whose units carry; the answer is three digits."""

    name = "adder"
    title = "Adder (maths)"
    prompt_length = 5
    longest_answer = 3
    careless = "forgets the carry, so 37+48 becomes 075"
    placeholder = "37+48"
    example = "37+48 → 085"

    def problem(self, rng: random.Random) -> Problem:
        while True:
            a, b = rng.randint(10, 99), rng.randint(10, 99)
            if a % 10 + b % 10 >= 10:
                return Problem(f"{a}+{b}", f"{a + b:03d}")

    def problem_from(self, prompt: str) -> Problem:
        match = _PROMPT.fullmatch(prompt.strip())
        if not match:
            raise ValueError(f"{prompt.strip()[:40]!r} is not a sum of two two-digit numbers; write one such as 37+48.")
        a, b = map(int, match.groups())
        return Problem(match.group(), f"{a + b:03d}")

    def demonstration(self, problem: Problem, correct: bool) -> str:
        if correct:
            return problem.expected
        a, b = problem.prompt.split("+")
        return "0" + "".join(str((int(x) + int(y)) % 10) for x, y in zip(a, b))

    def reward(self, problem: Problem, completion: str) -> Reward:
        right = completion == problem.expected
        if right:
            return Reward(1.0, f"{problem.prompt} = {problem.expected}", {"correct": 1.0})
        shown = completion if len(completion) <= 20 else completion[:20] + "..."
        careless = completion == self.demonstration(problem, correct=False)
        reason = f"{shown or 'nothing'} is not {problem.expected}" + (": the carry was forgotten" if careless else "")
        return Reward(0.0, reason, {"correct": 0.0})
