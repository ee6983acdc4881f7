"""Log-probabilities of masked tokens, and the ELBO they add up to; the only caller of the model in `algorithm`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# the logits of one chunk; above it the allocator maps and clears fresh pages for every chunk
_CHUNK_BYTES = 24 * 2**20


class Scorer(Protocol):
    """What a likelihood needs of a model."""

    mask_id: int

    def hidden(self, ids: Tensor) -> Tensor:
        """(N, T) ids -> (N, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, V)."""

    # head_matrix: (V, D) or None, if the scorer has one, of a head that is one matrix and nothing else
    # attention_block: if the scorer has one that is not 0, its hidden() takes completion_ids, the clean tokens that a
    # block-causal model reads in the blocks before each noised one


@dataclass(frozen=True)
class Pairs:
    """N (completion, mask draw) pairs that go through the model together.

    Attributes:
        prompt_ids: (N, P), mask tokens in place where the draw hides the prompt; completion_ids: (N, L).
        masked, scored: (N, L) bool.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    masked: Tensor
    scored: Tensor

    @property
    def targets(self) -> Tensor:
        """(M,) ids at the scored positions, pair by pair."""
        return self.completion_ids[self.scored]


@dataclass(frozen=True)
class Head:
    """How log-probabilities are read off hidden states.

    Attributes:
        scored_rows_only: apply the head to the M scored rows alone; off, to every row, gathered afterwards.
        chunked: a few rows' logits at a time; off, all at once.
        fused: Liger's cross-entropy kernel on a GPU, where it is installed.
        temperature, banned_ids: the sampler's, for methods that score what the sampler drew (AGRPO).
    """

    scored_rows_only: bool = True
    chunked: bool = True
    fused: bool = True
    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()

    def chunk_rows(self, vocabulary: int, width: int) -> int:
        """Rows whose logits fit the chunk."""
        return max(1, _CHUNK_BYTES // (vocabulary * width)) if self.chunked else 2**62


def noise(completion_ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """The forward process: (N, L) ids with `masked` (N, L) positions replaced by the mask token."""
    return completion_ids.masked_fill(masked, mask_id)


def scored_rows(model: Scorer, pairs: Pairs) -> Tensor:
    """(M, D) hidden states at the scored positions, pair by pair: one forward of the trunk."""
    return _trunk(model, pairs)[pairs.scored]


def token_logprob(model: Scorer, pairs: Pairs, head: Head = Head()) -> Tensor:
    """(M,) log p(y_i | y with the mask, x) at the scored positions, in one graph; float32 or wider."""
    if head.scored_rows_only:
        return read_head(model, scored_rows(model, pairs), pairs.targets, head)
    logits = _logits(model, _trunk(model, pairs), head)  # (N, L, V)
    return logits.log_softmax(-1).gather(-1, pairs.completion_ids[..., None])[..., 0][pairs.scored]


def read_head(model: Scorer, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
    """(M, D) rows -> (M,) log-probabilities of their targets. Without a graph, a chunk's logits at a time."""
    if torch.is_grad_enabled():
        return _read(model, rows, targets, head)
    return torch.cat([_read(model, rows[part], targets[part], head) for part in _row_chunks(model, rows, head)])


def backward_in_chunks(
    model: Scorer,
    rows: Tensor,
    targets: Tensor,
    pair_rows: Tensor,
    derivative: Callable[[int, int, Tensor], Tensor],
    head: Head,
    most_rows: int = 0,
) -> Tensor:
    """Head, derivative and backward for a few pairs at a time, then one backward through the trunk. Exact.

    No more than one chunk's logits exist at a time, and they are computed once: a chunk holds whole pairs, so that
    the derivative with respect to its log-probabilities is known as soon as they are.

    Args:
        rows: (M, D) with the trunk's graph behind it; targets: (M,).
        pair_rows: (N,) how many rows each pair has.
        derivative: (first pair, last pair + 1, their (m,) detached log-probabilities) -> (m,) derivative of what
            is maximised with respect to each of them.
        most_rows: how many rows other draws of the same pairs may have. A draw of few rows then goes the way of one of
            many, and holds no logits for backward either: memory does not depend on the luck of the draws.

    Returns:
        (M,) detached log-probabilities. Gradients of the *negative* objective are added to `.grad`.
    """
    gradient = torch.empty_like(rows)
    found = []
    at_a_time = _chunk_rows(model, rows, head)
    chunks = _pair_chunks(pair_rows.tolist(), at_a_time)
    matrix = getattr(model, "head_matrix", None)
    many = len(chunks) > 1 or most_rows > at_a_time
    by_hand = many and matrix is not None and head.temperature == 1 and not head.banned_ids
    by_hand = by_hand and cross_entropy_for(rows, head) is F.cross_entropy
    for first, last, start, stop in chunks:
        part, own = rows[start:stop].detach(), targets[start:stop]

        def weigh(values: Tensor, first: int = first, last: int = last) -> Tensor:
            return derivative(first, last, values)

        values, gradient[start:stop] = _matrix_chunk(matrix, part, own, weigh) if by_hand else _head_chunk(
            model, part, own, weigh, head
        )
        found.append(values)
    rows.backward(gradient)
    return torch.cat(found) if found else rows.new_zeros(0)


def dense(values: Tensor, scored: Tensor) -> Tensor:
    """(M,) values at the scored positions -> (..., L), 0 elsewhere."""
    return torch.zeros(scored.shape, dtype=values.dtype, device=values.device).masked_scatter(scored, values)


def estimate_elbo(
    model: Scorer, prompt_ids: Tensor, completion_ids: Tensor, masked: Tensor, weight: Tensor, head: Head = Head()
) -> Tensor:
    """ell = weight * sum over masked i of log p(y_i | y with the mask, x)  (BGPO, arXiv 2510.11683, eqs. 3 to 5).

    Args:
        prompt_ids: (N, P) and completion_ids: (N, L), one row per pair.
        masked: (N, L) bool; weight: (N,), such as L / l.

    Returns:
        (N,) float32 or wider.
    """
    logprob = token_logprob(model, Pairs(prompt_ids, completion_ids, masked, masked), head)
    return weight * dense(logprob, masked).sum(-1)


def _trunk(model: Scorer, pairs: Pairs) -> Tensor:
    """(N, L, D) hidden states of the completion."""
    P = pairs.prompt_ids.shape[1]
    ids = torch.cat([pairs.prompt_ids, noise(pairs.completion_ids, pairs.masked, model.mask_id)], dim=1)
    if getattr(model, "attention_block", 0):
        return model.hidden(ids, completion_ids=pairs.completion_ids)[:, P:]
    return model.hidden(ids)[:, P:]


def _logits(model: Scorer, rows: Tensor, head: Head) -> Tensor:
    """(..., V) at least float32, tempered, what the sampler may not write at minus infinity."""
    logits = model.logits(rows)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if head.banned_ids:
        wide = wide.index_fill(-1, torch.tensor(head.banned_ids, device=wide.device), -torch.inf)
    return wide if head.temperature == 1 else wide / head.temperature


@cache
def liger_cross_entropy() -> Callable[..., Tensor] | None:
    """Liger's kernel (arXiv 2410.10989), or None where liger-kernel is not installed; it needs Triton."""
    try:
        from liger_kernel.transformers.functional import liger_cross_entropy as kernel
    except ImportError:
        return None
    return kernel


def cross_entropy_for(rows: Tensor, head: Head) -> Callable[..., Tensor]:
    """Liger's kernel for rows on a GPU, else torch's: the same values and gradients.

    Liger's leaves the gradient where the logits were, where torch's makes two more buffers of their size. It
    computes in float32, so wider rows stay with torch.
    """
    kernel = liger_cross_entropy() if head.fused and rows.is_cuda and rows.dtype != torch.float64 else None
    return kernel or F.cross_entropy


def _read(model: Scorer, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
    return -cross_entropy_for(rows, head)(_logits(model, rows, head), targets, reduction="none")


def _head_chunk(
    model: Scorer, rows: Tensor, targets: Tensor, weigh: Callable[[Tensor], Tensor], head: Head
) -> tuple[Tensor, Tensor]:
    """(m,) log-probabilities and the (m, D) gradient of -sum(weigh * log-probability); any head, by autograd."""
    rows = rows.requires_grad_()
    logprob = _read(model, rows, targets, head)
    values = logprob.detach()
    logprob.backward(-weigh(values).to(logprob.dtype))
    return values, rows.grad


@torch.no_grad()
def _matrix_chunk(
    matrix: Tensor, rows: Tensor, targets: Tensor, weigh: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The same for a head that is one matrix, in one buffer of logits that becomes their gradient in place.

    Autograd would write the logits three times and the matrix's gradient twice per chunk.
    """
    logits = (rows @ matrix.T).log_softmax(-1)  # (m, V)
    values = logits.gather(1, targets[:, None])[:, 0]
    with torch.enable_grad():
        weight = weigh(values).to(logits.dtype)
    # d(-w log p) = w (softmax - onehot)
    logits.exp_().mul_(weight[:, None]).scatter_add_(1, targets[:, None], -weight[:, None])
    if matrix.requires_grad:
        if matrix.grad is None:
            matrix.grad = torch.zeros_like(matrix)
        matrix.grad.addmm_(logits.T, rows)
    return values, logits @ matrix


def _chunk_rows(model: Scorer, rows: Tensor, head: Head) -> int:
    if not head.chunked or not len(rows):
        return head.chunk_rows(1, 4)
    with torch.no_grad():
        logits = model.logits(rows[:1].detach())
    return head.chunk_rows(logits.shape[-1], max(4, logits.element_size()))


def _row_chunks(model: Scorer, rows: Tensor, head: Head) -> list[slice]:
    step = min(_chunk_rows(model, rows, head), max(1, len(rows)))
    return [slice(start, start + step) for start in range(0, max(1, len(rows)), step)]


def _pair_chunks(pair_rows: list[int], most: int) -> list[tuple[int, int, int, int]]:
    """Cuts pairs into (first pair, last pair + 1, first row, last row + 1): at most `most` rows, or one pair."""
    chunks: list[tuple[int, int, int, int]] = []
    first = start = stop = 0
    for pair, rows in enumerate(pair_rows):
        if stop > start and stop + rows - start > most:
            chunks.append((first, pair, start, stop))
            first, start = pair, stop
        stop += rows
    return [*chunks, (first, len(pair_rows), start, stop)] if stop > start else chunks
