"""Identities of BGPO's bound, in float64: value and gradient on-policy, the inequality off-policy, exact gradients."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bgpo.algorithm.masking import MaskDraws, draw_masks, shared_in_groups
from bgpo.algorithm.objectives import bgpo, bgpo_clipped, bgpo_reanchored, elbo
from bgpo.training.likelihood import Known, Passes, accumulate, score
from tests.toy import (
    L,
    TableModel,
    batch_of,
    doubled,
    elbos,
    gradient,
    joint_gradient,
    surrogate,
    toy_batch,
    weighted_elbo_gradient,
    with_graph,
)

B, K = 6, 5
ALL = Passes(10**6)
SEEDS = range(50)


def tensor(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def off_policy(seed: int, distance: float, sign: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ELBO samples of a model, of an older one, and advantages."""
    model, batch = TableModel(seed), toy_batch(seed, sign=sign)
    return elbos(model.moved(seed + 1000, distance), batch), elbos(model, batch), batch.advantage


def old_policy(model: TableModel, batch) -> Known:
    return Known(score(model.moved(9, 0.5), batch, ALL))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("K", [1, 2, 7])
def test_on_policy_bound_and_objective_equal_the_advantage(sign, K):
    """11. theta = theta_old on the same masks: R_lb = Rhat = A exactly, any n_t, both signs."""
    batch = toy_batch(sign=sign, K=K)
    samples = elbos(TableModel(1), batch)
    assert torch.equal(bgpo(samples, samples, batch.advantage), batch.advantage)
    assert torch.equal(elbo(samples, samples, batch.advantage), batch.advantage)


def test_on_policy_gradient_is_the_advantage_weighted_mean_of_elbo_gradients():
    """12. grad R_lb = grad Rhat = (A/n_t) sum_j grad ell_j."""
    model, batch = TableModel(1), toy_batch()
    expected = weighted_elbo_gradient(model, batch, (batch.advantage[:, None] / K).expand(B, K))
    for objective in ("bgpo", "elbo", "elbo_two_pass"):
        torch.testing.assert_close(gradient(objective, model, batch), expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("K", [1, 2, 3, 5, 7])
def test_on_policy_gradients_of_bound_and_objective_are_bit_identical(K):
    """12, to the last bit, whatever fits a pass."""
    model, batch = TableModel(1), toy_batch(K=K)
    for budget in (1, 2 * (L + 1), 10**6):
        assert torch.equal(gradient("bgpo", model, batch, budget=budget), gradient("elbo", model, batch, budget=budget))


@pytest.mark.parametrize("objective", ["bgpo", "elbo", "elbo_two_pass"])
def test_detached_new_values_may_stand_for_the_old_ones(objective):
    """13. With the stored old values replaced by the detached current ones, value and gradient stay."""
    model, batch = TableModel(1), toy_batch()
    stored = gradient(objective, model, batch, Known(score(model, batch, ALL)))
    assert torch.equal(gradient(objective, model, batch), stored)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", [0.01, 0.3, 2.0])
@pytest.mark.parametrize("normalizer", [1, L])
def test_bound_never_exceeds_the_objective_off_policy(sign, distance, normalizer):
    """14. R_lb <= Rhat for every theta, theta_old, mask set and sign, with and without 1/L."""
    for seed in SEEDS:
        new, old, advantage = off_policy(seed, distance, sign)
        gap = elbo(new / normalizer, old / normalizer, advantage) - bgpo(new / normalizer, old / normalizer, advantage)
        assert gap.min() >= -1e-12
        assert gap.max() > 0  # it is a bound, not the objective under another name


def test_bound_is_tight_where_good_completions_kept_their_mean_and_bad_ones_their_spread():
    """14. Equality iff delta = 0 (A > 0) or all d_j equal (A < 0); for n_t = 1 and A < 0 always."""
    zero_mean, equal, single = tensor(-0.7, 0.2, 0.5)[None], tensor(-0.7, -0.7, -0.7)[None], tensor(1.3)[None]

    def gap(log_ratio: torch.Tensor, A: float) -> float:
        old = torch.zeros_like(log_ratio)
        return (elbo(log_ratio, old, tensor(A)) - bgpo(log_ratio, old, tensor(A))).item()

    for d, A in ((zero_mean, 1.5), (equal, -1.5), (single, -1.5)):
        assert gap(d, A) == pytest.approx(0, abs=1e-15)
        assert gap(d, -A) > 0.1 or d is single
    assert gap(single, 1.5) > 0.1


def test_gap_follows_its_asymptotics():
    """15. gap / (A delta^2 / 2) -> 1 for A > 0; gap / (|A| e^delta Var(d) / 2) -> 1 for A < 0."""
    generator = torch.Generator().manual_seed(3)
    log_ratio = torch.randn(1, 64, generator=generator, dtype=torch.float64) * 1e-3 + 1e-3
    old, delta = torch.zeros_like(log_ratio), log_ratio.mean()
    for A, expected in ((1.0, delta**2 / 2), (-1.0, delta.exp() * log_ratio.var(correction=0) / 2)):
        gap = elbo(log_ratio, old, tensor(A)) - bgpo(log_ratio, old, tensor(A))
        assert gap.item() / expected.item() == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("parts", [[5], [1, 1, 1, 1, 1], [2, 3], [4, 1]])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [3, 0, 4, 2, 1]])
def test_separate_backwards_add_up_to_the_full_graph(parts, order):
    """16. The bound's terms, back-propagated one part of the draws at a time in any order, are its gradient."""
    model, batch = TableModel(1), toy_batch()
    old = old_policy(model, batch)
    expected = joint_gradient("bgpo", model, batch, old)
    old_samples = batch.draws.weight * old.old.sum(-1)
    model.zero_grad()
    for draws in torch.tensor(order).split(parts):
        samples = (batch.draws.weight * with_graph(model, batch).sum(-1))[:, draws]
        value = bgpo(samples, old_samples[:, draws], batch.advantage)
        (-value.sum() * len(draws) / K / B).backward()
    torch.testing.assert_close(model.table.grad, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("objective", ["elbo", "elbo_two_pass"])
def test_two_pass_gradient_is_the_full_graphs_off_policy(objective):
    """17. Values first, then one draw at a time, weighted A e^delta / n_t: the gradient of Rhat."""
    model, batch = TableModel(1), toy_batch()
    old = old_policy(model, batch)
    got = gradient(objective, model, batch, old, budget=1)
    torch.testing.assert_close(got, joint_gradient("elbo", model, batch, old), rtol=0, atol=1e-14)
    delta = (elbos(model, batch) - batch.draws.weight * old.old.sum(-1)).mean(-1)
    weight = (batch.advantage * delta.exp() / K)[:, None].expand(B, K)
    torch.testing.assert_close(got, weighted_elbo_gradient(model, batch, weight), rtol=0, atol=1e-14)


@pytest.mark.parametrize("objective", [bgpo, elbo])
def test_accumulated_gradient_agrees_with_central_differences_off_policy(objective):
    """17. Every entry that matters, against (loss(+h) - loss(-h)) / 2h."""
    model, batch = TableModel(1), toy_batch()
    known = old_policy(model, batch)
    old, h = batch.draws.weight * known.old.sum(-1), 1e-5
    got = gradient("bgpo" if objective is bgpo else "elbo_two_pass", model, batch, known)

    def loss(entry: tuple[int, ...], offset: float) -> float:
        with torch.no_grad():
            model.table[entry] += offset
            value = -objective(elbos(model, batch), old, batch.advantage).sum().item() / B
            model.table[entry] -= offset
        return value

    largest = got.abs().flatten().topk(5).indices
    for entry in zip(*(index.tolist() for index in torch.unravel_index(largest, got.shape))):
        difference = (loss(entry, h) - loss(entry, -h)) / (2 * h)
        assert got[entry].item() == pytest.approx(difference, rel=1e-7)


def test_gradient_is_the_weighted_sum_of_elbo_gradients():
    """18. grad R_lb = (A/n_t) sum_j w_j grad ell_j with w_j = 1 (A >= 0) or exp(d_j) (A < 0)."""
    model, batch = TableModel(1), toy_batch()
    old = old_policy(model, batch)
    d = elbos(model, batch) - batch.draws.weight * old.old.sum(-1)
    A = batch.advantage[:, None]
    expected = weighted_elbo_gradient(model, batch, A / K * d.exp().where(A < 0, 1.0))
    torch.testing.assert_close(gradient("bgpo", model, batch, old), expected, rtol=0, atol=1e-14)


def test_gradient_of_good_completions_ignores_the_old_policy():
    """18. For A >= 0 it is invariant to any change of theta_old."""
    model, batch = TableModel(1), toy_batch(sign=1)
    far = Known(score(model.moved(9, 3.0), batch, ALL))
    torch.testing.assert_close(gradient("bgpo", model, batch, far), gradient("bgpo", model, batch), rtol=0, atol=1e-14)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("distance", [0.1, 1.0])
def test_clipped_bound_never_exceeds_the_clipped_objective(sign, distance):
    """19. R_lb with a clip per draw <= min(r A, clip(r, 1-e, 1+e) A) with r = exp(delta)."""
    e = 0.2
    for seed in SEEDS:
        new, old, A = off_policy(seed, distance, sign)
        r = (new - old).mean(-1).exp()
        clipped = (r * A).minimum(r.clamp(1 - e, 1 + e) * A)
        gap = clipped - bgpo_clipped(new, old, A, clip_epsilon=e)
        assert gap.min() >= -1e-12 and gap.max() > 0


def test_dual_clip_breaks_the_bound():
    """19. max(A g, c A) per draw, c = 3, may exceed the objective, with or without the same clip on its ratio."""
    d, A, c = tensor(2.0, 0.0)[None], tensor(-1.0), 3.0
    per_draw = (A[:, None] * d.exp()).maximum(c * A[:, None]).mean(-1)
    objective = elbo(d, torch.zeros_like(d), A)
    assert per_draw > objective.maximum(c * A) + 0.5
    assert bgpo(d, torch.zeros_like(d), A) < objective


def test_clip_changes_nothing_on_policy():
    """20. At d = 0 the gradient with the clip is the one without."""
    model, batch = TableModel(1), toy_batch()
    torch.testing.assert_close(
        gradient("bgpo_clipped", model, batch), gradient("bgpo", model, batch), rtol=0, atol=1e-15
    )


def test_clip_silences_draws_that_have_gone_far_enough():
    """20. Zero gradient where A > 0 and 1 + d_j > 1 + e, or A < 0 and e^(d_j) < 1 - e; elsewhere as without."""
    old = torch.zeros(2, 4, dtype=torch.float64)
    d = torch.stack([tensor(0.19, 0.21, -0.5, -3.0), tensor(-0.22, -0.23, 0.5, 3.0)]).requires_grad_()
    A = tensor(2.0, -2.0)
    clipped, = torch.autograd.grad(bgpo_clipped(d, old, A, clip_epsilon=0.2).sum(), d)
    plain, = torch.autograd.grad(bgpo(d, old, A).sum(), d)
    silent = torch.tensor([[False, True, False, False], [False, True, False, False]])
    torch.testing.assert_close(clipped, plain.masked_fill(silent, 0))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize("objective", [bgpo, lambda *x: bgpo_clipped(*x, clip_epsilon=0.2)])
def test_values_and_gradients_are_finite_where_log_one_plus_d_is_not(advantage, objective):
    """21. d_j = -5 with A > 0; and each branch stays clear of the other's overflow."""
    for d in (-5.0, -1.0, 0.0, 80.0 if advantage < 0 else 5000.0):
        samples = tensor(d, 0.1)[None].requires_grad_()
        value = objective(samples, torch.zeros_like(samples), tensor(advantage))
        value.sum().backward()
        assert torch.isfinite(value).all() and torch.isfinite(samples.grad).all()
    assert bgpo(tensor(-5.0)[None], tensor(0.0)[None], tensor(2.0)).item() == -8.0


def test_sample_over_length_is_the_mean_log_probability_of_its_masked_tokens():
    """22. With every position of the canvas scored and weight L/l, ell_j / L is a mean over masked tokens."""
    model, batch = TableModel(1), toy_batch()
    logprob = score(model, batch, ALL)
    mean = logprob.sum(-1) / batch.draws.masked.sum(-1)
    torch.testing.assert_close(elbos(model, batch) / L, mean, rtol=1e-6, atol=0)  # the drawn weights are float32


def test_length_normalisation_divides_the_on_policy_gradient_by_the_length():
    """22. By exactly L."""
    model, batch = TableModel(1), toy_batch()
    normalised = gradient(surrogate("bgpo", float(L)), model, batch)
    torch.testing.assert_close(normalised, gradient("bgpo", model, batch) / L, rtol=1e-12, atol=0)


def test_zero_advantage_gives_zero_gradient_and_may_be_dropped():
    """23. Without those completions, and with the denominator kept, the gradient is the same."""
    model, batch = TableModel(1), toy_batch()
    batch.advantage[[1, 4]] = 0
    whole = gradient("bgpo", model, batch)
    live = batch.select(batch.advantage.nonzero()[:, 0])
    torch.testing.assert_close(gradient("bgpo", model, live, denominator=B), whole, rtol=0, atol=1e-15)
    batch.advantage.zero_()
    assert not gradient("bgpo", model, batch).any()


@pytest.mark.parametrize("objective", ["bgpo", "bgpo_clipped", "elbo", "elbo_two_pass"])
def test_on_policy_gradient_is_odd_in_the_advantage(objective):
    """24. The gradient for -A is minus the gradient for A."""
    model, batch = TableModel(1), toy_batch()
    flipped = gradient(objective, model, replace(batch, advantage=-batch.advantage))
    torch.testing.assert_close(flipped, -gradient(objective, model, batch), rtol=0, atol=1e-14)


def test_shared_masks_cancel_in_a_group_of_equal_completions():
    """25. With masks shared in a group and all y_i equal, sum_i A_i grad ell_i = 0; with own masks it is not."""
    model, G = TableModel(1), 4
    ids = torch.tensor([[0, 2, 1, 1], [2, 2, 0, 1]]).repeat_interleave(G, 0)
    advantage = toy_batch(B=2 * G).advantage.view(2, G)
    centred = (advantage - advantage.mean(1, keepdim=True)).flatten()

    def of(draws: MaskDraws) -> torch.Tensor:
        return gradient("bgpo", model, batch_of(ids, doubled(draws), centred)).abs().max()

    generator = torch.Generator().manual_seed(0)
    assert of(shared_in_groups(draw_masks(2, 3, L, generator), G)) < 1e-15
    assert of(draw_masks(2 * G, 3, L, generator)) > 1e-3


def anchored(seed: int, sign: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """New and old samples, advantages, and the log ratios of a policy between the two."""
    new, old, advantage = off_policy(seed, 1.0, sign)
    between = elbos(TableModel(seed).moved(seed + 2000, 0.7), toy_batch(seed, sign=sign))
    return new, old, advantage, between - old


@pytest.mark.parametrize("sign", [1, -1])
def test_re_anchored_bound_never_exceeds_the_objective(sign):
    """36. A e^c (1 + delta - c), or (A/n) sum exp(d_j - b_j), is at most A exp(delta) for every theta."""
    for seed in SEEDS:
        new, old, advantage, anchor = anchored(seed, sign)
        bound = bgpo_reanchored(new, old, advantage, anchor=anchor, center=anchor.mean(-1))
        gap = elbo(new, old, advantage) - bound
        assert gap.min() >= -1e-12 and gap.max() > 0


def test_re_anchored_bound_is_tight_at_its_anchor():
    """36. There it has the objective's value and gradient, where the bound of the old policy has not."""
    _, old, advantage, anchor = anchored(0)
    at = (old + anchor).requires_grad_()
    bound = bgpo_reanchored(at, old, advantage, anchor=anchor, center=anchor.mean(-1))
    objective = elbo(at, old, advantage)
    torch.testing.assert_close(bound, objective, rtol=0, atol=1e-12)
    tangents = [torch.autograd.grad(value.sum(), at)[0] for value in (bound, objective, bgpo(at, old, advantage))]
    torch.testing.assert_close(tangents[0], tangents[1], rtol=0, atol=1e-12)
    assert (tangents[2] - tangents[1]).abs().max() > 1e-2


def test_re_anchored_at_the_old_policy_it_is_the_bound():
    """36. c = b = 0 is BGPO, and without a previous update nothing else is taken."""
    model, batch = TableModel(1), toy_batch()
    new, old, advantage = off_policy(0, 1.0)
    zero = torch.zeros_like(new)
    bound = bgpo_reanchored(new, old, advantage, anchor=zero, center=zero[:, 0])
    torch.testing.assert_close(bound, bgpo(new, old, advantage), rtol=0, atol=1e-14)
    known = old_policy(model, batch)
    torch.testing.assert_close(
        gradient("bgpo_reanchored", model, batch, known), gradient("bgpo", model, batch, known), rtol=0, atol=1e-14
    )


def test_accumulated_re_anchored_gradient_is_the_objectives_at_the_anchor():
    """36. Through the trainer's passes, with the anchor at the model itself."""
    model, batch = TableModel(1), toy_batch()
    known = old_policy(model, batch)
    at = replace(known, anchor=elbos(model, batch) - batch.draws.weight * known.old.sum(-1))
    got = gradient("bgpo_reanchored", model, batch, at, budget=1)
    torch.testing.assert_close(got, joint_gradient("elbo", model, batch, known), rtol=0, atol=1e-14)


def test_gradients_add_to_those_there_are():
    model, batch = TableModel(1), toy_batch()
    once = gradient("bgpo", model, batch)
    accumulate(model, batch, surrogate("bgpo"), B, ALL)
    torch.testing.assert_close(model.table.grad, 2 * once, rtol=0, atol=1e-15)
