"""Rewards of a group -> advantages. Shapes: P prompts, G group size; rewards are (P, G) float32."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # forms list ADVANTAGES without loading torch
    from torch import Tensor


def mean(rewards: Tensor) -> Tensor:
    """A = r - mean(r) over the group, the baseline of d1 and SPG; exactly 0 where all rewards are equal.

    The mean of equal rewards such as 0.1 is not one of them in float32. Divided by their spread, the rest would be a
    signal, and Adam takes steps of full size whatever its size.
    """
    equal = rewards.amax(-1, keepdim=True) == rewards.amin(-1, keepdim=True)
    return (rewards - rewards.mean(-1, keepdim=True)).masked_fill(equal, 0.0)


def std(rewards: Tensor) -> Tensor:
    """A = (r - mean(r)) / (std(r) + 1e-6) over the group (BGPO, arXiv 2510.11683, eq. 18; ddof = 1)."""
    return mean(rewards) / (rewards.std(-1, keepdim=True) + 1e-6)


def leave_one_out(rewards: Tensor) -> Tensor:
    """A_i = r_i - mean of the other G - 1 rewards (RLOO); equals G / (G - 1) times `mean`."""
    G = rewards.shape[-1]
    return mean(rewards) * (G / (G - 1))


def none(rewards: Tensor) -> Tensor:
    """A = r, REINFORCE without a baseline."""
    return rewards.clone()


ADVANTAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": mean,
    "std": std,
    "leave_one_out": leave_one_out,
    "none": none,
}
