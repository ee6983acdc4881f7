"""Mask draws: which positions of a completion are hidden for one ELBO sample.

Axes: B completions, K mask draws (the paper's n_t), L completion positions. A draw masks exactly l
positions, l uniform on 1..L: the fixed-count form of the 1/t-weighted ELBO, with far less variance
than Bernoulli(t) masks, whose second moment is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class MaskDraws:
    """K draws for each of B completions.

    Attributes:
        masked: (B, K, L) bool, True where the position is hidden.
        mask_ratio: (B, K) float32, l / L in (0, 1]; the paper's t.
    """

    masked: Tensor
    mask_ratio: Tensor

    @property
    def weight(self) -> Tensor:
        """(B, K) L / l, the factor on the masked log-probabilities."""
        return 1 / self.mask_ratio

    def select(self, rows: Tensor) -> MaskDraws:
        """The draws of some completions; `rows` indexes B."""
        return MaskDraws(self.masked[rows], self.mask_ratio[rows])


def iid_counts(B: int, K: int, L: int, generator: torch.Generator) -> Tensor:
    """(B, K) counts l, each uniform on 1..L by itself."""
    return torch.randint(1, L + 1, (B, K), generator=generator, device=generator.device)


def stratified_counts(B: int, K: int, L: int, generator: torch.Generator) -> Tensor:
    """(B, K) counts l: draw j takes its quantile from the j-th of K equal strata of (0, 1).

    Averaged over the strata, l is exactly uniform on 1..L for every L and K, so the ELBO stays unbiased.
    """
    jitter = torch.rand(B, K, generator=generator, device=generator.device, dtype=torch.float64)
    quantile = (torch.arange(K, device=generator.device) + jitter) / K
    return (quantile * L).long().clamp(max=L - 1) + 1


COUNT_SCHEMES: dict[str, Callable[[int, int, int, torch.Generator], Tensor]] = {
    "stratified": stratified_counts,
    "iid": iid_counts,
}


def draw_masks(B: int, K: int, L: int, generator: torch.Generator, scheme: str = "stratified") -> MaskDraws:
    """K masks for each of B completions of L positions.

    All draws of a step come from one call, before anything is dropped or cut into passes: the same seed
    gives the same masks whatever the token budget.
    """
    count = COUNT_SCHEMES[scheme](B, K, L, generator)  # (B, K)
    order = torch.rand(B, K, L, generator=generator, device=generator.device).argsort(-1)
    rank = order.argsort(-1)  # a uniformly random permutation per draw
    return MaskDraws(masked=rank < count[..., None], mask_ratio=count.float() / L)
