"""Identities that link the rivals to BGPO, in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bgpo.algorithm.kl import KL_ESTIMATORS
from bgpo.algorithm.masking import DrawShape, full
from bgpo.algorithm.objectives import eubo
from bgpo.algorithm.surrogate import Surrogate
from bgpo.training.likelihood import Known, Passes, score
from tests.toy import (
    L,
    TableModel,
    batch_of,
    doubled,
    elbos,
    every_mask,
    gradient,
    surrogate,
    toy_batch,
    weighted_elbo_gradient,
)

ALL = Passes(10**6)


def enumerated_batch(sign: int = 0):
    """Random completions whose draws are all the masks there are."""
    batch = toy_batch(sign=sign)
    return replace(batch, draws=every_mask(len(batch)))


@pytest.mark.parametrize("e", [0.0, 0.2, 10.0])
def test_espo_on_policy_is_bgpo_over_the_length(e):
    """32. mu = 1, any e: the ESPO gradient is (A/L) grad Bhat, that of BGPO over L on the same masks."""
    model, batch = TableModel(1), toy_batch(scheme="complementary", K=4)
    got = gradient(surrogate("espo", float(L), clip_epsilon=e), model, batch)
    expected = weighted_elbo_gradient(model, batch, (batch.advantage[:, None] / L / 4).expand(-1, 4))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    torch.testing.assert_close(got, gradient("bgpo", model, batch) / L, rtol=0, atol=1e-14)


def test_spg_with_the_elbo_for_both_signs_is_bgpo_over_the_length():
    """33. Share 0 of the upper bound: the SPG gradient is the on-policy BGPO gradient over L."""
    model, batch = TableModel(1), toy_batch()
    got = gradient(surrogate("spg_mixture", eubo_share=0.0), model, batch)
    torch.testing.assert_close(got, gradient("bgpo", model, batch) / L, rtol=0, atol=1e-14)


@pytest.mark.parametrize("objective", ["spg_eubo", "spg_mixture"])
def test_spg_for_good_completions_is_bgpo_over_the_length(objective):
    """33. A >= 0 takes the ELBO in both forms."""
    model, batch = TableModel(1), toy_batch(sign=1)
    torch.testing.assert_close(
        gradient(objective, model, batch), gradient("bgpo", model, batch) / L, rtol=0, atol=1e-14
    )


def enumerated_eubo(beta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(B,) EUBO and ELBO, both with every mask."""
    model, batch = TableModel(1), enumerated_batch()
    logprob = score(model, batch, ALL)
    return eubo(logprob, batch.draws.scored, batch.draws.weight, beta), elbos(model, batch).mean(-1)


def test_eubo_weights_of_a_position_average_to_one():
    """33. E[w(t) 1(i masked)] = 1 for every position."""
    draws = every_mask()
    share = (draws.weight[..., None] * draws.scored).mean(1)
    torch.testing.assert_close(share, torch.ones_like(share), rtol=0, atol=1e-14)


def test_eubo_tends_to_the_elbo_as_beta_vanishes():
    """33. And so does its gradient."""
    upper, lower = enumerated_eubo(1e-6)
    torch.testing.assert_close(upper, lower, rtol=1e-5, atol=0)
    model, batch = TableModel(1), enumerated_batch(sign=-1)
    torch.testing.assert_close(
        gradient(surrogate("spg_eubo", eubo_beta=1e-6), model, batch), gradient("bgpo", model, batch) / L,
        rtol=0, atol=1e-5,
    )


def test_eubo_at_beta_one_is_the_log_of_the_weighted_mean_probability():
    """33. sum_i log E[w(t) 1(i masked) p(y_i)]."""
    model, batch = TableModel(1), enumerated_batch()
    logprob, draws = score(model, batch, ALL), batch.draws
    mean = (draws.weight[..., None] * draws.scored * logprob.exp()).mean(1)
    torch.testing.assert_close(enumerated_eubo(1.0)[0], mean.log().sum(-1), rtol=0, atol=1e-12)


def test_eubo_rises_with_beta_above_the_elbo():
    """33. It bounds from above, the looser the larger beta."""
    values = torch.stack([enumerated_eubo(0.5)[1], *(enumerated_eubo(beta)[0] for beta in (0.5, 1.0, 1.5, 4.0))])
    assert (values.diff(dim=0) > 0).all()


def test_d1_token_gradients_add_up_to_the_advantage_times_the_one_pass_gradient():
    """34. n_t = 1, l = L, token-level ratio at theta_old: A grad s(full)."""
    model, batch = TableModel(1), toy_batch()
    draws = doubled(full(DrawShape(len(batch), 1, L, L), torch.Generator()))
    one_pass = batch_of(batch.completion_ids, draws, batch.advantage)
    got = gradient(surrogate("diffu_grpo", tokens=1.0), model, one_pass)
    expected = weighted_elbo_gradient(model, one_pass, batch.advantage[:, None])
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-14)
    assert got.any()


def kl_gradient(objective: str, normalizer: float, model: TableModel, batch, reference: TableModel) -> torch.Tensor:
    """What a k2 KL with beta = 0.7 adds to the accumulated gradient, a draw at a time."""
    known = Known(score(model.moved(9, 0.5), batch, ALL), score(reference, batch, ALL))
    plain: Surrogate = surrogate(objective, normalizer)
    with_kl = replace(plain, kl=KL_ESTIMATORS["k2"], kl_coefficient=0.7)
    return gradient(with_kl, model, batch, known, budget=1) - gradient(plain, model, batch, known)


@pytest.mark.parametrize("objective, normalizer", [("espo", L), ("bgpo", L), ("gdpo", 1), ("elbo", 1)])
def test_k2_gradient_is_the_elbo_difference_times_the_elbo_gradient(objective, normalizer):
    """35. grad (1/2)(B - B_ref)^2 = (B - B_ref) grad B, in two passes; ESPO divides it by L."""
    model, batch = TableModel(1), toy_batch()
    reference = model.moved(5, 0.5)
    difference = (elbos(model, batch) - elbos(reference, batch)).mean(-1)
    K = batch.K
    expected = weighted_elbo_gradient(model, batch, (-0.7 * difference / normalizer / K)[:, None].expand(-1, K))
    got = kl_gradient(objective, float(normalizer), model, batch, reference)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def test_k2_gradient_is_zero_at_the_reference():
    """35."""
    model, batch = TableModel(1), toy_batch()
    assert kl_gradient("espo", float(L), model, batch, model).abs().max() < 1e-15
