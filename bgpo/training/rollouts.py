"""Prompts -> completions -> rewards -> advantages, as one `Rollouts`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bgpo.algorithm.advantages import ADVANTAGES
from bgpo.config import TrainConfig
from bgpo.models.decoding import SamplerSettings
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.sampler import Denoised, complete
from bgpo.tasks.base import PARTS, Problem, Reward, Task, rewards, step_problems
from bgpo.training.seeds import derived_seed, python_random

Judge = Callable[[Problem, str], Reward]


@dataclass(frozen=True)
class Rollouts:
    """One step's completions. P prompts, G group size, B = P * G rows in group order, L positions.

    Attributes:
        prompt_ids: (B, prompt length); prompt_length: (B,) without padding; completion_ids: (B, L).
        written: (B, L) bool, up to and including the first end token.
        commit_step: (B, L) denoising step of each token, 1..N, and 0 where a completion that had ended was filled up;
            logprob: (B, L) what each was drawn with.
        reward: (P, G); advantage: (B,).
        confidence: (B, L) probability of each token at temperature 1.
        problems: P; texts, verdicts: B, what was written and how it was judged.
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
    confidence: Tensor
    problems: list[Problem]
    texts: list[str]
    verdicts: list[Reward]
    metrics: dict[str, float]


@dataclass(frozen=True)
class KeptRollout:
    """One completion in plain values, for people to look at; `trace` as `trace_json` writes it."""

    problem_index: int
    completion_index: int
    prompt: str
    completion: str
    expected: str
    reward: float
    advantage: float
    tokens: int
    reason: str
    parts: dict[str, float]
    trace: str
    solved: bool


def rollout_settings(config: TrainConfig) -> SamplerSettings:
    c = config
    return SamplerSettings(
        c.completion_length, c.denoising_steps, c.block_length, c.temperature, c.remasking, c.schedule,
        c.confidence_threshold, c.factor, c.entropy_bound, c.cache, c.cfg_scale, c.stop_at_eos, c.masked_head,
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
        judge: verdict on (problem, completion); the task's own when None.
    """
    P, G = config.prompts_per_step, config.group_size
    chosen = step_problems(task, step, P, partial(python_random, config.seed))
    prompt_ids = model.encode_prompts([p.prompt for p in chosen], task.prompt_length).repeat_interleave(G, 0)
    noise = Noise(derived_seed(config.seed, "rollout", step))
    done = complete(model, prompt_ids, rollout_settings(config), noise, check)
    texts = model.decode(done.ids)
    verdicts = verdicts_on([chosen[row // G] for row in range(P * G)], texts, task, judge)
    reward = torch.tensor([verdict.total for verdict in verdicts], device=model.device, dtype=torch.float32).view(P, G)
    advantage = ADVANTAGES[config.advantage](reward)
    tokens = model.completion_tokens(done.ids)
    return Rollouts(
        prompt_ids, model.prompt_tokens(prompt_ids), done.ids,
        torch.arange(done.ids.shape[1], device=tokens.device) < tokens[:, None], done.commit_step, done.logprob, reward,
        advantage.reshape(-1), done.confidence, chosen, texts, verdicts,
        _metrics(done, texts, tokens, reward, advantage, verdicts),
    )


def verdicts_on(problems: list[Problem], texts: list[str], task: Task, judge: Judge | None) -> list[Reward]:
    """The verdict on each text as an answer to the problem at the same place; without `judge` the task's own."""
    if judge is None:
        return rewards(task, problems, texts)
    return [judge(problem, text) for problem, text in zip(problems, texts)]


def part_means(verdicts: list[Reward]) -> dict[str, float]:
    """The mean of each declared part that the verdicts name; those of a reward_file's own stay with its rollouts."""
    named = dict.fromkeys(name for verdict in verdicts for name in verdict.parts if name in PARTS)
    return {
        f"reward/part_{name}": sum(verdict.parts.get(name, 0.0) for verdict in verdicts) / len(verdicts)
        for name in named
    }


def kept_rollouts(model: Denoiser, rollouts: Rollouts, groups: int) -> list[KeptRollout]:
    """The completions of the step's first `groups` problems: which problems come first is chance."""
    P, G = rollouts.reward.shape
    rows = range(min(groups, P) * G)
    tokens, advantage = (values.tolist() for values in (rollouts.written.sum(1), rollouts.advantage))
    found = []
    for row in rows:
        problem, verdict = rollouts.problems[row // G], rollouts.verdicts[row]
        found.append(KeptRollout(
            row // G, row % G, problem.prompt, rollouts.texts[row], problem.expected, verdict.total, advantage[row],
            tokens[row], verdict.reason, verdict.parts,
            trace_json(model, rollouts.completion_ids[row], rollouts.commit_step[row], rollouts.confidence[row]),
            verdict.solved,
        ))
    return found


def trace_json(model: Denoiser, ids: Tensor, commit_step: Tensor, confidence: Tensor) -> str:
    """How one completion (L,) was filled: `[[step, position, token, confidence], ...]` in the order of filling."""
    pieces, steps, sure = model.pieces(ids.tolist()), commit_step.tolist(), confidence.tolist()
    events = [[steps[i], i, pieces[i], round(sure[i], 4)] for i in range(len(pieces))]
    return json.dumps(sorted(events))


def _metrics(
    done: Denoised, texts: list[str], tokens: Tensor, reward: Tensor, advantage: Tensor, verdicts: list[Reward]
) -> dict[str, float]:
    P, G = reward.shape
    solved = torch.tensor([float(verdict.solved) for verdict in verdicts]).view(P, G)
    groups = [texts[start : start + G] for start in range(0, P * G, G)]
    return {
        "reward/mean": reward.mean().item(),
        "reward/solved": solved.mean().item(),
        "reward/pass_at_group": solved.amax(1).mean().item(),
        "groups/live_fraction": (advantage != 0).any(1).float().mean().item(),
        "groups/distinct_fraction": sum(len(set(group)) for group in groups) / (P * G),
        "completion/tokens": tokens.float().mean().item(),
        "completion/tokens_max": float(tokens.max().item()),
        # the mean surprise of what was drawn: an unbiased estimate that needs no pass of its own
        "policy/entropy": -done.logprob[done.commit_step > 0].mean().item(),
        "rollout/nfe": done.nfe.float().mean().item(),
    } | part_means(verdicts)
