"""How many positions a step commits: from scores over a block to the positions to fix.

Axes: b rows, W positions of a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from bgpo.models.decoding import DREAM, ENTROPY_BOUND, FACTOR, QUOTA, THRESHOLD, SamplerSettings

_DREAM_EPS = 1e-3  # the published noise level at the end


@dataclass(frozen=True)
class Scores:
    """What a step knows of each masked position, (b, W) float32.

    Attributes:
        masked: bool; elsewhere the others mean nothing.
        score: positions are taken from the highest down, equal ones from the left.
        confidence: probability at temperature 1 of the token; 1 where a schedule has no use for it.
        entropy: nats; 0 where a schedule has no use for it.
    """

    masked: Tensor
    score: Tensor
    confidence: Tensor
    entropy: Tensor


@lru_cache(maxsize=4096)
def quota_plan(masks: int, steps: int) -> tuple[int, ...]:
    """LLaDA: `masks` in equal shares, the remainder first; steps that would commit nothing are left out."""
    base, extra = divmod(masks, steps)
    return tuple(share for step in range(steps) if (share := base + (step < extra)))


@lru_cache(maxsize=4096)
def dream_plan(masks: int, steps: int) -> tuple[int, ...]:
    """Dream: at each noise level t -> s the whole part of masks left * (1 - s / t), at the last step all that is left.

    Float32 as published, so that the whole parts are the same. Steps that would commit nothing change nothing and are
    left out.
    """
    levels = torch.linspace(1, _DREAM_EPS, steps + 1)
    left, plan = masks, []
    for step in range(steps):
        share = left if step == steps - 1 else int(torch.tensor(float(left)) * (1 - levels[step + 1] / levels[step]))
        left -= share
        plan.append(share)
    return tuple(share for share in plan if share)


PLANS = {QUOTA: quota_plan, DREAM: dream_plan}


def plans(settings: SamplerSettings, masks: Tensor) -> Tensor | None:
    """(b,) masks of each row's block -> (b, steps) positions to commit at each step; None for adaptive schedules."""
    if settings.schedule not in PLANS:
        return None
    rows = [torch.tensor(PLANS[settings.schedule](m, settings.steps_per_block)) for m in masks.tolist()]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(masks.device)


def needs(schedule: str) -> tuple[str, ...]:
    """Which of the scores beside the order's own a schedule reads."""
    return {THRESHOLD: ("confidence",), FACTOR: ("confidence",), ENTROPY_BOUND: ("entropy",)}.get(schedule, ())


def commits(scores: Scores, settings: SamplerSettings, quota: Tensor | None) -> Tensor:
    """(b, W) bool: the masked positions that this step fixes; at least one per row that has any.

    Args:
        quota: (b,) how many, for a fixed schedule.
    """
    score = scores.score.masked_fill(~scores.masked, -torch.inf)
    ranking = score.argsort(dim=1, descending=True, stable=True)  # ties go to the lowest position
    rank = torch.empty_like(ranking).scatter_(1, ranking, torch.arange(score.shape[1], device=score.device).expand(
        ranking.shape))
    if settings.schedule in PLANS:
        return scores.masked & (rank < quota[:, None])
    if settings.schedule == THRESHOLD:
        sure = scores.confidence >= settings.confidence_threshold
        return scores.masked & (sure | (rank == 0))
    along = _kept_along(ranking, scores, settings)
    along[:, 0] = True
    accepted = along.long().cumprod(1).bool()  # a rule that fails once ends the step
    return scores.masked & accepted.gather(1, rank)


def _kept_along(ranking: Tensor, scores: Scores, settings: SamplerSettings) -> Tensor:
    """(b, W) bool in the order of `ranking`: whether the rule holds at each rank."""
    if settings.schedule == FACTOR:
        rank = torch.arange(1, ranking.shape[1] + 1, device=ranking.device)
        return scores.confidence.gather(1, ranking) >= 1 - settings.factor / (rank + 1)
    entropy = scores.entropy.gather(1, ranking)
    return entropy.cumsum(1) - entropy.cummax(1).values <= settings.entropy_bound
