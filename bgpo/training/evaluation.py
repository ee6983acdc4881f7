"""Held-out reward: pass@1 on problems whose prompts training never sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from bgpo.config import TrainConfig
from bgpo.models.decoding import SamplerSettings
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.sampler import Denoised, complete
from bgpo.tasks.base import Problem, Task, TaskError, problems
from bgpo.training.rollouts import Judge, trace_json, verdicts_on
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


@dataclass(frozen=True)
class Evaluation:
    """Rewards in [0, 1] with one standard error each, and the shown problems' greedy completions."""

    metrics: dict[str, float]
    shown: list[HeldOutCompletion]


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
    _, texts = _decode(model, task, config, validation, 0.0, check)
    verdicts = verdicts_on(validation, texts, task, judge)
    return _mean_and_error("reward/validation_greedy", torch.tensor([float(verdict.total) for verdict in verdicts]))


def evaluation_settings(config: TrainConfig, temperature: float, length: int = 0) -> SamplerSettings:
    """How an evaluation denoises; `length` 0 is the config's own, others take as many tokens per pass."""
    c, length = config, length or config.completion_length
    per_pass = c.eval_tokens_per_pass or c.completion_length / c.denoising_steps
    blocks = length // c.block_length
    steps = c.denoising_steps
    if length != c.completion_length or c.eval_tokens_per_pass:
        steps = blocks * max(1, min(c.block_length, round(c.block_length / per_pass)))
    return SamplerSettings(
        length, steps, c.block_length, temperature, c.eval_remasking, c.eval_schedule, c.confidence_threshold, c.factor,
        c.entropy_bound, c.eval_cache, c.eval_cfg_scale, c.stop_at_eos,
    )


def evaluate(
    model: Denoiser,
    task: Task,
    config: TrainConfig,
    held_out: list[Problem],
    judge: Judge | None = None,
    check: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Greedy and T = 1 reward. Every evaluation of a run uses the same noise, so changes are the weights'.

    Args:
        judge: verdict on (problem, completion); the task's own when None.
    """
    greedy, texts = _decode(model, task, config, held_out, 0.0, check)
    _, sampled_texts = _decode(model, task, config, held_out, 1.0, check)
    verdicts, sampled_verdicts = (verdicts_on(held_out, written, task, judge) for written in (texts, sampled_texts))
    rewards, sampled = (
        torch.tensor([float(verdict.total) for verdict in judged]) for judged in (verdicts, sampled_verdicts)
    )
    metrics = _mean_and_error("reward/heldout_greedy", rewards) | _mean_and_error("reward/heldout_sampled", sampled)
    return Evaluation(metrics, [
        HeldOutCompletion(
            index, problem.prompt, texts[index], problem.expected, rewards[index].item(), verdicts[index].reason,
            trace_json(model, greedy.ids[index], greedy.commit_step[index], greedy.confidence[index]),
        )
        for index, problem in enumerate(held_out[:SHOWN])
    ])


def _decode(model, task, config, held_out, temperature, check) -> tuple[Denoised, list[str]]:
    settings = evaluation_settings(config, temperature)
    seed = derived_seed(config.seed, f"evaluation at {temperature}")
    parts = []
    for start in range(0, len(held_out), _ROWS_PER_PASS):
        prompts = [problem.prompt for problem in held_out[start : start + _ROWS_PER_PASS]]
        noise = Noise(seed, torch.arange(start, start + len(prompts), device=model.device))
        parts.append(complete(model, model.encode_prompts(prompts, task.prompt_length), settings, noise, check))
    return parts[0], [text for part in parts for text in model.decode(part.ids)]


def _mean_and_error(name: str, rewards: torch.Tensor) -> dict[str, float]:
    return {name: rewards.mean().item(), f"{name}_se": (rewards.std() / len(rewards) ** 0.5).item()}


if __name__ == "__main__":
    import sys

    from bgpo.training.assess import main

    sys.exit(main())
