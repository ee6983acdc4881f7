"""Identities of the objectives, in float64 on a table model: value and gradient on-policy, the bound off-policy."""

from __future__ import annotations

import pytest
import torch

from bgpo.algorithm.masking import draw_masks
from bgpo.algorithm.objectives import OBJECTIVES, bgpo, elbo
from bgpo.training.likelihood import Known, Passes, accumulate, score
from tests.toy import L, TableModel, batch_of, elbos, gradient, joint_gradient, surrogate, toy_batch, with_graph

B, K = 6, 5
ALL = Passes(10**6)


@pytest.mark.parametrize("sign", [1, -1])
def test_on_policy_bound_and_objective_both_equal_the_advantage(sign):
    batch = toy_batch(sign=sign)
    samples = elbos(TableModel(1), batch)
    assert torch.equal(bgpo(samples, samples, batch.advantage), batch.advantage)
    assert torch.equal(elbo(samples, samples, batch.advantage), batch.advantage)


@pytest.mark.parametrize("K", [1, 2, 3, 5, 7])
def test_on_policy_gradients_of_bound_and_objective_are_bit_identical(K):
    model, batch = TableModel(1), toy_batch(K=K)
    for budget in (1, 2 * (L + 1), 10**6):
        assert torch.equal(gradient("bgpo", model, batch, budget=budget), gradient("elbo", model, batch, budget=budget))


def test_on_policy_gradient_is_the_advantage_weighted_mean_of_elbo_gradients():
    model, batch = TableModel(1), toy_batch()
    got = gradient("bgpo", model, batch)
    model.zero_grad()
    samples = batch.draws.weight * with_graph(model, batch).sum(-1)
    (-(batch.advantage[:, None] * samples).mean(1).sum() / B).backward()
    torch.testing.assert_close(got, model.table.grad, rtol=0, atol=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("normalizer", [1, L])
def test_off_policy_the_bound_never_exceeds_the_objective(sign, distance, normalizer):
    for seed in range(50):
        model, batch = TableModel(seed), toy_batch(seed, sign=sign)
        old = elbos(model, batch) / normalizer
        new = elbos(model.moved(seed + 1000, distance), batch) / normalizer
        gap = elbo(new, old, batch.advantage) - bgpo(new, old, batch.advantage)
        assert gap.min() >= -1e-12
        assert gap.max() > 0  # it is a bound, not the objective under another name


def test_bound_is_tight_when_log_ratios_agree():
    old = torch.randn(3, K, dtype=torch.float64)
    same = old + torch.tensor([[0.0], [-0.7], [1.3]], dtype=torch.float64)
    negative = torch.tensor([-1.0, -2.0, -0.5], dtype=torch.float64)
    torch.testing.assert_close(bgpo(same, old, negative), elbo(same, old, negative))


def test_gap_follows_its_asymptotics():
    generator = torch.Generator().manual_seed(3)
    log_ratio = torch.randn(1, 64, generator=generator, dtype=torch.float64) * 1e-3 + 1e-3
    old = torch.zeros_like(log_ratio)
    delta = log_ratio.mean()
    for advantage, expected in ((1.0, delta**2 / 2), (-1.0, delta.exp() * log_ratio.var(correction=0) / 2)):
        A = torch.tensor([advantage], dtype=torch.float64)
        gap = elbo(log_ratio, old, A) - bgpo(log_ratio, old, A)
        assert gap.item() / expected.item() == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_value_and_gradient_are_finite_at_log_ratios_where_log_one_plus_d_is_not(advantage):
    for d in (-5.0, -1.0, 0.0, 80.0 if advantage < 0 else 5000.0):
        samples = torch.tensor([[d, 0.1]], dtype=torch.float64, requires_grad=True)
        value = bgpo(samples, torch.zeros_like(samples), torch.tensor([advantage], dtype=torch.float64))
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(samples.grad).all()


def test_positive_branch_ignores_an_exp_that_overflows():
    samples = torch.tensor([[5000.0]], dtype=torch.float64, requires_grad=True)
    value = bgpo(samples, torch.zeros_like(samples), torch.tensor([2.0], dtype=torch.float64))
    value.sum().backward()
    assert value.item() == 2 * 5001 and samples.grad.item() == 2.0


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("budget", [1, 2 * (L + 1), 7 * (L + 1), 10**6])
def test_accumulated_gradient_equals_the_joint_one_off_policy(objective, budget):
    model, batch = TableModel(1), toy_batch()
    old = Known(score(model.moved(9, 0.5), batch, ALL))
    torch.testing.assert_close(
        gradient(objective, model, batch, old, budget), joint_gradient(objective, model, batch, old), rtol=0, atol=1e-13
    )


def test_elbo_objective_gradient_agrees_with_central_differences_off_policy():
    model, batch = TableModel(1), toy_batch()
    old = elbos(model.moved(9, 0.5), batch)
    got = gradient("elbo", model, batch, Known(score(model.moved(9, 0.5), batch, ALL)))
    entry, h = (5, 0, 1), 1e-6

    def loss(offset: float) -> float:
        with torch.no_grad():
            model.table[entry] += offset
            value = -elbo(elbos(model, batch), old, batch.advantage).sum().item() / B
            model.table[entry] -= offset
        return value

    assert got[entry].item() != 0
    assert got[entry].item() == pytest.approx((loss(h) - loss(-h)) / (2 * h), rel=1e-6)


def test_positive_advantages_make_the_gradient_independent_of_the_old_policy():
    model, batch = TableModel(1), toy_batch(sign=1)
    old = Known(score(model.moved(9, 0.5), batch, ALL))
    torch.testing.assert_close(gradient("bgpo", model, batch, old), gradient("bgpo", model, batch), rtol=0, atol=1e-14)


def test_zero_advantage_gives_zero_gradient_and_may_be_dropped():
    model, batch = TableModel(1), toy_batch()
    batch.advantage[[1, 4]] = 0
    whole = gradient("bgpo", model, batch)
    live = batch.select(batch.advantage.nonzero()[:, 0])
    torch.testing.assert_close(gradient("bgpo", model, live, denominator=B), whole, rtol=0, atol=1e-15)
    batch.advantage.zero_()
    assert not gradient("bgpo", model, batch).any()


def test_length_normalisation_scales_the_on_policy_gradient_by_one_over_length():
    model, batch = TableModel(1), toy_batch()
    plain = gradient("bgpo", model, batch)
    model.zero_grad()
    accumulate(model, batch, surrogate("bgpo", float(L)), B, ALL)
    torch.testing.assert_close(model.table.grad, plain / L, rtol=1e-12, atol=0)


def test_separable_objectives_free_each_graph_and_the_others_hold_all():
    """What `separable` promises, seen in the bytes that autograd holds."""
    from bgpo.models.tiny import build_tiny
    from bgpo.training.machine import SavedBytes

    model = build_tiny(torch.Generator().manual_seed(0))

    def held(objective: str, K: int) -> float:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 50, (8, 12), generator=generator)
        batch = batch_of(ids[:, 4:], draw_masks(8, K, 8, generator), torch.ones(8), ids[:, :4])
        saved = SavedBytes(model.model)
        with saved:
            accumulate(model, batch, surrogate(objective), 8, Passes(8 * 12))
        return saved.peak_mb

    assert held("bgpo", 16) == pytest.approx(held("bgpo", 1), rel=0.15)  # masked rows vary from draw to draw
    assert held("elbo", 16) > 12 * held("bgpo", 16)
