"""Held-out problems during a run: mean reward, and pass@1 and pass@k at the lengths that the config asks for.

Reward is what the task pays, pass@1 the share of answers that are right; they are one number only where a task pays 0
or 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bgpo.config import TrainConfig
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.registry import MODELS
from bgpo.models.sampler import Denoised, complete
from bgpo.tasks.base import Problem, Task, TaskError, problems
from bgpo.training.metrics import at_length
from bgpo.training.rollouts import Judge, verdicts_on
from bgpo.training.scores import Judged, Score, assess, evaluation_settings, judged_rows, score_of
from bgpo.training.seeds import derived_seed, python_random

SHOWN = 6
_ROWS_PER_PASS = 512


@dataclass(frozen=True)
class HeldOutCompletion:
    """One shown problem at one evaluation. `trace` is JSON: [[step, position, token, confidence], ...]."""

    index: int
    prompt: str
    completion: str
    expected: str
    reward: float
    reason: str
    trace: str
    solved: bool

    @classmethod
    def of(cls, index: int, judged: Judged) -> HeldOutCompletion:
        one = judged
        return cls(index, one.prompt, one.completion, one.expected, one.reward, one.reason, one.trace, one.solved)


@dataclass(frozen=True)
class Evaluation:
    """Metrics by name, the shown problems' greedy completions, and every completion with its verdict."""

    metrics: dict[str, float]
    shown: list[HeldOutCompletion]
    judged: list[Judged]


def held_out_problems(task: Task, config: TrainConfig) -> list[Problem]:
    """The same problems at every evaluation of every run of this task, in the same order."""
    return problems(task, "held_out", config.eval_problems, python_random(0, "held out"), distinct=True)


def validation_problems(task: Task, config: TrainConfig) -> list[Problem]:
    """What checkpoints are chosen on, so that held-out reward is a fair measure of the chosen one.

    Empty for a task that has not as many of them as an evaluation takes; its checkpoints have no reward to choose by.
    """
    try:
        return problems(task, "validation", config.eval_problems, python_random(0, "validation"), distinct=True)
    except TaskError:
        return []


def validation_reward(
    model: Denoiser, task: Task, config: TrainConfig, validation: list[Problem], judge: Judge | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Greedy reward on the validation problems, with one standard error."""
    if not validation:
        return {}
    texts = [text for done in _decode(model, task, config, validation, 0.0, check) for text in model.decode(done.ids)]
    return _mean_and_error("reward/validation_greedy", [v.total for v in verdicts_on(validation, texts, task, judge)])


def evaluate(
    model: Denoiser,
    task: Task,
    config: TrainConfig,
    held_out: list[Problem],
    judge: Judge | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Greedy and T = 1 reward, and the scores that the config asks for.

    Every evaluation of a run uses the same noise, so changes are the weights'.

    Args:
        judge: verdict on (problem, completion); the task's own when None.
    """
    greedy: list[Judged] = []
    for done in _decode(model, task, config, held_out, 0.0, check):
        rows = [(index, 0) for index in range(len(greedy), len(greedy) + len(done.ids))]
        greedy += judged_rows(model, task, rows, held_out[len(greedy) :][: len(rows)], done, judge)
    texts = [text for done in _decode(model, task, config, held_out, 1.0, check) for text in model.decode(done.ids)]
    sampled = verdicts_on(held_out, texts, task, judge)
    metrics = _mean_and_error("reward/heldout_greedy", [one.reward for one in greedy])
    metrics |= _mean_and_error("reward/heldout_sampled", [verdict.total for verdict in sampled])
    scores, judged = _scores(model, task, config, held_out, greedy, judge, check)
    for score in scores:
        metrics |= _metrics_at_length(score)
    return Evaluation(
        metrics, [HeldOutCompletion.of(index, one) for index, one in enumerate(greedy[:SHOWN])], judged,
    )


def measures_pass(config: TrainConfig) -> bool:
    """Whether a run's evaluations measure pass@1: always of published models, of the built-in one when asked to.

    Its tasks pay 0 or 1, so that reward says the same.
    """
    return not MODELS[config.model].built_in or bool(config.eval_lengths.strip()) or config.eval_samples > 1


def _scores(
    model: Denoiser, task: Task, config: TrainConfig, held_out: list[Problem], greedy: list[Judged],
    judge: Judge | None, check: Callable[[], None],
) -> tuple[list[Score], list[Judged]]:
    """A score per length, and all completions; the greedy ones at the run's own length are there already."""
    scores, judged = [], list(greedy)
    for length in eval_lengths(config) if measures_pass(config) else []:
        if length == config.completion_length and config.eval_samples == 1:
            scores.append(score_of(greedy, len(held_out), 1))
            continue
        score, some = assess(model, task, config, held_out, length, judge, check)
        scores.append(score)
        judged += some
    return scores, judged


def _metrics_at_length(score: Score) -> dict[str, float]:
    """With one try pass@k is pass@1, so it is left out."""
    return {
        at_length(name, score.length): value for name, value in score.metrics().items()
        if name != "eval/pass_k" or score.samples > 1
    }


def _decode(
    model: Denoiser, task: Task, config: TrainConfig, listed: list[Problem], temperature: float,
    check: Callable[[], None],
) -> list[Denoised]:
    settings = evaluation_settings(config, temperature)
    seed = derived_seed(config.seed, f"evaluation at {temperature}")
    parts = []
    for start in range(0, len(listed), _ROWS_PER_PASS):
        prompts = [problem.prompt for problem in listed[start : start + _ROWS_PER_PASS]]
        noise = Noise(seed, torch.arange(start, start + len(prompts), device=model.device))
        parts.append(complete(model, model.encode_prompts(prompts, task.prompt_length), settings, noise, check))
    return parts


def _mean_and_error(name: str, rewards: list[float]) -> dict[str, float]:
    values = torch.tensor([float(reward) for reward in rewards])
    return {name: values.mean().item(), f"{name}_se": (values.std() / len(values) ** 0.5).item()}


if __name__ == "__main__":
    import sys

    from bgpo.training.assess import main

    sys.exit(main())
