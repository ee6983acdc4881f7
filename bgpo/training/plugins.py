"""A researcher's own objective or reward, from a Python file that the config names.

    # my_objective.py: tensors (B, K), (B, K), (B,) -> (B,), to be maximised
    def objective(elbo, old_elbo, advantage):
        return advantage * (elbo - old_elbo).mean(-1).exp()

    SEPARABLE = False    # True: a mean of terms that need one mask draw each; then one pass is enough

    # my_reward.py: the prompt, the task's expected answer, the text up to the end token -> a number
    def reward(prompt, expected, completion):
        return 1.0 if completion == expected else 0.0

    # or a dict of named parts, which are shown beside each completion; the reward is "total", or else their sum
        return {"correct": 1.0, "short": 0.2}

The file is code and runs with the rights of the trainer. It is copied into the run's folder when the run begins, and
the copy is what runs, so that a resumed run does what the first one did.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bgpo.algorithm.knobs import CUSTOM
from bgpo.algorithm.objectives import OBJECTIVES, Objective
from bgpo.config import TrainConfig
from bgpo.tasks import own_file
from bgpo.tasks.base import Problem, Reward, Task, TaskError
from bgpo.tasks.registry import open_task

if TYPE_CHECKING:  # a form checks the files without loading torch
    from torch import Tensor

_FUNCTIONS = {"objective_file": ("objective",), "reward_file": ("reward",), "task_file": own_file.FUNCTIONS}


class PluginError(ValueError):
    """The file is missing, does not load, or its function gives what training cannot use; in one sentence."""


def keep_copies(config: TrainConfig, folder: Path) -> None:
    """Copies the files that the config names into the run's folder, unless an earlier start has.

    Raises:
        PluginError: when a file is missing, defines no such function or came with an imported run.
    """
    for knob in _FUNCTIONS:
        given, kept = getattr(config, knob), _kept(folder, knob)
        if given and not kept.exists():
            check_file(knob, given)
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(os.path.expanduser(given), kept)


def file_problems(config: TrainConfig) -> dict[str, str]:
    """What is wrong with the files that the config names, by knob; they are read, not run."""
    problems = {}
    for knob in _FUNCTIONS:
        try:
            if given := getattr(config, knob):
                check_file(knob, given)
        except PluginError as error:
            problems[knob] = str(error)
    return problems


def check_file(knob: str, given: str) -> None:
    """Reads a file without running it; raises PluginError when it is not one to be run."""
    try:
        own_file.check_origin(knob, given)
        tree = ast.parse(Path(os.path.expanduser(given)).read_text(encoding="utf-8"))
    except TaskError as error:
        raise PluginError(str(error)) from error
    except OSError as error:
        why = error.strerror or error
        raise PluginError(f"{knob} = {given} cannot be read ({why}); give the path of a Python file.") from error
    except (SyntaxError, ValueError) as error:
        raise PluginError(f"{knob} = {given} is not Python: {error}; mend the file.") from error
    defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    for function in _FUNCTIONS[knob]:
        if function not in defined:
            raise PluginError(f"{knob} = {given} defines no function {function}(...); add one at the top level.")


def task_of(config: TrainConfig, folder: Path) -> Task:
    """The config's task; one of the researcher's own from the run's copy of `task_file`."""
    kept = str(_kept(folder, "task_file")) if config.task_file else ""
    return open_task(config.model_copy(update={"task_file": kept}))


def objective_of(config: TrainConfig, folder: Path) -> Objective:
    """The registered objective, or the one in the run's copy of `objective_file`."""
    if config.objective != CUSTOM:
        return OBJECTIVES[config.objective]
    module = _load("objective_file", _kept(folder, "objective_file"))

    def value(elbo: Tensor, old_elbo: Tensor, advantage: Tensor) -> Tensor:
        try:
            result = module.objective(elbo, old_elbo, advantage)
        except Exception as error:
            raise PluginError(f"objective(...) in objective_file failed: {type(error).__name__}: {error}.") from error
        shape = tuple(result.shape) if isinstance(result, type(elbo)) else type(result).__name__
        if shape != tuple(advantage.shape):
            raise PluginError(
                f"objective(...) in objective_file gave {shape} for {len(advantage)} completions; return one value "
                f"each, shape {tuple(advantage.shape)}."
            )
        if elbo.requires_grad and not result.requires_grad:
            raise PluginError("objective(...) in objective_file has no gradient in elbo; use elbo without detach().")
        return result

    separable = bool(getattr(module, "SEPARABLE", False))
    return Objective(
        CUSTOM, "Custom", value, "From objective_file.", config.objective_file, separable=separable, ratio_only=False
    )


def judge_of(config: TrainConfig, folder: Path) -> Callable[[Problem, str], Reward] | None:
    """The reward in the run's copy of `reward_file`, or None for the task's own."""
    if not config.reward_file:
        return None
    module = _load("reward_file", _kept(folder, "reward_file"))

    def judge(problem: Problem, completion: str) -> Reward:
        try:
            given = module.reward(problem.prompt, problem.expected, completion)
            parts = {str(name): float(value) for name, value in given.items()} if isinstance(given, Mapping) else {}
            total = parts.pop("total", sum(parts.values())) if isinstance(given, Mapping) else float(given)
        except Exception as error:
            raise PluginError(
                f"reward(...) in reward_file failed on {completion[:40]!r}: {type(error).__name__}: {error}."
            ) from error
        wrong = next((value for value in (total, *parts.values()) if not math.isfinite(value)), None)
        if wrong is not None:
            shown = repr(completion[:40])
            raise PluginError(f"reward(...) in reward_file gave {wrong} for {shown}; return a finite number.")
        return Reward(total, f"reward_file: {total:g}", parts)

    return judge


def _kept(folder: Path, knob: str) -> Path:
    return folder / own_file.KEPT_CODE / f"{knob.removesuffix('_file')}.py"


def _load(knob: str, path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"bgpo_{knob}", path)
    module: Any = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise PluginError(f"{knob} failed while it was loaded: {type(error).__name__}: {error}.") from error
    (function,) = _FUNCTIONS[knob]
    if not callable(getattr(module, function, None)):
        raise PluginError(f"{knob} defines no function {function}(...); add one at the top level.")
    return module
