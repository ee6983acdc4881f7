"""Cells that measure on a fixed model: gradient variance (part 3), the bound's gap (part 4), memory (part 5)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks import memory
from benchmarks.evidence.training import state_folder
from bgpo.algorithm.objectives import OBJECTIVES, bgpo, elbo
from bgpo.config import TrainConfig
from bgpo.models.checkpoints import load_model
from bgpo.models.denoiser import Denoiser
from bgpo.tasks.registry import TASKS
from bgpo.training.draws import batch_maker, draws_of
from bgpo.training.likelihood import Batch, Known, Passes, accumulate, score, view_of
from bgpo.training.plugins import judge_of, keep_copies
from bgpo.training.rollouts import Rollouts, collect
from bgpo.training.update import surrogate_of

_OBJECTIVE = OBJECTIVES["bgpo"]
_ROLLOUT_STEP = 1_000_000  # a step that no run reaches: problems and noise of its own


def _fixed(settings: dict[str, Any], work: Path) -> tuple[Denoiser, TrainConfig, Rollouts]:
    """The trained model, the config to draw masks with, and the rollouts, the same for every cell of a state."""
    model = load_model(state_folder(work, settings["state"], settings["state_steps"]))
    made_with = TrainConfig.parse(settings.get("rollouts", settings["config"]))
    folder = work / "runs" / settings["state"]
    keep_copies(made_with, folder)
    rollouts = collect(model, TASKS[made_with.task], made_with, _ROLLOUT_STEP, judge_of(made_with, folder))
    return model, TrainConfig.parse(settings["config"]), rollouts


def _gradients(
    model: Denoiser, config: TrainConfig, rollouts: Rollouts, first: int, count: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(gradient, ELBO estimates in nats) of fresh mask draws, on-policy."""
    surrogate, make = surrogate_of(config, _OBJECTIVE, rollouts), batch_maker(config, _OBJECTIVE, rollouts)
    for replicate in range(first, first + count):
        batch = make(draws_of(config, _OBJECTIVE, rollouts, replicate, 0))
        model.model.zero_grad(set_to_none=True)
        logprob = accumulate(model, batch, surrogate, len(rollouts.completion_ids), Passes(config.token_budget))
        samples = surrogate.elbo(logprob, view_of(batch, logprob)) * surrogate.normalizer
        yield torch.cat([p.grad.flatten() for p in model.model.parameters()]), samples.mean(-1)


def reference(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """Two independent means of many stratified gradients, beside which every scheme's are held."""
    model, config, rollouts = _fixed(settings, work)
    n = settings["replicates"]
    halves = []
    for half in range(2):
        total = sum(gradient.double() for gradient, _ in _gradients(model, config, rollouts, 10_000 + half * n, n))
        halves.append((total / n).numpy())
    np.savez(work / "reference.npz", halves=np.stack(halves))
    live = int((rollouts.advantage != 0).sum())
    return {
        "signal": float(halves[0] @ halves[1]), "completions": len(rollouts.advantage), "live": live,
        "reward": rollouts.reward.mean().item(),
    }


def gradient(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """For each number of draws: the products of the gradients with each other and with the reference's halves."""
    model, config, rollouts = _fixed(settings, work)
    halves = np.load(work / "reference.npz")["halves"]
    found = {}
    for K in settings["draws"]:
        drawn = list(_gradients(model, config.with_values(mc_samples=K), rollouts, 0, settings["replicates"]))
        rows = torch.stack([g for g, _ in drawn]).double().numpy()
        values = torch.stack([v for _, v in drawn]).double()  # (replicates, live completions)
        found[str(K)] = {
            "products": (rows @ rows.T).tolist(), "with_reference": (rows @ halves.T).tolist(),
            "value_variance": values.var(0).tolist(),
        }
    return {"signal": float(halves[0] @ halves[1]), "draws": found}


def gap(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """The gap after moves of every size: along one AdamW update, and after several updates on the batch. float64."""
    model, config, rollouts = _fixed(settings, work)
    model.model.double()
    surrogate, passes = surrogate_of(config, _OBJECTIVE, rollouts), Passes(config.token_budget)
    batch = batch_maker(config, _OBJECTIVE, rollouts)(draws_of(config, _OBJECTIVE, rollouts, 0, 0))
    batch = _double(batch)
    start = copy.deepcopy(model.model.state_dict())
    old = score(model, batch, passes)
    before = surrogate.elbo(old, view_of(batch, old))

    def measured(kind: str, size: float) -> dict[str, Any]:
        now = score(model, batch, passes)
        return {"kind": kind, "size": size} | _gaps(surrogate.elbo(now, view_of(batch, now)), before, batch.advantage)

    optimizer = torch.optim.AdamW(model.model.parameters(), lr=config.learning_rate, weight_decay=0.0)
    moves, direction = [], None
    for update in range(1, max(settings["updates"]) + 1):
        optimizer.zero_grad(set_to_none=True)
        accumulate(model, batch, surrogate, len(rollouts.completion_ids), passes, Known(old=old))
        torch.nn.utils.clip_grad_norm_(model.model.parameters(), config.max_grad_norm)
        optimizer.step()
        if direction is None:
            direction = {name: value - start[name] for name, value in model.model.state_dict().items()}
        if update in settings["updates"]:
            moves.append(measured("updates", update))
    for size in settings["scales"]:
        model.model.load_state_dict({name: start[name] + size * direction[name] for name in start})
        moves.append(measured("line", size))
    return {"moves": moves, "live": len(batch), "learning_rate": config.learning_rate}


def _double(batch: Batch) -> Batch:
    """Its advantages, counts and weights in float64: all numbers made from it then are."""
    draws = replace(batch.draws, weight=batch.draws.weight.double())
    wide = {f.name: getattr(batch, f.name) for f in fields(batch)} | {"draws": draws}
    return Batch(**wide | {"advantage": batch.advantage.double(), "count": batch.count.double()})


def _gaps(now: Tensor, old: Tensor, advantage: Tensor) -> dict[str, float]:
    """Args: (B, K) length-normalised ELBO samples after and before, (B,) advantages."""
    d = now - old
    delta, spread = d.mean(-1), d.var(-1, correction=0)
    objective = elbo(now, old, advantage)
    below = objective - bgpo(now, old, advantage)
    good, bad = advantage > 0, advantage < 0
    by_delta, by_spread = advantage * delta.square() / 2, advantage.abs() * delta.exp() * spread / 2
    figures = {
        "delta": delta.abs().mean(), "least_gap": below.min(), "gain": (objective - advantage).sum(),
        "gap_good": below[good].sum(), "asymptote_good": by_delta[good].sum(),
        "gap_bad": below[bad].sum(), "asymptote_bad": by_spread[bad].sum(),
    }
    return {name: value.item() for name, value in figures.items()}


def held(settings: dict[str, Any], work: Path) -> dict[str, Any]:
    """Memory of one update, in a process of its own."""
    return memory.in_a_fresh_process(settings["objective"], settings["mc_samples"])
