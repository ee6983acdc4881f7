"""Mask draws: which positions of a completion are hidden for one estimate, and which of them are scored.

Axes: B completions, K mask draws (the paper's n_t), L completion positions, P prompt positions. A scheme is
a function; with weight[b, j] its factor on the masked log-probabilities of draw j,

    (1/K) sum_j weight_j * sum over scored i of log p(y_i | the rest, x)

estimates the ELBO of completion b, without bias unless the scheme says otherwise. Most schemes mask exactly l positions
with l uniform on 1..L: the fixed-count form of the 1/t-weighted ELBO, with far less variance than
Bernoulli(t) masks, whose second moment is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

CLEAN_MASK_RATIO = 0.15  # share of clean tokens that d1, wd1 and SPG hide as well


@dataclass(frozen=True)
class MaskDraws:
    """K draws for each of B completions.

    Attributes:
        masked: (B, K, L) bool, True where the model sees the mask token.
        weight: (B, K) float32 factor on the sum of the scored log-probabilities.
        scored: (B, K, L) bool, the masked positions that count; those of `masked` unless a scheme scores fewer.
        prompt_masked: (B, K, P) bool, prompt tokens hidden as well, or None.
    """

    masked: Tensor
    weight: Tensor
    scored: Tensor
    prompt_masked: Tensor | None = None

    @property
    def mask_ratio(self) -> Tensor:
        """(B, K) share of masked positions; the paper's t."""
        return self.masked.float().mean(-1)

    def select(self, rows: Tensor) -> MaskDraws:
        """The draws of some completions; `rows` indexes B."""
        hidden = None if self.prompt_masked is None else self.prompt_masked[rows]
        return MaskDraws(self.masked[rows], self.weight[rows], self.scored[rows], hidden)

    def scoring_only(self, positions: Tensor) -> MaskDraws:
        """Scores no more than `positions`, (B, L) bool."""
        return replace(self, scored=self.scored & positions[:, None])


@dataclass(frozen=True)
class DrawShape:
    """What a scheme is asked for: the sizes, and the block that a block-wise scheme respects."""

    B: int
    K: int
    L: int
    block_length: int


Scheme = Callable[[DrawShape, torch.Generator], MaskDraws]


def bernoulli(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """t uniform on (0, 1], each position masked with probability t, weight 1 / t (BGPO, arXiv 2510.11683, eqs. 3 to 5).

    Unbiased with an infinite second moment: the form of the equations, not one to train with.
    """
    ratio = 1 - _uniform(shape.B, shape.K, generator=generator)
    masked = _uniform(shape.B, shape.K, shape.L, generator=generator) < ratio[..., None]
    return MaskDraws(masked, (1 / ratio).float(), masked)


def iid(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """l uniform on 1..L for each draw by itself, weight L / l."""
    l = torch.randint(1, shape.L + 1, (shape.B, shape.K), generator=generator, device=generator.device)
    return _fixed_count(l, shape.L, generator)


def systematic(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """One random offset per completion and K counts a stride L / K apart, as LLaDA and BGPO's lineage draw them.

    l_j = 1 + ((k + floor(j L / K)) mod L) in integers. The published form rounds the stride to even halves and
    visits some counts too seldom: its ELBO is 12 % off at L = 5, K = 2.
    """
    offset = torch.randint(0, shape.L, (shape.B, 1), generator=generator, device=generator.device)
    stride = torch.arange(shape.K, device=generator.device) * shape.L // shape.K
    return _fixed_count(1 + (offset + stride) % shape.L, shape.L, generator)


def stratified(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """The count of draw j takes its quantile from the j-th of K equal strata of (0, 1)."""
    quantile = _strata(_uniform(shape.B, shape.K, generator=generator))
    return _fixed_count(_counts_at(quantile, shape.L), shape.L, generator)


def antithetic(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """Stratified, with u and 1 - u in neighbouring strata: what is linear in the count cancels."""
    jitter = _uniform(shape.B, shape.K, generator=generator)
    pairs = shape.K // 2 * 2
    jitter[:, 1:pairs:2] = 1 - jitter[:, 0:pairs:2]
    return _fixed_count(_counts_at(_strata(jitter), shape.L), shape.L, generator)


def complementary(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """Draws in pairs that mask S and its complement, l uniform on 0..L, weights (L+1)/l and (L+1)/(L-l) (ESPO).

    A draw that masks nothing has weight 0. With an odd K the last draw has no partner and stays unbiased.
    """
    B, K, L = shape.B, shape.K, shape.L
    count = torch.randint(0, L + 1, (B, (K + 1) // 2), generator=generator, device=generator.device)
    first = _random_rank(B, count.shape[1], L, generator) < count[..., None]
    masked = torch.stack([first, ~first], dim=2).flatten(1, 2)[:, :K]
    l = masked.sum(-1)
    return MaskDraws(masked, torch.where(l > 0, (L + 1) / l.clamp(min=1), 0.0), masked)


def gauss(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """Mask ratios at the K Gauss-Legendre nodes of (0, 1), each position masked with that probability (GDPO).

    The quadrature is exact in the mean for K >= L / 2, since the integrand is a polynomial of degree L - 1;
    with fewer nodes its error stays, however many completions are drawn.
    """
    nodes, shares = np.polynomial.legendre.leggauss(shape.K)
    ratio = torch.tensor((nodes + 1) / 2, device=generator.device)
    weight = torch.tensor(shares / 2, device=generator.device) * shape.K / ratio
    masked = _uniform(shape.B, shape.K, shape.L, generator=generator) < ratio[:, None]
    return MaskDraws(masked, weight.float().expand(shape.B, shape.K), masked)


def block(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """Masks as block-wise decoding meets them: earlier blocks clean, later ones masked, l of the draw's own block.

    The ELBO of the block-ordered family: blocks stratified over the draws, l uniform on 1..b, weight (blocks) b / l.
    """
    b, blocks = shape.block_length, shape.L // shape.block_length
    own = _counts_at(_strata(_uniform(shape.B, shape.K, generator=generator)), blocks) - 1  # (B, K) 0-based block
    l = torch.randint(1, b + 1, own.shape, generator=generator, device=generator.device)
    inside = _random_rank(shape.B, shape.K, b, generator) < l[..., None]
    block_of = torch.arange(shape.L, device=generator.device) // b
    scored = inside.repeat(1, 1, blocks) & (block_of == own[..., None])
    return MaskDraws(scored | (block_of > own[..., None]), (shape.L / l).float(), scored)


MASK_SCHEMES: dict[str, Scheme] = {
    "stratified": stratified,
    "antithetic": antithetic,
    "systematic": systematic,
    "iid": iid,
    "complementary": complementary,
    "gauss": gauss,
    "block": block,
    "bernoulli": bernoulli,
}


def full(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """Every position masked at once, weight 1: the one-pass score of diffu-GRPO and wd1. Not an ELBO."""
    masked = torch.ones(shape.B, 1, shape.L, dtype=torch.bool, device=generator.device)
    return MaskDraws(masked, torch.ones(shape.B, 1, device=generator.device), masked)


def coupled(shape: DrawShape, generator: torch.Generator) -> MaskDraws:
    """coupled-GRPO's three passes: all masked; Bernoulli(t), weight 1/t; its complement, weight 1/(1-t).

    One t, uniform on (0.2, 0.8), for the whole batch (DiffuCoder).
    """
    t = 0.2 + 0.6 * _uniform(1, generator=generator)
    first = _uniform(shape.B, shape.L, generator=generator) < t
    masked = torch.stack([torch.ones_like(first), first, ~first], dim=1)
    weight = torch.stack([torch.ones_like(t), 1 / t, 1 / (1 - t)], dim=1).float()
    return MaskDraws(masked, weight.expand(shape.B, 3), masked)


def one_ratio(shape: DrawShape, generator: torch.Generator, update: int, updates: int) -> MaskDraws:
    """One mask ratio for the whole batch: random at first, then evenly on to all masked (UniGRPO, Alg. 1)."""
    start = _uniform(1, generator=generator).item()
    ratio = start + (1 - start) * update / max(1, updates - 1) if updates > 1 else start
    l = torch.full((shape.B, 1), max(1, round(ratio * shape.L)), device=generator.device)
    return _fixed_count(l, shape.L, generator)


def trace_slices(commit_step: Tensor, shrink: int) -> MaskDraws:
    """The rollout's own path, `shrink` denoising steps merged into one draw (TraceRL).

    Draw v masks what was committed in its steps or later and scores what was committed in them.

    Args:
        commit_step: (B, L) int, 1..N; 0 where a completion that had ended was filled up, which was masked all along.
    """
    never = (commit_step == 0)[:, None]
    merged = (commit_step - 1) // shrink  # (B, L)
    K = int(merged.max()) + 1
    v = torch.arange(K, device=commit_step.device)[:, None]
    scored = merged[:, None] == v
    return MaskDraws((merged[:, None] >= v) | never, torch.ones(scored.shape[:2], device=scored.device), scored)


def trace_steps(commit_step: Tensor, written: Tensor, K: int, generator: torch.Generator) -> MaskDraws:
    """K Monte Carlo steps of the rollout's own path, low-discrepancy over completions and draws (AGRPO).

    Draw j masks what its step or a later one committed and scores what it committed, with the number of steps as
    weight. Steps that only commit tokens after the first end token are left out.

    Args:
        commit_step: (B, L) int, 1..N, 0 as in trace_slices; written: (B, L) bool, up to and including the first end
            token.
    """
    never = (commit_step == 0)[:, None]
    B, N = len(commit_step), int(commit_step.max())
    steps = torch.arange(1, N + 1, device=commit_step.device)
    used = ((commit_step[:, None] == steps[:, None]) & written[:, None]).any(-1)  # (B, N)
    strata = torch.randperm(B * K, generator=generator, device=generator.device).view(B, K)
    quantile = (strata + _uniform(B, K, generator=generator)) / (B * K)
    nth = (quantile * used.sum(-1, keepdim=True)).long()  # (B, K) the nth used step, 0-based
    step = (used.cumsum(-1)[:, None] <= nth[..., None]).sum(-1) + 1  # (B, K)
    scored = commit_step[:, None] == step[..., None]
    weight = used.sum(-1, keepdim=True).expand(B, K).float()
    return MaskDraws((commit_step[:, None] >= step[..., None]) | never, weight, scored)


def draw_masks(
    B: int, K: int, L: int, generator: torch.Generator, scheme: str = "stratified", block_length: int | None = None
) -> MaskDraws:
    """K masks for each of B completions of L positions.

    All draws of a step come from one call, before anything is dropped or cut into passes: the same seed
    gives the same masks whatever the token budget.
    """
    return MASK_SCHEMES[scheme](DrawShape(B, K, L, block_length or L), generator)


def shared_in_groups(draws: MaskDraws, group_size: int) -> MaskDraws:
    """Draws for P prompts -> the same ones for each of a prompt's G completions; B = P * G, in group order.

    Each completion's estimate stays unbiased, and noise that a group's completions have in common cancels,
    since their advantages add up to 0.
    """
    rows = torch.arange(len(draws.masked), device=draws.masked.device).repeat_interleave(group_size)
    return draws.select(rows)


def with_prompt_masked(draws: MaskDraws, prompt_length: int, generator: torch.Generator) -> MaskDraws:
    """Hides each prompt token with probability 0.15, as d1, wd1 and SPG do."""
    B, K, _ = draws.masked.shape
    return replace(draws, prompt_masked=_uniform(B, K, prompt_length, generator=generator) < CLEAN_MASK_RATIO)


def with_earlier_blocks_masked(draws: MaskDraws, block_length: int, generator: torch.Generator) -> MaskDraws:
    """Hides each token of the blocks before a `block` draw's own with probability 0.15, unscored (SPG)."""
    L = draws.masked.shape[-1]
    block_of = torch.arange(L, device=draws.masked.device) // block_length
    own = block_of[draws.scored.int().argmax(-1)]  # (B, K)
    hidden = _uniform(*draws.masked.shape, generator=generator) < CLEAN_MASK_RATIO
    return replace(draws, masked=draws.masked | hidden & (block_of < own[..., None]))


def _uniform(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.rand(*shape, generator=generator, device=generator.device, dtype=torch.float64)


def _strata(jitter: Tensor) -> Tensor:
    """(B, K) jitter in [0, 1] -> quantiles, the j-th in the j-th of K equal strata."""
    K = jitter.shape[1]
    return (torch.arange(K, device=jitter.device) + jitter) / K


def _counts_at(quantile: Tensor, L: int) -> Tensor:
    """Quantiles in [0, 1] -> counts 1..L, uniform when the quantiles are."""
    return (quantile * L).long().clamp(max=L - 1) + 1


def _random_rank(B: int, K: int, L: int, generator: torch.Generator) -> Tensor:
    """(B, K, L): a uniformly random permutation of 0..L-1 per draw."""
    return torch.rand(B, K, L, generator=generator, device=generator.device).argsort(-1).argsort(-1)


def _fixed_count(l: Tensor, L: int, generator: torch.Generator) -> MaskDraws:
    """Exactly l (B, K) positions masked, every set of that size equally likely, weight L / l."""
    masked = _random_rank(*l.shape, L, generator) < l[..., None]
    return MaskDraws(masked, L / l.float(), masked)
