"""The process of a desk (grading.py): opens a run's task once, then answers a question a line.

    {"examples": 6, "page": 0}            -> {"examples": [[question, prompt], ...]}     of the held-out problems
    {"prompt": text}                      -> {"prompt": the problem's whole prompt, or null}
    {"prompt": text, "completion": text}  -> a verdict as grading.verdict_json writes it

What cannot be done is {"error": sentence}.
"""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

from bgpo.config import TrainConfig
from bgpo.jobs.grading import verdict_json
from bgpo.tasks.base import SPLITS, FiniteTask, Problem, TaskError
from bgpo.tasks.listed import question_in
from bgpo.training.plugins import PluginError, judge_of, task_of

_SEED = "desk"


class Desk:
    """A run's task and judge."""

    def __init__(self, config: TrainConfig, folder: Path):
        self.task = task_of(config, folder)
        self.judge = judge_of(config, folder) or self.task.reward
        self._shuffled: list[Problem] = []
        self._read = not isinstance(self.task, FiniteTask)

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        if "examples" in question:
            return {"examples": self.examples(question["examples"], question["page"])}
        problem = self.problem(question["prompt"])
        if "completion" not in question:
            return {"prompt": problem.prompt if problem else None}
        return verdict_json(self.judge(problem, question["completion"]))

    def problem(self, prompt: str) -> Problem | None:
        if not self._read:
            self.task.problems(self.task.splits[0])  # a prompt can only be found among what was read
            self._read = True
        try:
            return self.task.problem_from(prompt)
        except TaskError:
            raise
        except ValueError:
            return None

    def examples(self, count: int, page: int) -> list[list[str]]:
        """Those of a page; behind the last page comes the first again."""
        if not self._shuffled:
            split = next(name for name in reversed(SPLITS) if name in self.task.splits and self.task.problems(name))
            self._shuffled = list(self.task.problems(split))
            random.Random(_SEED).shuffle(self._shuffled)
        first = page * count % len(self._shuffled)
        shown = (self._shuffled + self._shuffled)[first : first + min(count, len(self._shuffled))]
        return [[question_in(problem), problem.prompt] for problem in shown]


def main() -> None:
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a task prints goes elsewhere
    run = json.loads(sys.stdin.readline())
    desk: Desk | None = None
    for line in sys.stdin:
        try:
            desk = desk or Desk(TrainConfig.from_json(run["config"]), Path(run["folder"]))
            said = desk.answer(json.loads(line))
        except (TaskError, PluginError) as error:
            said = {"error": str(error)}
        except StopIteration:
            said = {"error": "The task has no problems to try; see its data."}
        print(json.dumps(said), file=answer_to, flush=True)


if __name__ == "__main__":
    main()
