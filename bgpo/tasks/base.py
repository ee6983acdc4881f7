"""What a task is. A task is one file; it needs no torch.

Two kinds: a `GeneratedTask` makes its problems, and demonstrations for the tiny model's warm start; a `ListedTask`
(listed.py) has as many as its data set. Both are asked through `problems` and `step_problems`.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

SPLITS = ("train", "validation", "held_out")

# parts that rewards are made of -> what each says; a run logs the mean of each as reward/part_NAME
PARTS: dict[str, tuple[str, str]] = {
    "correct": ("Correct", "Share of rollouts whose answer is right, whatever else the reward counts."),
    "form": ("Well-formed", "Share of rollouts whose answer could be read at all."),
    "numbers": ("Numbers", "Share of rollouts that use the given numbers, each as often as the rules say."),
    "runs": ("Runs", "Share of rollouts whose program runs to its end."),
    "cells": ("Cells", "Share of the empty cells that were filled in right."),
    "tests": ("Tests passed", "Share of the unit tests that passed."),
    "code": ("Code found", "Share of rollouts that hold code which can be read as Python."),
    "soft_format": ("Soft format", "d1's 0.5 for reasoning and answer tags in this order."),
    "strict_format": ("Strict format", "d1's 0.5 for the tags each on a line of its own and nothing around them."),
    "tags": ("Tag count", "d1's 0.125 for each of the four tags that is there once, less for text behind the last."),
    "whole_number": ("Whole number", "d1's 0.5 for an answer of digits alone."),
    "boxed_format": ("Boxed in tags", "d1's format score: an answer tag, and a box inside it."),
    "own": ("Own reward", "What the reward of the run's own Python file gave."),
}


@dataclass(frozen=True)
class Problem:
    """One item of a task: the user's message to the model, and what the task says is right.

    `given` is what the reward needs besides, such as unit tests; it goes into no comparison of problems.
    """

    prompt: str
    expected: str
    given: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Reward:
    """A verdict: the total, its named parts (PARTS), and the reason in a sentence for a person."""

    total: float
    reason: str
    parts: dict[str, float] = field(default_factory=dict)

    @property
    def solved(self) -> bool:
        """Whether the answer is right: what pass@1 counts, whatever else the total rewards."""
        return self.parts.get("correct", self.total) >= 1


class TaskError(ValueError):
    """A task cannot be used as it is set up, in one sentence with the way out."""


class TaskKnobs(Protocol):
    """The knobs of a config that tasks read."""

    task: str
    protocol: str
    data: str
    task_file: str
    checker: str


class Task(Protocol):
    """Problems, prompts and a reward.

    Attributes:
        name: key in TASKS.
        title: name for people.
        prompt_length: longest prompt in tokens; prompts are padded to it.
        longest_answer: longest right answer in tokens, without the end token; 0: not known beforehand.
        careless: one sentence on the mistake that the warm start's demonstrations make; empty without any.
        placeholder: an example prompt.
        example: an example problem in one line, `prompt -> expected`.
        reads_words: whether prompts are sentences, which the built-in character model cannot read.
        protocols: published ways to ask and to reward that the task knows, its own first; empty: only one way.
        splits: which of SPLITS it has.
    """

    name: str
    title: str
    prompt_length: int
    longest_answer: int
    careless: str
    placeholder: str
    example: str
    reads_words: bool
    protocols: tuple[str, ...]
    splits: tuple[str, ...]

    def problem_from(self, prompt: str) -> Problem:
        """The problem that a typed prompt states; raises ValueError with a sentence if it states none."""

    def reward(self, problem: Problem, completion: str) -> Reward:
        """Judges a completion (text up to the end token). Hostile text gets 0 and a reason, never an exception."""


@runtime_checkable
class GeneratedTask(Task, Protocol):
    """A task that makes as many problems as are asked for."""

    def problem(self, rng: random.Random) -> Problem:
        """One problem of any split, drawn with `rng`."""

    def demonstration(self, problem: Problem, correct: bool) -> str:
        """A right answer, or the careless one."""


class Generated:
    """What the built-in generated tasks have in common."""

    reads_words = False
    protocols: tuple[str, ...] = ()
    splits = SPLITS


@runtime_checkable
class FiniteTask(Task, Protocol):
    """A task whose problems are all there."""

    def problems(self, split: str) -> Sequence[Problem]:
        """All problems of a split, always in the same order. Raises TaskError."""


@runtime_checkable
class BatchTask(Task, Protocol):
    """A task that judges many completions faster than one by one."""

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Reward]:
        """The verdict of each completion on the problem at the same place."""


def rewards(task: Task, problems: Sequence[Problem], completions: Sequence[str]) -> list[Reward]:
    """Judges each completion on the problem at the same place."""
    if isinstance(task, BatchTask):
        return task.rewards(problems, completions)
    return [task.reward(problem, completion) for problem, completion in zip(problems, completions)]


def with_prompt_length(task: Task, prompt_length: int) -> Task:
    """The task with another `prompt_length`."""
    changed = copy.copy(task)
    changed.prompt_length = prompt_length
    return changed


def split_of(prompt: str) -> str:
    """The split of a generated problem, by a hash of its prompt: one in sixteen is for validation, as many held out."""
    digest = hashlib.sha256(prompt.encode()).digest()
    if digest[0] % 8:
        return "train"
    return "validation" if digest[1] % 2 else "held_out"


def problems(task: Task, split: str, count: int, rng: random.Random, distinct: bool = False) -> list[Problem]:
    """`count` problems of one of SPLITS; of a finite task with `distinct`, or if there are enough, without repeats.

    Raises:
        TaskError: when the task has no such split, or, with `distinct`, not that many different prompts in it.
    """
    if isinstance(task, FiniteTask):
        listed = _listed(task, split)
        if len(listed) < count and distinct:
            raise _too_few(task, split, f"only {len(listed):,}", count)
        rounds, rest = divmod(count, len(listed))
        sizes = [len(listed)] * rounds + [rest]
        return [problem for size in sizes for problem in rng.sample(listed, size)]
    found: list[Problem] = []
    seen: set[str] = set()
    misses = 0
    while len(found) < count:
        problem = task.problem(rng)
        if split_of(problem.prompt) != split or (distinct and problem.prompt in seen):
            misses += 1
            if misses > 1000 * (len(found) + 10):
                raise _too_few(task, split, f"only about {len(found):,}", count)
            continue
        seen.add(problem.prompt)
        found.append(problem)
    return found


def step_problems(task: Task, step: int, count: int, random_of: Callable[[str, int], random.Random]) -> list[Problem]:
    """The training problems of a step (0-based). A finite task gives each once per epoch, in an order of that epoch.

    Args:
        random_of: (purpose, number) -> a generator that depends on nothing else but the run's seed.
    """
    if not isinstance(task, FiniteTask):
        return problems(task, "train", count, random_of("problems", step))
    listed = _listed(task, "train")
    size, first = len(listed), step * count
    orders = {
        epoch: random_of("epoch", epoch).sample(range(size), size)
        for epoch in range(first // size, (first + count - 1) // size + 1)
    }
    return [listed[orders[place // size][place % size]] for place in range(first, first + count)]


def _listed(task: FiniteTask, split: str) -> Sequence[Problem]:
    listed = task.problems(split)
    if not listed:
        raise TaskError(
            f"Task {task.name} has no {split} problems; " + (
                "give other data (knob data)." if split in task.splits else
                "it is for evaluation only: choose another task for training, or set job to evaluate."
            )
        )
    return listed


def _too_few(task: Task, split: str, found: str, count: int) -> TaskError:
    return TaskError(
        f"The {split} split of task {task.name} has {found} different problems; {count} were asked for. "
        "Lower eval_problems."
    )
