"""Every saving of a step, on and off: the same gradient, through a whole step of each objective in float64."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch

from tests.training.steps import STEP, every_objective, flat, moved, rollouts_of, tiny, updater_of

ROLLOUTS = cache(lambda: rollouts_of(STEP))


def change(**values) -> torch.Tensor:
    return moved(STEP.with_values(**values), ROLLOUTS())


@cache
def as_usual(objective: str) -> torch.Tensor:
    got = change(objective=objective)
    assert got.abs().max() > 1e-4, "a step that moves nothing proves nothing"
    return got


def assert_same(left: torch.Tensor, right: torch.Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


@every_objective
@pytest.mark.parametrize(
    "saving", ["skip_old_pass", "drop_zero_advantage", "masked_head", "masked_last_layer", "chunked_head", "packed"]
)
def test_a_step_is_the_same_without_the_saving(objective, saving):
    assert_same(change(objective=objective, **{saving: False}), as_usual(objective))


@every_objective
def test_a_step_is_the_same_with_a_few_rows_of_logits_at_a_time(objective, monkeypatch):
    monkeypatch.setattr("bgpo.algorithm.elbo._CHUNK_BYTES", 54 * 8 * 5)
    assert_same(change(objective=objective), as_usual(objective))


@every_objective
def test_a_step_is_the_same_with_the_last_layer_one_completion_at_a_time(objective, monkeypatch):
    monkeypatch.setattr("bgpo.algorithm.elbo._LAST_LAYER_TOKENS", 1)
    assert_same(change(objective=objective), as_usual(objective))


@pytest.mark.parametrize("tokens", [1, 60, 640])
def test_the_bound_and_what_it_bounds_are_one_step_on_policy_to_the_last_bit(tokens, monkeypatch):
    """However many completions go through the last layer at one time: graphs held or not, sums have one order."""
    monkeypatch.setattr("bgpo.algorithm.elbo._LAST_LAYER_TOKENS", tokens)
    bound, held, two_pass = (
        change(objective=name, updates_per_rollout=1) for name in ("bgpo", "elbo", "elbo_two_pass")
    )
    assert torch.equal(bound, held) and torch.equal(bound, two_pass) and bound.abs().max() > 1e-4


@every_objective
@pytest.mark.parametrize("token_budget", [19, 10_000])
def test_a_step_is_the_same_whatever_fits_a_pass(objective, token_budget):
    assert_same(change(objective=objective, token_budget=token_budget), as_usual(objective))


@every_objective
@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_a_step_is_the_same_with_equal_completions_merged(objective, kl):
    shared = {"objective": objective, "share_masks": True, "kl_coefficient": kl}
    assert_same(change(**shared), change(**shared, merge_duplicates=False))


@every_objective
@pytest.mark.parametrize("kl_reference", ["start", "old"])
def test_with_a_kl_a_step_is_the_same_without_any_saving(objective, kl_reference):
    """And the KL does hold back: completions of advantage 0 move the weights as well."""
    kl = {"objective": objective, "kl_coefficient": 0.5, "kl_estimator": "k3", "kl_reference": kl_reference}
    nothing = {"skip_old_pass": False, "drop_zero_advantage": False, "masked_head": False, "masked_last_layer": False,
               "chunked_head": False, "packed": False}
    saved = change(**kl)
    assert_same(saved, change(**kl, **nothing))
    assert (saved - as_usual(objective)).abs().max() > 1e-7


@pytest.mark.parametrize("objective", ["bgpo", "bgpo_reanchored", "elbo_two_pass", "bgpo_clipped"])
def test_fresh_masks_cost_only_the_old_passes_that_matter(objective):
    """With masks of their own the later updates need old values; good completions of BGPO need none."""
    fresh = {"objective": objective, "fresh_masks": "each_update", "updates_per_rollout": 3}
    assert_same(change(**fresh), change(**fresh, skip_old_pass=False))
    assert (change(**fresh) - change(**fresh | {"fresh_masks": "each_rollout"})).abs().max() > 1e-6


@pytest.mark.parametrize("drop", [True, False])
def test_a_step_without_a_signal_moves_nothing_not_even_by_momentum(drop):
    """Zeros that are computed and zeros that are left out are one gradient, and the optimiser takes both alike."""
    config, model = STEP.with_values(drop_zero_advantage=drop), tiny()
    rollouts = rollouts_of(config)
    updater = updater_of(config, model)
    updater.optimizer = torch.optim.AdamW(model.model.parameters(), 0.01, weight_decay=0.1)
    before = flat(model)
    updater.update(rollouts, 0, lambda: None)
    learnt = flat(model)
    assert not torch.equal(learnt, before)
    dead = replace(rollouts, advantage=torch.zeros_like(rollouts.advantage))
    metrics = updater.update(dead, 1, lambda: None)
    assert metrics["grad/norm"] == 0 and torch.equal(flat(model), learnt)
