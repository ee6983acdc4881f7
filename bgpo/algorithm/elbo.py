"""Log-probabilities of masked tokens, and the ELBO they add up to; the only caller of the model in `algorithm`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# the logits of one chunk; above it the allocator maps and clears fresh pages for every chunk
_CHUNK_BYTES = 24 * 2**20
# tokens that the last layer reads at one time, or the share of a pass if that is more: little to hold, few launches
_LAST_LAYER_TOKENS = 640
_LAST_LAYER_SHARE = 8


class Scorer(Protocol):
    """What a likelihood needs of a model."""

    mask_id: int

    def hidden(self, ids: Tensor) -> Tensor:
        """(N, T) ids -> (N, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, V)."""

    # head_matrix: (V, D) or None, if the scorer has one, of a head that is one matrix and nothing else
    # before_last_layer: see `BeforeLastLayer`, or None, if the scorer has one
    # attention_block: if the scorer has one that is not 0, its hidden() takes completion_ids, the clean tokens that a
    # block-causal model reads in the blocks before each noised one


class BeforeLastLayer(Protocol):
    """A forward that has stopped before its last layer, by `scorer.before_last_layer(ids, wanted, **)`.

    Attributes:
        below: (N, T, D) what the last layer reads.
    """

    below: Tensor

    def rows(self, below: Tensor, part: slice, held: bool) -> Tensor:
        """(M, D) hidden states of the (N, T) `wanted` positions of some rows, given what the layer reads of those.

        held: the graph will stay for a while, so that it is worth computing again.
        """


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
        narrow: compute the last layer for them alone, too, where the model can.
        chunked: a few rows' logits at a time; off, all at once.
        fused: Liger's cross-entropy kernel on a GPU, where it is installed.
        temperature, banned_ids: the sampler's, for methods that score what the sampler drew (AGRPO).
    """

    scored_rows_only: bool = True
    chunked: bool = True
    fused: bool = True
    temperature: float = 1.0
    banned_ids: tuple[int, ...] = ()
    narrow: bool = True

    def chunk_rows(self, vocabulary: int, width: int) -> int:
        """Rows whose logits fit the chunk."""
        return max(1, _CHUNK_BYTES // (vocabulary * width)) if self.chunked else 2**62


def noise(completion_ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """The forward process: (N, L) ids with `masked` (N, L) positions replaced by the mask token."""
    return completion_ids.masked_fill(masked, mask_id)


def scored_rows(model: Scorer, pairs: Pairs, head: Head = Head()) -> Tensor:
    """(M, D) hidden states at the scored positions, pair by pair: one forward of the trunk."""
    stopped = _before_last_layer(model, pairs, head)
    if stopped is None:
        return _trunk(model, pairs)[pairs.scored]
    return stopped.rows(stopped.below, slice(None), torch.is_grad_enabled())


def token_logprob(model: Scorer, pairs: Pairs, head: Head = Head()) -> Tensor:
    """(M,) log p(y_i | y with the mask, x) at the scored positions, in one graph; float32 or wider."""
    if head.scored_rows_only:
        return read_head(model, scored_rows(model, pairs, head), pairs.targets, head)
    logits = _logits(model, _trunk(model, pairs), head)  # (N, L, V)
    return logits.log_softmax(-1).gather(-1, pairs.completion_ids[..., None])[..., 0][pairs.scored]


def read_head(model: Scorer, rows: Tensor, targets: Tensor, head: Head) -> Tensor:
    """(M, D) rows -> (M,) log-probabilities of their targets. Without a graph, a chunk's logits at a time."""
    if torch.is_grad_enabled():
        return _read(model, rows, targets, head)
    return torch.cat([_read(model, rows[part], targets[part], head) for part in _row_chunks(model, rows, head)])


def backward(
    model: Scorer, pairs: Pairs, derivative: Callable[[int, int, Tensor], Tensor], head: Head
) -> Tensor:
    """One pass forward and backward: (M,) detached log-probabilities; arguments as of `backward_in_chunks`.

    The last layer is computed for the scored rows of a few pairs at a time, which then go through the head and back to
    what the layer has read. So neither its graph nor the head's is ever there for the whole pass.
    """
    counts, most_rows = pairs.scored.sum(1), pairs.scored.numel()
    cut = _cut(model, pairs, head)
    if cut is None:
        rows = scored_rows(model, pairs, head)
        return backward_in_chunks(model, rows, pairs.targets, counts, derivative, head, most_rows)
    found = [cut.no_rows]
    for first, last, rows in cut.parts(held=False):

        def weigh(one: int, other: int, values: Tensor, first: int = first) -> Tensor:
            return derivative(first + one, first + other, values)

        targets = pairs.completion_ids[first:last][pairs.scored[first:last]]
        found.append(backward_in_chunks(model, rows, targets, counts[first:last], weigh, head, most_rows))
    cut.backward()
    return torch.cat(found)


class HeldPass:
    """A pass whose graphs stay until `backward`, for what has to be known of other passes first.

    Cut as in `backward`, so that the two add their gradients up in one order: the same to the last bit where the
    logits of a part of the pass are one chunk.
    """

    def __init__(self, model: Scorer, pairs: Pairs, head: Head):
        self._cut = _cut(model, pairs, head)
        if self._cut is None:
            self._graphs = [token_logprob(model, pairs, head)]
        else:
            self._graphs = [
                read_head(model, rows, pairs.completion_ids[first:last][pairs.scored[first:last]], head)
                for first, last, rows in self._cut.parts(held=True)
            ]
        nothing = [] if self._cut is None else [self._cut.no_rows]
        self.logprob = torch.cat([*nothing, *(graph.detach() for graph in self._graphs)])

    def backward(self, derivative: Tensor) -> None:
        """Takes the (M,) derivative of what is maximised with respect to `logprob`, and lets go of the graphs."""
        start = 0
        for graph in self._graphs:
            graph.backward(-derivative[start : start + len(graph)].to(graph.dtype))
            start += len(graph)
        self._graphs.clear()
        if self._cut is not None:
            self._cut.backward()


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
    ids, given = _inputs(model, pairs)
    return model.hidden(ids, **given)[:, pairs.prompt_ids.shape[1] :]


class _Cut:
    """A pass before its last layer, and the pairs that go on from there together."""

    def __init__(self, stopped: BeforeLastLayer, sizes: list[tuple[int, int]]):
        self._stopped, self._sizes = stopped, sizes
        self._leaves: list[Tensor] = []
        self.no_rows = stopped.below.new_zeros(0)

    def parts(self, *, held: bool) -> Iterator[tuple[int, int, Tensor]]:
        """(first pair, last pair + 1, their (m, D) final states), part by part; `held`: their graphs stay."""
        for first, last in self._sizes:
            leaf = self._stopped.below[first:last].detach().requires_grad_()
            self._leaves.append(leaf)
            yield first, last, self._stopped.rows(leaf, slice(first, last), held)

    def backward(self) -> None:
        """On through the layers below, once every part has been back-propagated."""
        below = self._stopped.below
        gradient = torch.zeros_like(below)
        for (first, last), leaf in zip(self._sizes, self._leaves):
            gradient[first:last] = leaf.grad
        self._leaves.clear()
        if below.requires_grad:
            below.backward(gradient)


def _cut(model: Scorer, pairs: Pairs, head: Head) -> _Cut | None:
    stopped = _before_last_layer(model, pairs, head)
    if stopped is None:
        return None
    L, width = pairs.scored.shape[1], stopped.below.shape[1]
    most_rows = _chunk_rows(model, stopped.below.flatten(0, 1), head)
    return _Cut(stopped, _parts(pairs.scored.sum(1).tolist(), most_rows, width, L))


def _before_last_layer(model: Scorer, pairs: Pairs, head: Head) -> BeforeLastLayer | None:
    stop = getattr(model, "before_last_layer", None)
    if stop is None or not head.narrow or not head.scored_rows_only:
        return None
    ids, given = _inputs(model, pairs)
    wanted = torch.cat([torch.zeros_like(pairs.prompt_ids, dtype=torch.bool), pairs.scored], dim=1)
    return stop(ids, wanted, **given)


def _inputs(model: Scorer, pairs: Pairs) -> tuple[Tensor, dict[str, Tensor]]:
    """(N, T) ids, and what a block-causal model takes beside them."""
    ids = torch.cat([pairs.prompt_ids, noise(pairs.completion_ids, pairs.masked, model.mask_id)], dim=1)
    return ids, {"completion_ids": pairs.completion_ids} if getattr(model, "attention_block", 0) else {}


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

    Autograd would write the logits three times and the matrix's gradient twice per chunk. log p is read off the logits
    and the probability of the likeliest token: the target's own may be 0 in the dtype.
    """
    logits = rows @ matrix.T  # (m, V)
    of_target, largest = logits.gather(1, targets[:, None])[:, 0], logits.amax(1)
    torch.softmax(logits, -1, out=logits)
    values = of_target - largest + logits.amax(1).log()
    with torch.enable_grad():
        weight = weigh(values).to(logits.dtype)
    # d(-w log p) = w (softmax - onehot); the weight goes onto the rows, which are narrower than the logits
    logits.scatter_add_(1, targets[:, None], logits.new_full((len(rows), 1), -1.0))
    if matrix.requires_grad:
        if matrix.grad is None:
            matrix.grad = torch.zeros_like(matrix)
        matrix.grad.addmm_(logits.T, rows * weight[:, None])
    return values, (logits @ matrix).mul_(weight[:, None])


def _chunk_rows(model: Scorer, rows: Tensor, head: Head) -> int:
    if not head.chunked or not len(rows):
        return head.chunk_rows(1, 4)
    with torch.no_grad():
        logits = model.logits(rows[:1].detach())
    return head.chunk_rows(logits.shape[-1], max(4, logits.element_size()))


def _row_chunks(model: Scorer, rows: Tensor, head: Head) -> list[slice]:
    step = min(_chunk_rows(model, rows, head), max(1, len(rows)))
    return [slice(start, start + step) for start in range(0, max(1, len(rows)), step)]


def _pair_chunks(pair_rows: list[int], most: int, most_pairs: int = 2**62) -> list[tuple[int, int, int, int]]:
    """Cuts pairs into (first pair, last pair + 1, first row, last row + 1): at most `most` rows, or one pair."""
    chunks: list[tuple[int, int, int, int]] = []
    first = start = stop = 0
    for pair, rows in enumerate(pair_rows):
        if stop == start:
            first = pair  # pairs without rows are in no chunk of their own
        elif stop + rows - start > most or pair - first >= most_pairs:
            chunks.append((first, pair, start, stop))
            first, start = pair, stop
        stop += rows
    return [*chunks, (first, len(pair_rows), start, stop)] if stop > start else chunks


def _parts(pair_rows: list[int], most_rows: int, width: int, length: int) -> list[tuple[int, int]]:
    """(first pair, last pair + 1) of what goes through the last layer together: some whole chunks of the head's.

    Half of a completion is masked on average, so a part of many rows ends early: which draws it holds decides little
    about its memory.
    """
    share = len(pair_rows) // _LAST_LAYER_SHARE
    most = max(1, share, _LAST_LAYER_TOKENS // width)
    parts: list[tuple[int, int, int]] = []
    for first, last, start, stop in _pair_chunks(pair_rows, min(most_rows, most * length // 2), most):
        if parts and last - parts[-1][0] <= share and stop - parts[-1][2] <= share * length // 2:
            parts[-1] = (parts[-1][0], last, parts[-1][2])
        else:
            parts.append((first, last, start))
    return [(first, last) for first, last, _ in parts]
