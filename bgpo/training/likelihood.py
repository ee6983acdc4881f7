"""The policy update: passes under a token budget, derivative of the surrogate, backward.

One pass is one forward over some (completion, mask draw) pairs that together fit the token budget. A
separable surrogate gets its derivative from the pass itself, and each graph is freed at once: memory does not
depend on `mc_samples`. Any other takes a pass for the numbers first, then one for the gradients, each graph freed at
once as well; a retained objective holds every graph of a chunk of completions instead. All walk the same passes in the
same order and scale each graph by the same derivative, so on-policy BGPO and the plain objective give
bit-identical gradients.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from bgpo.algorithm.elbo import Head, HeldPass, Pairs, Scorer, backward, dense, token_logprob
from bgpo.algorithm.masking import MaskDraws
from bgpo.algorithm.surrogate import Surrogate, View
from bgpo.config import TrainConfig
from bgpo.training.machine import is_out_of_memory


@dataclass(frozen=True)
class Batch:
    """Completions to score, B rows.

    Attributes:
        prompt_ids: (B, P), padded on the left; completion_ids: (B, L); draws: of B completions.
        advantage: (B,); numbers made from the batch have its dtype.
        group: (B,) which prompt of the step each completion belongs to.
        count: (B,) how many equal completions a row stands for.
        prompt_length: (B,) tokens of the prompt that are not padding.
        drawn_logprob: (B, L) what the sampler drew each token with.
    """

    prompt_ids: Tensor
    completion_ids: Tensor
    draws: MaskDraws
    advantage: Tensor
    group: Tensor
    count: Tensor
    prompt_length: Tensor
    drawn_logprob: Tensor

    def __len__(self) -> int:
        return len(self.completion_ids)

    @property
    def K(self) -> int:
        return self.draws.weight.shape[1]

    def select(self, rows: Tensor) -> Batch:
        return Batch(
            self.prompt_ids[rows], self.completion_ids[rows], self.draws.select(rows), self.advantage[rows],
            self.group[rows], self.count[rows], self.prompt_length[rows], self.drawn_logprob[rows],
        )

    def pairs(self, part: Pass, mask_id: int) -> Pairs:
        """The pairs of one pass, completion by completion; padding that they share is cut off."""
        masked = self.draws.masked[part.rows, part.draws]  # (b, k, L)
        b, k, L = masked.shape
        each = part.rows.repeat_interleave(k)
        prompts = self.prompt_ids[each]
        if self.draws.prompt_masked is not None:
            hidden = self.draws.prompt_masked[part.rows, part.draws].flatten(0, 1)
            start = prompts.shape[1] - self.prompt_length[each, None]
            padding = torch.arange(prompts.shape[1], device=each.device) < start
            prompts = prompts.masked_fill(hidden & ~padding, mask_id)
        return Pairs(
            prompts[:, prompts.shape[1] - part.prompt_length :], self.completion_ids[each], masked.reshape(b * k, L),
            self.draws.scored[part.rows, part.draws].reshape(b * k, L),
        )


@dataclass(frozen=True)
class Pass:
    """One forward: these completions, (b,) indices, each with these draws, after prompts of one width."""

    rows: Tensor
    draws: slice
    prompt_length: int


@dataclass(frozen=True)
class Passes:
    """How a batch is cut into passes and read off.

    Attributes:
        token_budget: most tokens in one pass.
        packed: pairs of one prompt length go together and no padding is computed; off, all have the padded width.
        head: see `Head`.
    """

    token_budget: int
    packed: bool = True
    head: Head = field(default_factory=Head)

    def plan(self, batch: Batch) -> Iterator[list[Pass]]:
        """One list per chunk of completions; a list covers all K draws of its completions.

        When all completions of one width fit a pass with room to spare, several draws share it.
        """
        widths = batch.prompt_length if self.packed else torch.full_like(batch.prompt_length, batch.prompt_ids.shape[1])
        for width in widths.unique().tolist():
            rows = (widths == width).nonzero()[:, 0]
            pairs = max(1, self.token_budget // (width + batch.completion_ids.shape[1]))
            chunk = min(len(rows), pairs)
            per_pass = min(batch.K, max(1, pairs // chunk))
            for part in rows.split(chunk):
                yield [Pass(part, slice(j, min(batch.K, j + per_pass)), width) for j in range(0, batch.K, per_pass)]


@dataclass(frozen=True)
class Known:
    """Numbers from other policies on the same masks, all (B, K, L) but `anchor`.

    Attributes:
        old: None when the model is the old policy: its own detached numbers then take their place and no pass
            is spent on them.
        reference: needed for a KL.
        anchor: (B, K) log ratios of the draws at the previous update, for a re-anchored bound.
        old_is_partial: some or all of `old` is missing, because the gradient does not depend on it.
    """

    old: Tensor | None = None
    reference: Tensor | None = None
    anchor: Tensor | None = None
    old_is_partial: bool = False


def head_of(config: TrainConfig) -> Head:
    """The head, and what is saved there, as the config says."""
    c = config
    return Head(c.masked_head, chunked=c.chunked_head, fused=c.fused_head, narrow=c.masked_last_layer)


def accumulate(
    model: Scorer,
    batch: Batch,
    surrogate: Surrogate,
    denominator: float,
    passes: Passes,
    known: Known = Known(),
    *,
    check: Callable[[], None] = lambda: None,
) -> Tensor:
    """Adds the gradient of -sum(count * value) / denominator to `.grad` and returns the log-probabilities.

    Args:
        denominator: completions of the whole step, those dropped for zero advantage included.
        check: called between passes; may raise to abandon the step.

    Returns:
        (B, K, L) detached log-probabilities at the scored positions, 0 elsewhere.
    """
    view = view_of(batch, torch.zeros_like(batch.draws.scored, dtype=batch.advantage.dtype), known)
    derivative = None
    if not surrogate.separable and not surrogate.objective.retained:
        if known.old is not None or surrogate.needs_values_on_policy:
            view = replace(view, logprob=score(model, batch, passes, check=check))
        derivative = surrogate.derivative(view) / denominator
    found = torch.zeros_like(view.logprob)
    for chunk in passes.plan(batch):
        held: list[tuple[Pass, Pairs, HeldPass]] = []
        for part in chunk:
            pairs = batch.pairs(part, model.mask_id)
            if surrogate.objective.retained:
                whole = HeldPass(model, pairs, passes.head)
                held.append((part, pairs, whole))
                logprob = whole.logprob
            else:
                weigh = _weights(surrogate, view, part, pairs, derivative, denominator, batch.K)
                logprob = _backward(model, pairs, weigh, passes.head)
            _store(found, part, pairs, logprob)
            check()
        if held:
            _backward_held(held, surrogate, view, found, denominator)
    return found


def view_of(batch: Batch, logprob: Tensor, known: Known = Known()) -> View:
    """What an objective sees of a batch."""
    center = None if known.anchor is None else known.anchor.mean(-1)
    return View(
        logprob, known.old, known.reference, known.anchor, center, batch.draws.scored, batch.draws.weight,
        batch.advantage, batch.count,
    )


@torch.no_grad()
def score(model: Scorer, batch: Batch, passes: Passes, *, check: Callable[[], None] = lambda: None) -> Tensor:
    """(B, K, L) log-probabilities at the scored positions without a graph."""
    found = torch.zeros_like(batch.draws.scored, dtype=batch.advantage.dtype)
    for chunk in passes.plan(batch):
        for part in chunk:
            pairs = batch.pairs(part, model.mask_id)
            _store(found, part, pairs, token_logprob(model, pairs, passes.head))
            check()
    return found


def within_memory(
    work: Callable[[Passes], Tensor], undo: Callable[[], None], passes: Passes, least: int
) -> tuple[Tensor, Passes]:
    """Does `work`; each time memory runs out, undoes it and tries again with half the token budget.

    Args:
        work: adds gradients and returns numbers; `undo` clears what a failed try has added.
        least: tokens of one pair; a smaller budget could hold nothing.

    Returns:
        What `work` returned, and the passes that fitted.

    Raises:
        MemoryError: when one pair does not fit, with what to do.
    """
    while True:
        try:
            return work(passes), passes
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if passes.token_budget // 2 < least:
                raise MemoryError(
                    f"Out of memory with a token budget of {passes.token_budget}; one completion of {least} tokens is "
                    "the least there is. Lower completion_length, or choose a smaller model."
                ) from error
        # outside the handler: the error's traceback keeps the failed pass alive
        undo()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        passes = replace(passes, token_budget=passes.token_budget // 2)


def _weights(
    surrogate: Surrogate, view: View, part: Pass, pairs: Pairs, known: Tensor | None, denominator: float, K: int
) -> Callable[[int, int, Tensor], Tensor]:
    """What `backward` asks: the derivative for some pairs of a pass, known beforehand or from the pass."""
    if known is not None:
        flat = known[part.rows, part.draws].flatten(0, 1)  # (N, L)
        return lambda first, last, _: flat[first:last][pairs.scored[first:last]]
    each = view.part(part.rows, part.draws).draw_by_draw()  # (N, 1, L)

    def from_the_pass(first: int, last: int, logprob: Tensor) -> Tensor:
        scored = pairs.scored[first:last]
        own = replace(each.rows(first, last), logprob=dense(logprob, scored)[:, None])
        return surrogate.derivative(own, K)[:, 0][scored] / denominator

    return from_the_pass


def _backward(
    model: Scorer, pairs: Pairs, weigh: Callable[[int, int, Tensor], Tensor], head: Head
) -> Tensor:
    """One pass forward and backward; returns its (M,) log-probabilities."""
    if head.scored_rows_only:
        return backward(model, pairs, weigh, head)
    logprob = token_logprob(model, pairs, head)
    logprob.backward(-weigh(0, len(pairs.scored), logprob.detach()).to(logprob.dtype))
    return logprob.detach()


def _backward_held(
    held: list[tuple[Pass, Pairs, HeldPass]], surrogate: Surrogate, view: View, found: Tensor, denominator: float
) -> None:
    """Back-propagates and frees the graphs of a chunk, now that all its numbers are there."""
    rows = held[0][0].rows
    derivative = surrogate.derivative(replace(view, logprob=found).part(rows, slice(None))) / denominator
    for part, pairs, whole in held:
        whole.backward(derivative[:, part.draws].flatten(0, 1)[pairs.scored])
    held.clear()


def _store(found: Tensor, part: Pass, pairs: Pairs, logprob: Tensor) -> None:
    shape = found[part.rows, part.draws].shape
    found[part.rows, part.draws] = dense(logprob.to(found.dtype), pairs.scored).view(shape)
