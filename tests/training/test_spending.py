"""Tokens written and forwarded, counted at the model."""

from __future__ import annotations

import pytest
import torch

from bgpo.training.spending import Spending
from tests.training.steps import STEP, rollouts_of, tiny, updater_of


def test_a_backward_pass_counts_twice_a_forward_pass_and_only_within_steps():
    model, spending = tiny(), Spending(tokens=7)
    spending.watch(model.model)
    ids = torch.full((2, 5), model.eos_id)
    with spending.step():
        with torch.no_grad():
            model.hidden(ids)
        model.logits(model.hidden(ids)).sum().backward()
    model.hidden(ids)
    assert spending.metrics() == {"progress/tokens": 7, "progress/compute": 10 + 30}


def test_a_step_that_is_left_early_has_spent_nothing():
    model, spending = tiny(), Spending()
    spending.watch(model.model)
    with pytest.raises(KeyError), spending.step():
        model.hidden(torch.full((1, 5), model.eos_id))
        raise KeyError
    assert spending.compute == 0


def test_more_draws_cost_in_proportion():
    """One update without diagnostics: its only passes are those with a backward, one per scored pair."""
    def spent(mc_samples: int) -> int:
        config = STEP.with_values(mc_samples=mc_samples, updates_per_rollout=1, bound_probe=0, packed=False)
        model, spending = tiny(), Spending()
        rollouts = rollouts_of(config)
        spending.watch(model.model)
        with spending.step():
            updater_of(config, model).update(rollouts, 0, lambda: None)
        return spending.compute

    assert spent(8) == 4 * spent(2) > 0
