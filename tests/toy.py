"""A table model: one free logit matrix (L, V) per masked set, so that every expectation can be enumerated."""

from __future__ import annotations

from itertools import combinations

import torch
from torch import Tensor

L, V = 4, 3
MASK = V  # ids 0..V-1 are words
PROMPT = torch.zeros(1, 1, dtype=torch.long)


def subsets(length: int = L) -> list[tuple[int, ...]]:
    """Every non-empty set of positions."""
    return [s for size in range(1, length + 1) for s in combinations(range(length), size)]


class TableModel(torch.nn.Module):
    """A `Scorer` whose prediction depends on the masked set alone; float64."""

    mask_id = MASK

    def __init__(self, seed: int, scale: float = 1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        table = torch.randn(2**L, L, V, generator=generator, dtype=torch.float64) * scale
        self.table = torch.nn.Parameter(table)

    def hidden(self, ids: Tensor) -> Tensor:
        """(N, 1 + L) -> (N, 1 + L, V): here the hidden state is the logits."""
        code = ((ids[:, 1:] == MASK) * 2 ** torch.arange(L)).sum(1)
        rows = self.table[code]
        return torch.cat([torch.zeros_like(rows[:, :1]), rows], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        return hidden

    def moved(self, seed: int, distance: float) -> TableModel:
        """A copy with its parameters moved by noise."""
        other = TableModel(seed)
        with torch.no_grad():
            other.table.mul_(distance).add_(self.table.detach())
        return other


def masks_of(sets: list[tuple[int, ...]]) -> Tensor:
    """(N, L) bool."""
    masked = torch.zeros(len(sets), L, dtype=torch.bool)
    for row, positions in enumerate(sets):
        masked[row, list(positions)] = True
    return masked
