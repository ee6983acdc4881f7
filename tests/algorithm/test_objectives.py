"""What holds for every entry of OBJECTIVES, on its own kind of draws, in float64; and what its flags promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bgpo.algorithm.kl import KL_ESTIMATORS
from bgpo.algorithm.masking import (
    MASK_SCHEMES,
    DrawShape,
    coupled,
    draw_masks,
    full,
    one_ratio,
    trace_slices,
    trace_steps,
)
from bgpo.algorithm.objectives import OBJECTIVES, softmax_weights
from bgpo.algorithm.surrogate import Surrogate
from bgpo.training.likelihood import Batch, Known, Passes, accumulate, score, view_of
from tests.toy import L, TableModel, batch_of, doubled, elbos, gradient, joint_gradient, surrogate, toy_batch

B, K = 6, 4
ALL = Passes(10**6)
BUDGETS = (1, 2 * (L + 1), 7 * (L + 1), 10**6)
every_objective = pytest.mark.parametrize("name", OBJECTIVES)


def own_batch(name: str) -> Batch:
    """Random completions with the draws that the objective is published with; some count twice."""
    generator = torch.Generator().manual_seed(3)
    batch, shape = toy_batch(B=B), DrawShape(B, K, L, 2)
    commit_step = torch.rand(B, L, generator=generator).argsort(-1) + 1
    written = torch.arange(L) < torch.randint(2, L + 1, (B, 1), generator=generator)
    schemes = {
        "full": lambda: full(shape, generator).scoring_only(written),
        "coupled": lambda: coupled(shape, generator).scoring_only(written),
        "one_ratio": lambda: one_ratio(shape, generator, update=1, updates=3),
        "trace_slices": lambda: trace_slices(commit_step, 2),
        "trace_steps": lambda: trace_steps(commit_step, written, K, generator),
    }
    scheme = OBJECTIVES[name].draws
    draws = schemes[scheme]() if scheme in schemes else MASK_SCHEMES[scheme](shape, generator)
    own = batch_of(batch.completion_ids, doubled(draws), batch.advantage)
    return replace(own, count=torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 1.0], dtype=torch.float64))


def bound(name: str, kl: str | None = None) -> Surrogate:
    normalizer = float(L) if OBJECTIVES[name].normalize_by_length else 1.0
    estimator = KL_ESTIMATORS[kl] if kl else None
    return replace(surrogate(name, normalizer), kl=estimator, kl_coefficient=0.3 if kl else 0.0)


def other_policies(model: TableModel, batch: Batch, on_policy: bool) -> Known:
    old, reference, anchor = (score(model.moved(seed, 0.5), batch, ALL) for seed in (9, 10, 11))
    if on_policy:
        return Known(reference=reference)
    return Known(old, reference, (batch.draws.weight * (anchor - old).sum(-1)) / L)


def joint(name: str, kl: str | None, model: TableModel, batch: Batch, known: Known) -> torch.Tensor:
    """One backward through one graph, equal completions counted as often as they occur."""
    rows = torch.arange(B).repeat_interleave(batch.count.long())
    each = Known(*(None if x is None else x[rows] for x in (known.old, known.reference, known.anchor)))
    repeated = replace(batch.select(rows), count=torch.ones(len(rows), dtype=torch.float64))
    return joint_gradient(bound(name, kl), model, repeated, each) * len(rows) / B


@every_objective
@pytest.mark.parametrize("kl", [None, *KL_ESTIMATORS])
@pytest.mark.parametrize("on_policy", [True, False])
def test_accumulated_gradient_is_the_joint_one_however_the_batch_is_cut(name, kl, on_policy):
    model, batch = TableModel(1), own_batch(name)
    known = other_policies(model, batch, on_policy)
    expected = joint(name, kl, model, batch, known)
    assert expected.any()
    for budget in BUDGETS:
        got = gradient(bound(name, kl), model, batch, known, budget)
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_objective
@pytest.mark.parametrize("kl", [None, "k1", "k2"])
def test_separable_means_a_mean_over_draws_and_nothing_else_does(name, kl):
    model, batch = TableModel(1), own_batch(name)
    batch = replace(batch, draws=doubled(draw_masks(B, 5, L, torch.Generator().manual_seed(0))))
    own = bound(name, kl)
    view = view_of(batch, score(model, batch, ALL), other_policies(model, batch, on_policy=False))
    mean = own.value(view.draw_by_draw()).view(B, 5).mean(-1)
    assert own.separable == torch.allclose(own.value(view), mean, rtol=0, atol=1e-12)


@every_objective
def test_ratio_only_means_that_placeholders_do_on_policy(name):
    """With zeros for the values the derivative is the same, so on-policy the first pass can be left out."""
    model, batch = TableModel(1), own_batch(name)
    values = score(model, batch, ALL)
    at_values, at_zero = (bound(name).derivative(view_of(batch, x)) for x in (values, torch.zeros_like(values)))
    assert OBJECTIVES[name].ratio_only == torch.allclose(at_values, at_zero, rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if not entry.separable])
@pytest.mark.parametrize("kl", [None, "k2"])
def test_on_policy_shortcut_is_the_full_two_passes(name, kl):
    """Stored old values that are the current ones give what no stored values give."""
    model, batch = TableModel(1), own_batch(name)
    known = other_policies(model, batch, on_policy=True)
    stored = replace(known, old=score(model, batch, ALL))
    torch.testing.assert_close(
        gradient(bound(name, kl), model, batch, known, 1), gradient(bound(name, kl), model, batch, stored, 1),
        rtol=0, atol=1e-14,
    )


@pytest.mark.parametrize("name", [name for name, entry in OBJECTIVES.items() if entry.old_for_negative_only])
def test_old_for_negative_only_means_that_good_completions_ignore_the_old_policy(name):
    model, batch = TableModel(1), own_batch(name)
    known = other_policies(model, batch, on_policy=False)

    def moves(rows: torch.Tensor) -> bool:
        changed = known.old.clone()
        changed[rows] += batch.draws.scored[rows] * 0.1
        first, second = (gradient(bound(name), model, batch, replace(known, old=old)) for old in (known.old, changed))
        return not torch.equal(first, second)

    assert not moves(batch.advantage >= 0)
    assert moves(batch.advantage < 0)


@every_objective
def test_memory_does_not_depend_on_the_number_of_draws_unless_graphs_are_retained(name):
    """What `retained` says, seen in the bytes that autograd holds."""
    from bgpo.models.tiny import build_tiny
    from bgpo.training.machine import SavedBytes

    model = build_tiny(torch.Generator().manual_seed(0))

    def held(K: int) -> float:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(3, 50, (8, 12), generator=generator)
        batch = batch_of(ids[:, 4:], draw_masks(8, K, 8, generator), torch.ones(8), ids[:, :4])
        saved = SavedBytes(model.model)
        with saved:
            accumulate(model, batch, surrogate(name), 8, Passes(8 * 12))
        return saved.peak_mb

    if OBJECTIVES[name].retained:
        assert held(8) > 6 * held(1)
    else:
        assert held(8) == pytest.approx(held(1), rel=0.15)  # masked rows vary from draw to draw


def test_equal_advantages_cancel_in_wd1():
    """softmax(A) - softmax(-A) is 0 where all are equal, and the weights of a group add up to 0."""
    assert not softmax_weights(torch.full((2, 5), 0.3)).any()
    advantage = torch.tensor([[1.0, 0.0, -0.5]], dtype=torch.float64)
    weights = softmax_weights(advantage)
    torch.testing.assert_close(weights, 3 * (advantage.softmax(-1) - (-advantage).softmax(-1)))
    assert abs(weights.sum().item()) < 1e-15


def test_coupled_log_probability_is_half_full_pass_and_half_weighted_pass():
    """log p = (log p^(0) + [w1 log p^(1) if masked in (1) else w2 log p^(2)]) / 2, by hand."""
    model, batch = TableModel(1), own_batch("coupled_grpo")
    logprob, draws = score(model, batch, ALL), batch.draws
    w1, w2 = draws.weight[:, 1, None], draws.weight[:, 2, None]
    in_first = draws.masked[:, 1]
    by_hand = (logprob[:, 0] + torch.where(in_first, w1 * logprob[:, 1], w2 * logprob[:, 2])) / 2
    reduce = OBJECTIVES["coupled_grpo"].reduce
    got, counted = reduce(logprob, draws.scored, draws.weight)
    torch.testing.assert_close(got[:, 0][counted[:, 0]], by_hand[counted[:, 0]], rtol=0, atol=1e-14)


def test_sequence_ratios_clip_the_mean_not_the_draws():
    """ESPO and GDPO: min(r A, clip(r) A) of one ratio exp(B - B_old)."""
    model, batch = TableModel(1), own_batch("espo")
    known = other_policies(model, batch, on_policy=False)
    delta = (elbos(model, batch) - batch.draws.weight * known.old.sum(-1)).mean(-1) / L
    A, r = batch.advantage, delta.exp()
    expected = torch.minimum(r * A, r.clamp(0.8, 1.2) * A)
    got = bound("espo").value(view_of(batch, score(model, batch, ALL), known))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-13)


def clipped(r: float, A: float, e: float = 0.2) -> float:
    return min(r * A, min(max(r, 1 - e), 1 + e) * A)


@pytest.mark.parametrize("name", ["diffu_grpo", "unigrpo", "tracerl", "agrpo"])
def test_token_ratios_are_averaged_as_published(name):
    """d1: over the step's tokens. UniGRPO, TraceRL: over a draw's tokens. AGRPO: a sum over steps, over the length."""
    model, batch = TableModel(1), own_batch(name)
    logprob, old = score(model, batch, ALL), score(model.moved(9, 0.5), batch, ALL)
    scored, weight = batch.draws.scored, batch.draws.weight
    for b in range(B):
        rows = []
        for j in range(batch.K):
            ratios = (logprob - old).exp()[b, j][scored[b, j]].tolist()
            terms = [clipped(r, batch.advantage[b].item()) for r in ratios]
            over = {"diffu_grpo": 2.5, "agrpo": L / weight[b, j].item()}.get(name, len(terms))
            rows.append(sum(terms) / over)
        value = surrogate(name, tokens=2.5).value(view_of(batch, logprob, Known(old)))[b].item()
        assert value == pytest.approx(sum(rows) / len(rows), abs=1e-13)


def test_d1_loss_with_its_kl_by_hand():
    """-(1 / tokens) sum [min(rho A, clip(rho) A) - beta (e^(ref-new) - (ref-new) - 1)]."""
    model, batch = TableModel(1), own_batch("diffu_grpo")
    known, logprob = other_policies(model, batch, on_policy=False), score(model, batch, ALL)
    x = known.reference - logprob
    ratio, A = (logprob - known.old).exp(), batch.advantage[:, None, None]
    terms = torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A) - 0.3 * (x.exp() - x - 1)
    expected = (terms * batch.draws.scored).sum((1, 2)) / L
    torch.testing.assert_close(
        bound("diffu_grpo", "k3").value(view_of(batch, logprob, known)), expected, rtol=0, atol=1e-13
    )
