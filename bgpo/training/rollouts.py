"""Prompts -> completions -> rewards -> advantages, as one `Rollouts`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpo.algorithm.advantages import ADVANTAGES
from bgpo.config import TrainConfig
from bgpo.models.denoiser import Denoiser
from bgpo.models.sampler import Denoised, SamplerSettings, complete
from bgpo.tasks.base import Problem, Task, problems
from bgpo.training.seeds import python_random, torch_generator

Judge = Callable[[Problem, str], float]


@dataclass(frozen=True)
class Rollouts:
    """One step's completions. P prompts, G group size, B = P * G rows in group order, L positions.

    Attributes:
        prompt_ids: (B, prompt length); prompt_length: (B,) without padding; completion_ids: (B, L).
        written: (B, L) bool, up to and including the first end token.
        commit_step: (B, L) denoising step of each token, 1..N; logprob: (B, L) what each was drawn with.
        reward: (P, G); advantage: (B,).
        metrics: what the step's rollouts say, by metric name.
    """

    prompt_ids: Tensor
    prompt_length: Tensor
    completion_ids: Tensor
    written: Tensor
    commit_step: Tensor
    logprob: Tensor
    reward: Tensor
    advantage: Tensor
    metrics: dict[str, float]


def rollout_settings(config: TrainConfig) -> SamplerSettings:
    return SamplerSettings(
        config.completion_length, config.denoising_steps, config.block_length, config.temperature, config.remasking,
        config.masked_head,
    )


def collect(
    model: Denoiser,
    task: Task,
    config: TrainConfig,
    step: int,
    judge: Judge | None = None,
    check: Callable[[], None] = lambda: None,
) -> Rollouts:
    """Draws the problems of `step`, lets the model complete each G times and judges them.

    Args:
        judge: reward of (problem, completion); the task's own when None.
    """
    P, G = config.prompts_per_step, config.group_size
    chosen = problems(task, "train", P, python_random(config.seed, "problems", step))
    prompt_ids = model.encode_prompts([p.prompt for p in chosen], task.prompt_length).repeat_interleave(G, 0)
    generator = torch_generator(config.seed, "rollout", step, model.device)
    done = complete(model, prompt_ids, rollout_settings(config), generator, check)
    texts = model.decode(done.ids)
    judge = judge or (lambda problem, text: task.reward(problem, text).total)
    verdicts = [judge(chosen[row // G], text) for row, text in enumerate(texts)]
    reward = torch.tensor(verdicts, device=model.device, dtype=torch.float32).view(P, G)
    advantage = ADVANTAGES[config.advantage](reward)
    tokens = model.completion_tokens(done.ids)
    return Rollouts(
        prompt_ids, model.prompt_tokens(prompt_ids), done.ids,
        torch.arange(done.ids.shape[1], device=tokens.device) < tokens[:, None], done.commit_step, done.logprob, reward,
        advantage.reshape(-1), _metrics(done, texts, tokens, reward, advantage),
    )


def _metrics(
    done: Denoised, texts: list[str], tokens: Tensor, reward: Tensor, advantage: Tensor
) -> dict[str, float]:
    P, G = reward.shape
    groups = [texts[start : start + G] for start in range(0, P * G, G)]
    return {
        "reward/mean": reward.mean().item(),
        "reward/pass_at_group": (reward >= 1).any(1).float().mean().item(),
        "groups/live_fraction": (advantage != 0).any(1).float().mean().item(),
        "groups/distinct_fraction": sum(len(set(group)) for group in groups) / (P * G),
        "completion/tokens": tokens.float().mean().item(),
        "completion/tokens_max": float(tokens.max().item()),
        # the mean surprise of what was drawn: an unbiased estimate that needs no pass of its own
        "policy/entropy": -done.logprob.mean().item(),
        "rollout/nfe": float(done.nfe),
    }
