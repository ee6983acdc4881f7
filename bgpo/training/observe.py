"""What an update did, as metrics by name. Nothing here changes what is trained."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bgpo.algorithm.masking import draw_masks
from bgpo.algorithm.objectives import bgpo, elbo
from bgpo.algorithm.surrogate import Surrogate
from bgpo.config import TrainConfig
from bgpo.training.draws import estimates_elbo
from bgpo.training.likelihood import Batch, Known, view_of
from bgpo.training.metrics import METRICS
from bgpo.training.seeds import torch_generator

_JACKKNIFE = 16  # sets of draws that are left out in turn; more say no more of the error


@dataclass(frozen=True)
class Updated:
    """One update as it was made.

    Attributes:
        samples: (B, K, L) log-probabilities at which the gradient was taken; known: those of other policies.
        completions: of the whole step, those dropped and merged included.
    """

    surrogate: Surrogate
    batch: Batch
    samples: Tensor
    known: Known
    completions: int


def update_metrics(first: Updated, last: Updated, estimates_elbo: bool) -> dict[str, float]:
    """Metrics of a step's first and last update. `estimates_elbo`: the draws' sums are ELBO estimates."""
    metrics = {"groups/merged_fraction": 1 - len(first.batch) / max(1.0, first.batch.count.sum().item())}
    if first.known.reference is not None:
        view = view_of(first.batch, first.samples, first.known)
        total = (first.batch.count * first.surrogate.kl_value(view)).sum().item()
        metrics["kl/reference"] = total / first.completions
    if "clip_epsilon" in inspect.signature(last.surrogate.objective.value).parameters:
        metrics["ratio/clipped_fraction"] = _clipped_fraction(last)
    if estimates_elbo:
        view = view_of(first.batch, first.samples)
        metrics |= _elbo_metrics(first.surrogate.elbo(first.samples, view) * first.surrogate.normalizer)
    if estimates_elbo and not last.known.old_is_partial:
        now, old = (last.surrogate.elbo(x, view_of(last.batch, x)) for x in (last.samples, last.known.old))
        metrics |= bound_metrics(now, old, last.batch, last.completions, "")
    return metrics


def noise_metrics(optimizer: torch.optim.AdamW) -> dict[str, float]:
    """How much of the squared gradient is noise, just before a step: no pass, no copy of a gradient.

    With G the gradient that persists and noise that is independent from step to step, the product of this gradient
    with the average of the earlier ones, AdamW's first moment, has mean |G|^2. What is left of |g|^2 is noise. The
    estimate is unbiased and not clamped: single values scatter, also above 1.
    """
    (group,) = optimizer.param_groups
    states = ((p.grad, optimizer.state[p]) for p in group["params"] if p.grad is not None)
    live = [(gradient, state) for gradient, state in states if "exp_avg" in state]  # none at the first step
    square = sum(gradient.square().sum().item() for gradient, _ in live)
    if not square:
        return {}
    b1 = group["betas"][0]
    product = sum((gradient * s["exp_avg"]).sum().item() / (1 - b1 ** int(s["step"])) for gradient, s in live)
    return {"grad/noise_fraction": 1 - product / square}


@dataclass(frozen=True)
class Probe:
    """Some whole groups of a step on which bound and objective are measured once more after its updates.

    Whole groups, because their advantages add up to 0: what is left is what the updates have gained.

    Attributes:
        batch: their live completions; rows: where these stand in the step's first batch.
        rides_along: the masks are those of the first update, so its numbers serve as the ones before.
        completions: of these groups, those dropped and merged included.
        normalizer: ELBOs are divided by it.
    """

    batch: Batch
    rows: Tensor
    rides_along: bool
    completions: int
    normalizer: float

    @classmethod
    def choose(cls, config: TrainConfig, surrogate: Surrogate, batch: Batch, step: int) -> Probe:
        """Up to `bound_probe` completions' worth of groups, evenly over the batch.

        An objective whose own draws estimate no ELBO is measured on stratified draws, so that every objective
        is seen on the same footing.
        """
        c, G = config, config.group_size
        groups = batch.group.unique()
        count = min(len(groups), math.ceil(c.bound_probe / G))
        chosen = groups[torch.linspace(0, len(groups) - 1, count, device=groups.device).round().long()]
        rows = torch.isin(batch.group, chosen).nonzero()[:, 0]
        rides_along = estimates_elbo(c, surrogate.objective)
        part = batch.select(rows)
        if not rides_along:
            generator = torch_generator(c.seed, "probe", step, rows.device)
            part = replace(part, draws=draw_masks(len(rows), c.mc_samples, c.completion_length, generator))
        sequence = surrogate.objective.level == "sequence"
        normalizer = surrogate.normalizer if sequence else float(c.completion_length)
        return cls(part, rows, rides_along, count * G, normalizer)

    def metrics(self, before: Tensor, after: Tensor) -> dict[str, float]:
        """Args: (b, K, L) log-probabilities on the probe's batch before and after the step's updates."""
        if not len(self.batch):
            return {}
        weight = self.batch.draws.weight
        old, now = (weight * x.sum(-1) / self.normalizer for x in (before, after))
        log_ratio = (now - old).double()
        sequence = log_ratio.mean(-1).exp()
        p05, p95 = (log_ratio.flatten().quantile(q).item() for q in (0.05, 0.95))
        metrics = {
            **bound_metrics(now, old, self.batch, self.completions, "_after"),
            "log_ratio/mean_abs_after": log_ratio.abs().mean().item(),
            "log_ratio/p05_after": p05,
            "log_ratio/p95_after": p95,
            "ratio/ess_after": (sequence.sum() ** 2 / sequence.square().sum() / len(sequence)).item(),
        }
        return metrics if self.rides_along else metrics | _elbo_metrics(old * self.normalizer)


def _bound_and_objective(now: Tensor, old: Tensor, advantage: Tensor) -> tuple[Tensor, Tensor]:
    """(B,) each, in float64."""
    now, old, advantage = now.double(), old.double(), advantage.double()
    return bgpo(now, old, advantage), elbo(now, old, advantage)


def bound_metrics(now: Tensor, old: Tensor, batch: Batch, completions: int, when: str) -> dict[str, float]:
    """Bound, objective, gap and the gap's two parts by the sign of the advantage, with their Monte Carlo errors.

    The errors are a jackknife over the mask draws of all completions at once, which holds whether or not completions
    share masks; draws that were stratified scatter less than it says. Beyond `_JACKKNIFE` draws are left out in sets.
    There are none with one draw.

    Args:
        now, old: (B, K) ELBOs of the draws; when: "" or "_after".
    """
    K = now.shape[-1]
    names = [f"bound/{part}{when}" for part in ("value", "elbo_objective", "gap", "gap_positive", "gap_negative")]
    metrics = dict(zip(names, _bound_totals(now, old, batch, completions)))
    if K < 2:
        return metrics
    every = torch.ones(K, dtype=torch.bool, device=now.device)
    without = []
    for left_out in torch.arange(K, device=now.device).chunk(min(K, _JACKKNIFE)):
        kept = every.clone()
        kept[left_out] = False
        without.append(_bound_totals(now[:, kept], old[:, kept], batch, completions))
    errors = (torch.tensor(without, dtype=torch.float64).var(0, unbiased=False) * (len(without) - 1)).sqrt().tolist()
    reported = {f"{name}_se": error for name, error in zip(names, errors)}
    return metrics | {name: error for name, error in reported.items() if name in METRICS}


def _bound_totals(now: Tensor, old: Tensor, batch: Batch, completions: int) -> list[float]:
    """Averages over all completions of the step: bound, objective, gap, its part from A > 0, from A < 0."""
    bound, objective = _bound_and_objective(now, old, batch.advantage)
    gap, positive = objective - bound, batch.advantage > 0
    return [_total(part, batch.count, completions) for part in (bound, objective, gap, gap * positive, gap * ~positive)]


def _total(values: Tensor, count: Tensor, completions: int) -> float:
    return (values * count).sum().item() / completions


def _elbo_metrics(samples: Tensor) -> dict[str, float]:
    """(B, K) ELBO samples in nats."""
    if not len(samples):
        return {}
    metrics = {"elbo/mean": samples.mean().item()}
    K = samples.shape[1]
    if K > 1:
        spread = samples.std(1).mean().item()
        metrics |= {"elbo/spread": spread, "elbo/standard_error": spread / K**0.5}
    return metrics


def _clipped_fraction(update: Updated) -> float:
    """Share of scored tokens of live completions whose gradient the clip has set to 0."""
    surrogate = replace(update.surrogate, kl=None)
    derivative = surrogate.derivative(view_of(update.batch, update.samples, update.known))
    scored = update.batch.draws.scored & (update.batch.advantage != 0)[:, None, None]
    total = scored.sum().item()
    return ((derivative == 0) & scored).sum().item() / total if total else 0.0
