"""Prompts -> completions -> rewards -> advantages, as one `Rollouts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpo.algorithm.advantages import ADVANTAGES
from bgpo.config import TrainConfig
from bgpo.models.denoiser import Denoiser
from bgpo.models.sampler import SamplerSettings, complete
from bgpo.tasks.base import Task, problems
from bgpo.training.seeds import python_random, torch_generator


@dataclass(frozen=True)
class Rollouts:
    """One step's completions. P prompts, G group size, B = P * G rows in group order, L positions.

    Attributes:
        prompt_ids: (B, prompt length); completion_ids: (B, L).
        reward: (P, G); advantage: (B,).
        metrics: what the step's rollouts say, by metric name.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    reward: Tensor
    advantage: Tensor
    metrics: dict[str, float]


def rollout_settings(config: TrainConfig) -> SamplerSettings:
    return SamplerSettings(
        config.completion_length, config.denoising_steps, config.block_length, config.temperature, config.remasking
    )


def collect(
    model: Denoiser, task: Task, config: TrainConfig, step: int, check: Callable[[], None] = lambda: None
) -> Rollouts:
    """Draws the problems of `step`, lets the model complete each G times and judges them."""
    P, G = config.prompts_per_step, config.group_size
    chosen = problems(task, "train", P, python_random(config.seed, "problems", step))
    prompt_ids = model.encode_prompts([p.prompt for p in chosen], task.prompt_length).repeat_interleave(G, 0)
    generator = torch_generator(config.seed, "rollout", step, model.device)
    done = complete(model, prompt_ids, rollout_settings(config), generator, check)
    texts = model.decode(done.ids)
    verdicts = [task.reward(chosen[row // G], text).total for row, text in enumerate(texts)]
    reward = torch.tensor(verdicts, device=model.device).view(P, G)
    advantage = ADVANTAGES[config.advantage](reward)
    groups = [texts[start : start + G] for start in range(0, P * G, G)]
    metrics = {
        "reward/mean": reward.mean().item(),
        "reward/pass_at_group": (reward >= 1).any(1).float().mean().item(),
        "groups/live_fraction": (advantage != 0).any(1).float().mean().item(),
        "groups/distinct_fraction": sum(len(set(group)) for group in groups) / (P * G),
        "completion/tokens": model.completion_tokens(done.ids).float().mean().item(),
        "rollout/nfe": float(done.nfe),
    }
    return Rollouts(prompt_ids, done.ids, reward, advantage.reshape(-1), metrics)
