"""Task `own_file`: a Python file of one's own with three functions, named by knob `task_file`.

    def problems(split):              # "train", "validation" or "held_out" -> a list of anything
        return [{"question": f"{n} + {n}?", "answer": 2 * n} for n in range(100 if split == "train" else 10)]

    def prompt(problem):              # the user's message to the model
        return problem["question"]

    def reward(problem, completion):  # a number, or a dict of named parts (total: "total", or else their sum)
        return {"correct": float(completion.strip() == str(problem["answer"]))}

The file is code and runs with the rights of the trainer; a run keeps a copy. Problems that another split holds as well
are taken out of training; without validation problems some are split off from training by hash.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from bgpo.tasks.base import Problem, Reward, TaskError, TaskKnobs
from bgpo.tasks.data import Row, Tables
from bgpo.tasks.listed import ListedTask

FUNCTIONS = ("problems", "prompt", "reward")
# in a run's folder: its copies of the files that its config names, and code that came with the archive of a run
KEPT_CODE, IMPORTED_CODE = "code", "imported_code"
_TABLES = {"train": "train", "validation": "validation", "held_out": "test"}


class OwnFile(ListedTask):
    """Asks the file's functions. `expected` is the problem's "expected" or "answer", if it is a dict that has one."""

    name = "own_file"
    title = "Your own Python file"
    prompt_length = 512
    placeholder = "What is the capital of France?"
    example = "problems(split), prompt(problem), reward(problem, completion)"
    protocols = ()
    task_file = ""
    _module: ModuleType | None = None

    @property
    def protocol(self) -> str:
        return ""

    def opened(self, knobs: TaskKnobs) -> ListedTask:
        task = copy.copy(self)
        task.task_file, task._splits, task._module = knobs.task_file, None, None
        return task

    def tables(self) -> Tables:
        return {table: [{"problem": item} for item in self._listed(split)] for split, table in _TABLES.items()}

    def problem_of(self, row: Row) -> Problem:
        item = row["problem"]
        prompt = self._call("prompt", item)
        if not isinstance(prompt, str) or not prompt.strip():
            raise TaskError(f"prompt(...) in task_file gave {prompt!r:.60} for {item!r:.60}; return a text.")
        known = item if isinstance(item, Mapping) else {}
        expected = known.get("expected", known.get("answer", ""))
        return Problem(prompt, str(expected), {"problem": item})

    def reward(self, problem: Problem, completion: str) -> Reward:
        given = self._call("reward", problem.given["problem"], completion)
        try:
            if isinstance(given, Reward):
                return given
            parts = {str(name): float(value) for name, value in given.items()} if isinstance(given, Mapping) else {}
            total = parts.pop("total", sum(parts.values())) if isinstance(given, Mapping) else float(given)
        except (TypeError, ValueError):
            parts, total = {}, math.nan
        if not all(map(math.isfinite, (total, *parts.values()))):
            raise TaskError(
                f"reward(...) in task_file gave {given!r:.60} for {completion!r:.60}; return a finite number or a dict "
                "of them."
            )
        return Reward(total, f"task_file: {total:g}", parts)

    def _listed(self, split: str) -> list[Any]:
        listed = self._call("problems", split)
        if not isinstance(listed, (list, tuple)):
            raise TaskError(
                f"problems({split!r}) in task_file gave {listed!r:.60}; return a list, if need be []."
            )
        return list(listed)

    def _call(self, function: str, *arguments: Any) -> Any:
        if self._module is None:
            self._module = load(self.task_file)
        try:
            return getattr(self._module, function)(*arguments)
        except Exception as error:
            raise TaskError(f"{function}(...) in task_file failed: {type(error).__name__}: {error}.") from error


def check_origin(knob: str, given: str) -> None:
    """Raises TaskError for a file that came with the archive of a run.

    Whoever wrote the archive wrote the config, too, which may so name a file of the archive: not only code, since
    what a checkpoint's file says can be Python. What a run has copied has passed this.
    """
    path = Path(os.path.realpath(os.path.expanduser(given)))
    for folder in path.parents:  # not by name: a disk may take IMPORTED_CODE in other letters for the same
        imported = os.path.isdir(folder / IMPORTED_CODE) and os.path.isfile(folder / "config.json")
        if imported and not path.is_relative_to(folder / KEPT_CODE):
            raise TaskError(
                f"{knob} = {given} came with an imported run, so it is not run; read it, copy it to a folder of your "
                "own and name the copy."
            )


def load(task_file: str) -> ModuleType:
    """Runs the file and checks that it has its three functions. Raises TaskError."""
    path = Path(os.path.expanduser(task_file))
    if not task_file or not path.is_file():
        raise TaskError(f"task_file = {task_file or 'nothing'} is no file; give the path of a Python file.")
    check_origin("task_file", task_file)
    spec = importlib.util.spec_from_file_location("bgpo_task_file", path)
    if spec is None:
        raise TaskError(f"task_file = {task_file} does not end in .py; rename the file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise TaskError(f"task_file failed while it was loaded: {type(error).__name__}: {error}.") from error
    missing = [name for name in FUNCTIONS if not callable(getattr(module, name, None))]
    if missing:
        raise TaskError(f"task_file defines no function {missing[0]}(...); add one at the top level.")
    return module
