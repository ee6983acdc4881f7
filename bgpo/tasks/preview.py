"""A look at a task before it is launched: real problems with their answers, and its grader on a text of one's own.

Plain functions of a config for a page to show. They read the data that a run would read, so call them on request.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from bgpo.tasks.base import FiniteTask, Problem, Task, TaskError, TaskKnobs, problems
from bgpo.tasks.registry import open_task

_SEED = "preview"
_MOST = 100


@dataclass(frozen=True)
class PreviewedProblem:
    """A problem as the model will be asked it, and what is right."""

    index: int
    prompt: str
    expected: str


@dataclass(frozen=True)
class Preview:
    """Some problems of a split, and how many there are of each; 0 sizes for a task that makes its problems."""

    problems: tuple[PreviewedProblem, ...]
    sizes: dict[str, int]


@dataclass(frozen=True)
class Graded:
    """What the task's grader says to a text."""

    total: float
    solved: bool
    reason: str
    parts: dict[str, float]


def preview(config: TaskKnobs, count: int = 5) -> Preview:
    """Problems of the first split that the task has: always the same ones for a config.

    Raises:
        TaskError: when the data cannot be read, or the task needs a sandbox that is not there.
    """
    task = open_task(config)
    drawn = _drawn(task, min(count, _MOST))
    sizes = {split: len(task.problems(split)) for split in task.splits} if isinstance(task, FiniteTask) else {}
    return Preview(tuple(PreviewedProblem(i, p.prompt, p.expected) for i, p in enumerate(drawn)), sizes)


def try_grader(config: TaskKnobs, problem_index: int, text: str) -> Graded:
    """Judges `text` as a completion of the problem that `preview` shows under `problem_index`.

    Raises:
        TaskError: as `preview`, and for an index that it does not show.
    """
    if not 0 <= problem_index < _MOST:
        raise TaskError(f"There is no problem {problem_index} in the preview; choose one of those shown.")
    task = open_task(config)
    drawn = _drawn(task, problem_index + 1)
    if problem_index >= len(drawn):
        raise TaskError(f"There is no problem {problem_index} in the preview; choose one of those shown.")
    verdict = task.reward(drawn[problem_index], text)
    return Graded(verdict.total, verdict.solved, verdict.reason, verdict.parts)


def _drawn(task: Task, count: int) -> list[Problem]:
    """The first `count` of one order, so that more of them begin with the same ones."""
    split = task.splits[0]
    if not isinstance(task, FiniteTask):
        return problems(task, split, count, random.Random(_SEED))
    listed = list(task.problems(split))
    random.Random(_SEED).shuffle(listed)
    return listed[:count]
