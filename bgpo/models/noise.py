"""Noise by name: every number is a function of (seed, row, position, step), so nothing else can change it.

Philox4x32-10, the counter-based generator of Salmon et al. (SC 2011), in integer tensor operations: the four words
of the counter are draw, position, step and row, the key is the seed. What batch a row is in, in which order rows come,
which rows have been dropped: none of it reaches the counter.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_LOW = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_ROUNDS = 10
_ORDER_STREAM = 1 << 31  # of the draw word; tokens count up from 0


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words of 32 random bits for each counter; int64 tensors that broadcast, each in [0, 2^32)."""
    a, b, c, d = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]  # of the wrapped product, bits 32 to 63 are right
        a, c = ((right >> 32) & _LOW) ^ b ^ k0, ((left >> 32) & _LOW) ^ d ^ k1
        b, d = right & _LOW, left & _LOW
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return a, b, c, d


@dataclass(frozen=True)
class Noise:
    """The noise of a batch.

    Attributes:
        seed: 64 bits at most.
        rows: (B,) identity of each row, 0 to 2^32 - 1; None: 0, 1, 2, ...
        common: one noise for all rows and steps, keyed by (seed, position) alone, so that two checkpoints that are
            asked the same differ through their logits only.
    """

    seed: int
    rows: Tensor | None = None
    common: bool = False

    def exponential(self, rows: Tensor, positions: Tensor, steps: Tensor, count: int) -> Tensor:
        """(N, count) float32 of mean 1, for N (row of the batch, position, step).

        Small values, which decide a race, keep their relative precision; half-precision noise could not lift a rare
        token (arXiv 2409.02908).
        """
        draws = torch.arange((count + 3) // 4, device=rows.device)
        words = philox((draws[None], *self._counter(rows, positions, steps)), self._key)
        bits = torch.stack([word.expand(len(rows), -1) for word in words], -1).flatten(1)[:, :count]
        return _unit(bits).neg_().log1p_().neg_()

    def uniform(self, rows: Tensor, positions: Tensor, steps: Tensor) -> Tensor:
        """(N,) float32 in (0, 1), independent of `exponential`."""
        draw = torch.tensor([[_ORDER_STREAM]], device=rows.device)
        return _unit(philox((draw, *self._counter(rows, positions, steps)), self._key)[0])[:, 0]

    @property
    def _key(self) -> tuple[int, int]:
        return self.seed & _LOW, (self.seed >> 32) & _LOW

    def _counter(self, rows: Tensor, positions: Tensor, steps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, 1) each: position, step, identity."""
        identity = rows if self.rows is None else self.rows[rows]
        if self.common:
            steps, identity = torch.zeros_like(steps), torch.zeros_like(identity)
        return positions[:, None], steps[:, None], identity[:, None]


def _unit(bits: Tensor) -> Tensor:
    """32 bits -> float32 strictly between 0 and 1."""
    return (bits.to(torch.float32) + 0.5).mul_(2.0**-32).clamp_(max=1 - 2.0**-24)
