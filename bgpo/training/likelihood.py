"""The policy update: ELBO passes under a token budget, objective, backward.

One pass is one forward over some (completion, mask draw) pairs that together fit the token budget. A
separable objective is back-propagated pass by pass, and each graph is freed at once: memory does not
depend on `mc_samples`. Any other objective needs every draw of a completion before the first
backward, so the passes of a chunk of completions are all held. Both walk the same passes in the same order and
scale each graph by the same weight, so on-policy the two give bit-identical gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpo.algorithm.elbo import Scorer, estimate_elbo
from bgpo.algorithm.masking import MaskDraws
from bgpo.algorithm.objectives import Objective


@dataclass(frozen=True)
class Batch:
    """Completions to score, B rows.

    Attributes:
        prompt_ids: (B, P); completion_ids: (B, L); draws: (B, K, L).
        advantage: (B,).
        group: (B,) which prompt of the step each completion belongs to.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    draws: MaskDraws
    advantage: Tensor
    group: Tensor

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def K(self) -> int:
        return self.draws.mask_ratio.shape[1]

    def select(self, rows: Tensor) -> Batch:
        return Batch(
            self.prompt_ids[rows], self.completion_ids[rows], self.draws.select(rows), self.advantage[rows],
            self.group[rows],
        )


@dataclass(frozen=True)
class Pass:
    """One forward: these completions, each with these draws."""

    rows: slice
    draws: slice


def plan_passes(B: int, K: int, tokens: int, token_budget: int) -> Iterator[list[Pass]]:
    """Cuts B x K pairs of `tokens` tokens each into passes that fit the budget.

    Yields one list per chunk of completions; a list covers all K draws of its completions. When all B
    completions fit one pass with room to spare, several draws share it.
    """
    pairs = max(1, token_budget // tokens)
    chunk = max(1, min(B, pairs))
    per_pass = min(K, max(1, pairs // chunk))
    for row in range(0, B, chunk):
        rows = slice(row, min(B, row + chunk))
        yield [Pass(rows, slice(draw, min(K, draw + per_pass))) for draw in range(0, K, per_pass)]


def elbo_of(model: Scorer, batch: Batch, part: Pass) -> Tensor:
    """(rows, draws) ELBO samples of one pass, one forward."""
    masked = batch.draws.masked[part.rows, part.draws]  # (b, k, L)
    b, k, L = masked.shape
    each = torch.arange(part.rows.start, part.rows.start + b, device=masked.device).repeat_interleave(k)
    elbo = estimate_elbo(
        model, batch.prompt_ids[each], batch.completion_ids[each], masked.reshape(b * k, L),
        batch.draws.weight[part.rows, part.draws].reshape(-1),
    )
    return elbo.view(b, k)


def accumulate(
    model: Scorer,
    batch: Batch,
    objective: Objective,
    denominator: float,
    token_budget: int,
    old_elbo: Tensor | None = None,
    *,
    normalizer: float = 1.0,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Adds the gradient of -sum(objective) / denominator to `.grad` and returns the ELBO samples.

    Args:
        denominator: completions of the whole step, those dropped for zero advantage included.
        old_elbo: (B, K) samples under the old policy, same masks; None when the model is the old policy:
            its own detached samples then take their place and no pass is spent on them.
        normalizer: ELBOs are divided by it before the objective (the completion length, or 1).
        check: called between passes; may raise to abandon the step.

    Returns:
        (B, K) detached, not normalised.
    """
    B, P = batch.prompt_ids.shape
    L = batch.completion_ids.shape[1]
    samples = torch.zeros_like(batch.draws.mask_ratio)
    for chunk in plan_passes(B, batch.K, P + L, token_budget):
        held: list[tuple[Pass, Tensor]] = []
        for part in chunk:
            elbo = elbo_of(model, batch, part)
            samples[part.rows, part.draws] = elbo.detach()
            held.append((part, elbo))
            del elbo
            if objective.separable:
                _backward(held, batch, objective, denominator, old_elbo, normalizer)
            check()
        _backward(held, batch, objective, denominator, old_elbo, normalizer)
    return samples


def _backward(
    held: list[tuple[Pass, Tensor]],
    batch: Batch,
    objective: Objective,
    denominator: float,
    old_elbo: Tensor | None,
    normalizer: float,
) -> None:
    """Back-propagates and frees the graphs in `held`: first the objective to its samples, then each graph."""
    if not held:
        return
    rows = held[0][0].rows
    draws = slice(held[0][0].draws.start, held[-1][0].draws.stop)
    elbo = torch.cat([samples.detach() for _, samples in held], dim=1).requires_grad_()
    old = elbo.detach() if old_elbo is None else old_elbo[rows, draws]
    weight = _weights(objective, elbo, old, batch.advantage[rows], normalizer, batch.K)
    at = 0
    for _, samples in held:
        k = samples.shape[1]
        samples.backward(-weight[:, at : at + k] / denominator)
        at += k
    held.clear()


def _weights(
    objective: Objective, elbo: Tensor, old: Tensor, advantage: Tensor, normalizer: float, K: int
) -> Tensor:
    """(b, k) derivative of the objective with respect to each ELBO sample.

    A separable objective is a mean over K draws, so each draw is put in as a completion of its own: the result
    is then the same to the last bit however many draws share a pass.
    """
    if not objective.separable:
        value = objective.value(elbo / normalizer, old / normalizer, advantage)
        return torch.autograd.grad(value.sum(), elbo)[0]
    k = elbo.shape[1]
    each, each_old = elbo.reshape(-1, 1) / normalizer, old.reshape(-1, 1) / normalizer
    value = objective.value(each, each_old, advantage.repeat_interleave(k))
    return torch.autograd.grad(value.sum(), elbo)[0] / K


@torch.no_grad()
def score(model: Scorer, batch: Batch, token_budget: int) -> Tensor:
    """(B, K) ELBO samples without a graph."""
    samples = torch.zeros_like(batch.draws.mask_ratio)
    tokens = batch.prompt_ids.shape[1] + batch.completion_ids.shape[1]
    for chunk in plan_passes(len(batch), batch.K, tokens, token_budget):
        for part in chunk:
            samples[part.rows, part.draws] = elbo_of(model, batch, part)
    return samples
