"""The updates of one step: draws, old and reference log-probabilities, gradient, optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from bgpo.algorithm.elbo import Scorer
from bgpo.algorithm.kl import KL_ESTIMATORS
from bgpo.algorithm.objectives import Objective
from bgpo.algorithm.surrogate import Surrogate
from bgpo.config import TrainConfig
from bgpo.models.denoiser import Denoiser
from bgpo.training.draws import batch_maker, draws_of, redraws
from bgpo.training.likelihood import Batch, Known, Passes, accumulate, score, view_of, within_memory
from bgpo.training.machine import SavedBytes
from bgpo.training.observe import Probe, Updated, noise_metrics, update_metrics
from bgpo.training.optimizer import trained_parameters
from bgpo.training.rollouts import Rollouts

Check = Callable[[], None]


class Diverged(ArithmeticError):
    """The gradient is not finite."""


def surrogate_of(config: TrainConfig, objective: Objective, rollouts: Rollouts) -> Surrogate:
    """The objective with the config's choices and the step's figures."""
    c = config
    published = objective.published.get("clip_epsilon", 0.2)
    options = {
        "clip_epsilon": c.clip_epsilon or published, "eubo_beta": c.eubo_beta, "eubo_share": c.eubo_share,
        "length": c.completion_length, "tokens": rollouts.written.sum().item() / len(rollouts.written),
    }
    kl = KL_ESTIMATORS[c.kl_estimator] if c.kl_coefficient else None
    return Surrogate(objective, options, normalizer_of(c, objective), kl, c.kl_coefficient)


def normalizer_of(config: TrainConfig, objective: Objective) -> float:
    """What ELBOs are divided by before the objective: the completion length, or 1."""
    choice = config.length_normalization
    by_length = objective.normalize_by_length if choice == "auto" else choice == "completion"
    return float(config.completion_length) if by_length else 1.0


class Updater:
    """Turns rollouts into optimiser steps.

    Attributes:
        passes: how batches are cut; the token budget falls when memory runs out, and stays down.
    """

    def __init__(
        self, config: TrainConfig, objective: Objective, model: Denoiser, optimizer: torch.optim.Optimizer,
        passes: Passes, reference: Scorer | None,
    ):
        self.config = config
        self.objective = objective
        self.model = model
        self.optimizer = optimizer
        self.passes = passes
        self.reference = reference

    def update(self, rollouts: Rollouts, step: int, check: Check) -> dict[str, float]:
        """All updates of one step; metrics by name.

        Args:
            check: called between passes until the weights first move; may raise to leave with nothing changed.

        Raises:
            Diverged: when the gradient is not finite; the weights are not updated with it.
            MemoryError: when not even one pair fits into memory.
        """
        saved = SavedBytes(self.model.model)
        with saved:
            metrics = self._update(rollouts, step, check)
        return metrics | {"memory/saved_mb": saved.peak_mb}

    def _update(self, rollouts: Rollouts, step: int, check: Check) -> dict[str, float]:
        c, B = self.config, len(rollouts.completion_ids)
        surrogate = surrogate_of(c, self.objective, rollouts)
        make = batch_maker(c, self.objective, rollouts)
        sets = c.updates_per_rollout if redraws(c, self.objective) else 1
        batches = [make(draws_of(c, self.objective, rollouts, step, update)) for update in range(sets)]
        probe = Probe.choose(c, surrogate, batches[0], step)
        before = None if probe.rides_along else self._score(self.model, probe.batch, check)
        known = [self._known(batch, update, check) for update, batch in enumerate(batches)]
        for update in range(c.updates_per_rollout):
            at = min(update, sets - 1)
            # once the weights have moved, only the end of the step is a state that a resume can go on from
            samples = self._gradient(batches[at], surrogate, known[at], B, check if update == 0 else _go_on)
            if update == 0:
                first = Updated(surrogate, batches[0], samples, known[0], B)
            known[at] = self._remember(batches[at], surrogate, known[at], samples)
            stepped = self._optimizer_step(step)
        before = first.samples[probe.rows] if before is None else before
        after = self._score(self.model, probe.batch, _go_on)
        last = Updated(surrogate, batches[at], samples, known[at], B)
        metrics = update_metrics(first, last, estimates_elbo=probe.rides_along)
        return metrics | stepped | probe.metrics(before, after)

    def _known(self, batch: Batch, update: int, check: Check) -> Known:
        """Old and reference numbers that have to be there before the weights first move."""
        old = reference = None
        partial = False
        if self.objective.sampler_head:
            old = batch.drawn_logprob[:, None] * batch.draws.scored
        elif update and self._may_skip_old:
            partial = True
        elif update or not self.config.skip_old_pass:
            partial = self._may_skip_good
            old = self._old(batch, check)
        if self.config.kl_coefficient and self.reference is not None:
            reference = self._score(self.reference, batch, check, drawn=True)
        elif self.config.kl_coefficient:  # against the policy that made the rollouts
            reference = old if old is not None else self._score(self.model, batch, check, drawn=True)
        return Known(old, reference, old_is_partial=partial)

    @property
    def _may_skip_old(self) -> bool:
        old_is_reference = self.config.kl_coefficient and self.reference is None
        return not self.objective.uses_old and self.config.skip_old_pass and not old_is_reference

    @property
    def _may_skip_good(self) -> bool:
        return self.objective.old_for_negative_only and self.config.skip_old_pass and not self.config.kl_coefficient

    def _old(self, batch: Batch, check: Check) -> Tensor:
        """(B, K, L); only bad completions are scored where the others' gradient ignores the old policy."""
        if not self._may_skip_good:
            return self._score(self.model, batch, check, drawn=True)
        rows = (batch.advantage < 0).nonzero()[:, 0]
        old = torch.zeros_like(batch.draws.scored, dtype=batch.advantage.dtype)
        old[rows] = self._score(self.model, batch.select(rows), check, drawn=True)
        return old

    def _remember(self, batch: Batch, surrogate: Surrogate, known: Known, samples: Tensor) -> Known:
        """What the next update on the same masks needs of this one: it costs no pass."""
        known = known if known.old is not None else replace(known, old=samples)
        if not self.objective.anchored:
            return known
        view = view_of(batch, samples)
        return replace(known, anchor=surrogate.elbo(samples, view) - surrogate.elbo(known.old, view))

    def _gradient(self, batch: Batch, surrogate: Surrogate, known: Known, B: int, check: Check) -> Tensor:
        def work(passes: Passes) -> Tensor:
            return accumulate(self.model, batch, surrogate, B, self._as_drawn(passes), known, check=check)

        self.optimizer.zero_grad(set_to_none=True)
        return self._fitting(work, batch)

    def _score(self, model: Scorer, batch: Batch, check: Check, drawn: bool = False) -> Tensor:
        def work(passes: Passes) -> Tensor:
            return score(model, batch, self._as_drawn(passes) if drawn else passes, check=check)

        return self._fitting(work, batch)

    def _as_drawn(self, passes: Passes) -> Passes:
        """The head that the objective's own log-probabilities are read with: the sampler's, for some."""
        if not self.objective.sampler_head:
            return passes
        banned = tuple(self.model.banned_ids)
        return replace(passes, head=replace(passes.head, temperature=self.config.temperature, banned_ids=banned))

    def _fitting(self, work: Callable[[Passes], Tensor], batch: Batch) -> Tensor:
        prompt = int(batch.prompt_length.max()) if self.passes.packed and len(batch) else batch.prompt_ids.shape[1]
        least = prompt + batch.completion_ids.shape[1]
        result, self.passes = within_memory(
            work, lambda: self.optimizer.zero_grad(set_to_none=True), self.passes, least
        )
        return result

    def _optimizer_step(self, step: int) -> dict[str, float]:
        """Clips and steps. A step without any live completion has no gradient and moves nothing."""
        parameters = trained_parameters(self.optimizer)
        if not parameters:
            return {"grad/norm": 0.0}
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm).item()
        if norm != norm or norm == float("inf"):
            raise Diverged(
                f"The gradient norm became {norm} at step {step + 1}; the weights were left as they were. "
                "Lower learning_rate, or resume from an earlier checkpoint."
            )
        metrics = {"grad/norm": norm} | noise_metrics(self.optimizer)
        if norm:  # else momentum and weight decay would move the weights, and only where zeros were computed
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # rollouts need the room
        return metrics


def _go_on() -> None:
    """The check of an update that may no longer be left."""
