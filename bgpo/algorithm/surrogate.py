"""An objective bound to a run's choices, as one function of token log-probabilities.

    view      = View(log-probabilities now, under the old policy, under the reference, ...)
    value     = surrogate.value(view)                   (B,) objective - beta KL
    weights   = surrogate.derivative(view)              (B, K, L) what each token's backward is scaled by

Whatever the objective, its gradient is a weighted sum of gradients of log p(token), and the weights are the
derivative of the value with respect to those small (B, K, L) numbers. That is why every objective here runs at constant
memory: first the numbers, then the weights, then one mask draw's graph at a time. A separable objective needs no
first pass, because a draw's weights depend on that draw alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from bgpo.algorithm.objectives import Objective, path_mean


@dataclass(frozen=True)
class View:
    """What an objective sees of some completions. B completions, K draws, L positions; 0 where nothing is scored.

    Attributes:
        logprob: (B, K, L) under the model; old, reference: likewise, or None.
        anchor: (B, K) log ratios of the draws at the previous update, or None; center: (B,) their mean.
        scored: (B, K, L) bool; weight: (B, K).
        advantage: (B,); count: (B,) how many completions a row stands for.
    """

    logprob: Tensor
    old: Tensor | None
    reference: Tensor | None
    anchor: Tensor | None
    center: Tensor | None
    scored: Tensor
    weight: Tensor
    advantage: Tensor
    count: Tensor

    def draw_by_draw(self) -> View:
        """Each draw as a completion of its own, (B * K, 1, ...): for objectives that are a mean over draws.

        The result is then the same to the last bit however many draws share a pass.
        """
        K = self.weight.shape[1]
        per_draw = {"logprob", "old", "reference", "anchor", "scored", "weight"}
        return self._each(
            lambda name, value: value.flatten(0, 1).unsqueeze(1) if name in per_draw else value.repeat_interleave(K)
        )

    def part(self, rows: Tensor, draws: slice) -> View:
        """Some completions, some of their draws."""
        per_completion = {"center", "advantage", "count"}
        return self._each(lambda name, value: value[rows] if name in per_completion else value[rows, draws])

    def rows(self, first: int, last: int) -> View:
        """Completions first to last - 1."""
        return self._each(lambda _, value: value[first:last])

    def _each(self, change: Callable[[str, Tensor], Tensor]) -> View:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return View(**{name: None if value is None else change(name, value) for name, value in values.items()})


@dataclass(frozen=True)
class Surrogate:
    """Objective, its options, length normalisation and KL.

    Attributes:
        options: keyword arguments that an objective may ask for by name.
        normalizer: ELBOs are divided by it before the objective (the completion length, or 1).
        kl: an entry of KL_ESTIMATORS, or None; kl_coefficient: its beta.
    """

    objective: Objective
    options: Mapping[str, Any]
    normalizer: float = 1.0
    kl: Callable[[Tensor], Tensor] | None = None
    kl_coefficient: float = 0.0

    @property
    def separable(self) -> bool:
        """Each draw's gradient needs that draw alone. A KL of the averaged ELBO does not, unless it is linear."""
        return self.objective.separable and (self.kl is None or self.objective.level == "token" or self.kl_is_linear)

    @property
    def kl_is_linear(self) -> bool:
        return self.kl is not None and self.kl.__name__ == "k1"

    @property
    def needs_values_on_policy(self) -> bool:
        """Two passes even where old and new policy agree."""
        return not self.separable and (not self.objective.ratio_only or self.kl is not None)

    def elbo(self, logprob: Tensor, view: View) -> Tensor:
        """(B, K) weighted sums of the scored log-probabilities, divided by the normalizer."""
        return view.weight * (logprob * view.scored).sum(-1) / self.normalizer

    def value(self, view: View) -> Tensor:
        """(B,) objective - beta KL. `view.old` None: the model itself, detached."""
        return self._value(self._point(view), view)

    def kl_value(self, view: View) -> Tensor:
        """(B,) the KL estimate against `view.reference`, at the level of the objective.

        Sequence: of the averaged ELBO's difference, divided by the normalizer, as ESPO does. Token: over the
        tokens that the objective averages over.
        """
        return self._kl_value(self._point(view), view)

    def derivative(self, view: View, draws: int = 1) -> Tensor:
        """(B, K, L) derivative of sum(count * value) / draws with respect to each token's log-probability.

        Args:
            draws: the number that the rows of `view` are a mean over, when each is one draw (`View.draw_by_draw`).
        """
        point = self._point(view).detach().requires_grad_()
        gradient = torch.autograd.grad((view.count * self._value(point, view)).sum(), point)[0] / draws
        if self._by_token:
            return gradient
        # through the samples by hand: objectives that agree in their samples' weights then agree to the last bit
        return (gradient * view.weight / self.normalizer)[..., None] * view.scored

    @property
    def _by_token(self) -> bool:
        return self.objective.level == "token"

    def _point(self, view: View) -> Tensor:
        """What the objective is a function of: (B, K, L) log-probabilities or (B, K) ELBO samples."""
        return view.logprob if self._by_token else self.elbo(view.logprob, view)

    def _value(self, point: Tensor, view: View) -> Tensor:
        options = self._wanted(view)
        if self._by_token:
            old = point.detach() if view.old is None else view.old
            value = self.objective.value(point, old, view.scored, view.weight, view.advantage, **options)
        else:
            old = point.detach() if view.old is None else self.elbo(view.old, view)
            value = self.objective.value(point, old, view.advantage, **options)
        return value if self.kl is None else value - self.kl_coefficient * self._kl_value(point, view)

    def _kl_value(self, point: Tensor, view: View) -> Tensor:
        if not self._by_token:
            x = self.normalizer * (point - self.elbo(view.reference, view)).mean(-1)
            return self.kl(x) / self.normalizer
        difference, scored, aggregate = point - view.reference, view.scored, self.objective.aggregate or path_mean
        if self.objective.reduce:
            difference, scored = self.objective.reduce(difference, scored, view.weight)
        return aggregate(self.kl(difference), scored, **_asked_for(aggregate, {**self.options, "weight": view.weight}))

    def _wanted(self, view: View) -> dict[str, Any]:
        zero = torch.zeros_like(view.weight)
        anchor = {
            "anchor": zero if view.anchor is None else view.anchor,
            "center": zero[:, 0] if view.center is None else view.center,
        }
        return _asked_for(self.objective.value, {**self.options, **anchor})


def _asked_for(function: Callable[..., Any], available: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments, by name, that `function` takes after its tensors."""
    return {name: available[name] for name in inspect.signature(function).parameters if name in available}
