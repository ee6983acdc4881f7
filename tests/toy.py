"""A table model: one free logit matrix (L, V) per masked set, so that every expectation can be enumerated."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

import torch
from torch import Tensor

from bgpo.algorithm.elbo import dense, token_logprob
from bgpo.algorithm.masking import MaskDraws, draw_masks
from bgpo.algorithm.objectives import OBJECTIVES, Objective
from bgpo.algorithm.surrogate import Surrogate
from bgpo.training.likelihood import Batch, Known, Pass, Passes, accumulate, score, view_of

L, V = 4, 3
MASK = V  # ids 0..V-1 are words
ON_POLICY = Known()
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


def every_mask(B: int = 1) -> MaskDraws:
    """All 2^L - 1 masks as the draws: with these weights the mean over draws is the expectation over masks."""
    sets = subsets()
    masked = masks_of(sets).expand(B, -1, -1)
    weight = [len(sets) / (len(S) * comb(L, len(S))) for S in sets]
    return MaskDraws(masked, torch.tensor(weight, dtype=torch.float64).expand(B, -1), masked)


def toy_batch(seed: int = 0, K: int = 5, sign: int = 0, B: int = 6, scheme: str = "stratified") -> Batch:
    """B random completions with random advantages (of one sign, if asked), everything in float64."""
    generator = torch.Generator().manual_seed(seed)
    advantage = torch.randn(B, generator=generator, dtype=torch.float64)
    if sign:
        advantage = advantage.abs() * sign
    ids = torch.randint(0, V, (B, L), generator=generator)
    return batch_of(ids, doubled(draw_masks(B, K, L, generator, scheme)), advantage)


def batch_of(ids: Tensor, draws: MaskDraws, advantage: Tensor, prompt_ids: Tensor | None = None) -> Batch:
    """A batch of completions `ids` (B, L), each a group of its own, after the toy's one-token prompt."""
    B = len(ids)
    prompts = PROMPT.expand(B, 1) if prompt_ids is None else prompt_ids
    width = torch.full((B,), prompts.shape[1])
    drawn = torch.zeros(ids.shape, dtype=advantage.dtype)
    return Batch(prompts, ids, draws, advantage, torch.arange(B), torch.ones_like(advantage), width, drawn)


def doubled(draws: MaskDraws) -> MaskDraws:
    """The draws with weights in float64, exact where they are L over a count."""
    return replace(draws, weight=draws.weight.double())


def surrogate(objective: str | Objective, normalizer: float = 1.0, **options: object) -> Surrogate:
    """An objective by name with the toy's options."""
    entry = OBJECTIVES[objective] if isinstance(objective, str) else objective
    defaults = {"clip_epsilon": 0.2, "eubo_beta": 1.5, "eubo_share": 0.5, "length": L, "tokens": float(L)}
    return Surrogate(entry, defaults | options, normalizer)


def gradient(
    objective: str | Surrogate, model: TableModel, batch: Batch, known: Known = ON_POLICY, budget: int = 10**6,
    denominator: int | None = None,
) -> Tensor:
    """The gradient that the trainer accumulates for -sum(objective) / B."""
    model.zero_grad()
    bound = surrogate(objective) if isinstance(objective, str) else objective
    accumulate(model, batch, bound, denominator or len(batch), Passes(budget), known)
    return model.table.grad.clone()


def joint_gradient(
    objective: str | Surrogate, model: TableModel, batch: Batch, known: Known = ON_POLICY
) -> Tensor:
    """One backward through one graph that holds everything: the definition, without any accumulation."""
    model.zero_grad()
    bound = surrogate(objective) if isinstance(objective, str) else objective
    logprob = with_graph(model, batch)
    (-bound.value(view_of(batch, logprob, known)).sum() / len(batch)).backward()
    return model.table.grad.clone()


def with_graph(model: TableModel, batch: Batch) -> Tensor:
    """(B, K, L) log-probabilities in one graph."""
    pairs = batch.pairs(Pass(torch.arange(len(batch)), slice(0, batch.K), batch.prompt_ids.shape[1]), MASK)
    return dense(token_logprob(model, pairs), batch.draws.scored)


def weighted_elbo_gradient(model: TableModel, batch: Batch, weight: Tensor) -> Tensor:
    """-(1/B) sum_b sum_j weight_bj grad ell_bj; `weight` (B, K)."""
    model.zero_grad()
    samples = batch.draws.weight * with_graph(model, batch).sum(-1)
    (-(weight * samples).sum() / len(batch)).backward()
    return model.table.grad.clone()


def elbos(model: TableModel, batch: Batch) -> Tensor:
    """(B, K) ELBO samples without a graph."""
    return batch.draws.weight * score(model, batch, Passes(10**6)).sum(-1)
