"""What a task is. A task is one file; it needs no torch."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Problem:
    """One item of a task: the prompt as the model reads it, and what the task says is right."""

    prompt: str
    expected: str


@dataclass(frozen=True)
class Reward:
    """A verdict: the total, its named parts, and the reason in a sentence for a person."""

    total: float
    reason: str
    parts: dict[str, float] = field(default_factory=dict)


class Task(Protocol):
    """Problems, prompts and a reward.

    Attributes:
        name: key in TASKS.
        title: name for people.
        prompt_length: longest prompt in tokens; prompts are padded to it.
        longest_answer: longest right answer in tokens, without the end token.
        careless: one sentence on the mistake that the warm start's demonstrations make.
        placeholder: an example prompt.
    """

    name: str
    title: str
    prompt_length: int
    longest_answer: int
    careless: str
    placeholder: str

    def problem(self, rng: random.Random) -> Problem:
        """One problem of either split, drawn with `rng`."""

    def problem_from(self, prompt: str) -> Problem:
        """The problem that a typed prompt states; raises ValueError with a sentence if it states none."""

    def demonstration(self, problem: Problem, correct: bool) -> str:
        """A right answer, or the careless one."""

    def reward(self, problem: Problem, completion: str) -> Reward:
        """Judges a completion (text up to the end token). Hostile text gets 0 and a reason, never an exception."""


def is_held_out(prompt: str) -> bool:
    """Splits by a hash of the prompt text: one prompt in eight is held out, for ever."""
    return hashlib.sha256(prompt.encode()).digest()[0] % 8 == 0


def problems(task: Task, split: str, count: int, rng: random.Random, distinct: bool = False) -> list[Problem]:
    """`count` problems of one split ("train" or "held_out").

    Raises:
        ValueError: with `distinct`, when the split does not hold that many different prompts.
    """
    found: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(found) < count:
        problem = task.problem(rng)
        wanted = is_held_out(problem.prompt) == (split == "held_out")
        if not wanted or (distinct and problem.prompt in seen):
            misses += 1
            if misses > 1000 * (len(found) + 10):
                raise ValueError(
                    f"The {split} split of task {task.name} has only about {len(found)} different problems; "
                    f"{count} were asked for. Lower eval_problems."
                )
            continue
        seen.add(problem.prompt)
        found.append(problem)
    return found
