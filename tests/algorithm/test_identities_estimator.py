"""Identities of the ELBO estimator: every form of it against the enumeration of all masks, in float64."""

from __future__ import annotations

from itertools import combinations, permutations, product
from math import comb, factorial, lgamma

import numpy as np
import pytest
import torch

from bgpo.algorithm.elbo import estimate_elbo
from bgpo.algorithm.masking import MASK_SCHEMES, DrawShape, MaskDraws, draw_masks, full
from tests.toy import PROMPT, L, TableModel, batch_of, doubled, elbos, every_mask, subsets

BITS = 2 ** torch.arange(L)
IDS = torch.tensor([[0, 2, 1, 1]])
COUNT_FORMS = ("iid", "systematic", "stratified", "antithetic")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model() -> TableModel:
    return TableModel(0)


def logprobs(model: TableModel) -> torch.Tensor:
    """(2^L, L) log p(y_i | y without S) for every set S by its code, straight from the table."""
    with torch.no_grad():
        return model.table.log_softmax(-1)[:, torch.arange(L), IDS[0]]


def scores(model: TableModel) -> dict[tuple[int, ...], float]:
    """s(S) = sum over S of log p(y_i | y without S), and s of the empty set, 0."""
    table = logprobs(model)
    return {S: sum(table[code_of(S), i].item() for i in S) for S in [(), *subsets()]}


def code_of(S) -> int:
    return sum(2**i for i in S)


def complement(S) -> tuple[int, ...]:
    return tuple(i for i in range(L) if i not in S)


def enumerated(model: TableModel) -> float:
    """B = mean over l of the mean over |S| = l of (L / l) s(S)."""
    return sum(L / len(S) * s / comb(L, len(S)) for S, s in scores(model).items() if S) / L


def sampled(model: TableModel, draws: MaskDraws) -> torch.Tensor:
    """(B, K) samples of the draws, every one looked up in the table."""
    every = logprobs(model)[(draws.masked * BITS).sum(-1)]
    return draws.weight.double() * (every * draws.scored).sum(-1)


def weight_of_count(scheme: str) -> dict[int, float]:
    """The weight that a scheme gives a mask of l positions."""
    draws = draw_masks(500, 2, L, generator(), scheme)
    return dict(zip(draws.masked.sum(-1).flatten().tolist(), draws.weight.double().flatten().tolist()))


def test_estimator_equals_the_table_for_every_mask(model):
    draws = every_mask()
    n = draws.masked.shape[1]
    got = estimate_elbo(model, PROMPT.expand(n, 1), IDS.expand(n, L), draws.masked[0], draws.weight[0])
    torch.testing.assert_close(got, sampled(model, draws)[0], rtol=0, atol=1e-12)


def test_enumerated_elbo_agrees_in_three_forms(model):
    """1. mean_l mean_{|S|=l} (L/l) s(S) = sum_S s(S) / (l C(L, l)) = sum_S Beta(l, L-l+1) s(S)."""
    def beta(a: int, b: int) -> float:
        return np.exp(lgamma(a) + lgamma(b) - lgamma(a + b))

    by_beta = sum(beta(len(S), L - len(S) + 1) * s for S, s in scores(model).items() if S)
    assert sampled(model, every_mask()).mean().item() == pytest.approx(enumerated(model), abs=1e-12)
    assert by_beta == pytest.approx(enumerated(model), abs=1e-12)


def chains(model: TableModel, orders) -> list[float]:
    """For each order of the positions, the log-probability of writing them one at a time in that order."""
    table = logprobs(model)
    return [sum(table[code_of(order[k:]), order[k]].item() for k in range(L)) for order in orders]


def test_elbo_is_the_mean_over_all_orders_of_one_token_at_a_time(model):
    """2. B = (1/L!) sum over permutations of the sum of one-token-at-a-time conditionals."""
    every = chains(model, permutations(range(L)))
    assert sum(every) / factorial(L) == pytest.approx(enumerated(model), abs=1e-12)


def test_elbo_is_a_lower_bound_of_the_any_order_likelihood(model):
    """3. B <= log[(1/L!) sum over permutations of the product]."""
    every = torch.tensor(chains(model, permutations(range(L))), dtype=torch.float64)
    assert enumerated(model) < every.logsumexp(0).item() - lgamma(L + 1)


def test_count_with_zero_enumerates_to_the_elbo(model):
    """4. l ~ U{0..L} with weight (L+1)/l has the mean B."""
    weight = weight_of_count("complementary")
    mean = sum(weight[len(S)] * s / comb(L, len(S)) for S, s in scores(model).items()) / (L + 1)
    assert weight[0] == 0 and mean == pytest.approx(enumerated(model), rel=1e-7)


def test_complementary_pair_enumerates_to_the_elbo(model):
    """5. ((L+1)/l s(S) + (L+1)/(L-l) s(S^c)) / 2 over l in {0..L} has the mean B."""
    weight, s = weight_of_count("complementary"), scores(model)
    pairs = [(weight[len(S)] * s[S] + weight[L - len(S)] * s[complement(S)]) / 2 / comb(L, len(S)) for S in s]
    assert sum(pairs) / (L + 1) == pytest.approx(enumerated(model), rel=1e-7)


@pytest.mark.parametrize("l", range(1, L + 1))
def test_count_with_zero_weight_is_the_mean_of_one_over_t_given_the_count(l):
    """6. int t^l (1-t)^(L-l) (1/t) dt / int t^l (1-t)^(L-l) dt = (L+1)/l."""
    nodes, shares = np.polynomial.legendre.leggauss(L)
    t = (nodes + 1) / 2
    likelihood = shares * t**l * (1 - t) ** (L - l)
    assert (likelihood / t).sum() / likelihood.sum() == pytest.approx((L + 1) / l, abs=1e-12)
    assert weight_of_count("complementary")[l] == pytest.approx((L + 1) / l)


def test_without_context_every_count_has_the_same_mean_and_half_masks_no_spread(model):
    """7. If p ignores its context, h(l) = sum_i log p_i for every l, and a pair at l = L/2 is (L+1)/L of that."""
    with torch.no_grad():
        model.table[:] = model.table[-1].clone()
    total = logprobs(model)[0].sum().item()
    for l in range(1, L + 1):
        h = [L / l * s for S, s in scores(model).items() if len(S) == l]
        assert sum(h) / len(h) == pytest.approx(total, abs=1e-12)
    draws = draw_masks(200, 2, L, generator(), "complementary")
    pair = sampled(model, draws).mean(1)[draws.masked.sum(-1)[:, 0] == L // 2]
    torch.testing.assert_close(pair, torch.full_like(pair, (L + 1) / L * total))


@pytest.mark.parametrize("scheme", [*COUNT_FORMS, "block", "complementary"])
def test_one_position_needs_one_mask_and_has_no_variance(scheme):
    """8. L = 1: B = log p(y_1 | mask, x), whatever the estimator and the number of draws."""
    draws = draw_masks(50, 6, 1, generator(), scheme)
    factor = draws.weight * draws.scored[..., 0]  # times log p(y_1 | mask, x)
    assert (factor.view(50, 3, 2).mean(-1) == 1).all()
    if scheme != "complementary":  # there one draw of each pair scores twice, the other nothing
        assert (factor == 1).all()


def test_sample_of_the_full_mask_is_the_one_pass_score(model):
    """9. The l = L sample is diffu-GRPO's score without prompt masking."""
    draws = full(DrawShape(1, 1, L, L), generator())
    assert draws.prompt_masked is None
    one_pass = elbos(model, batch_of(IDS, doubled(draws), torch.ones(1, dtype=torch.float64)))
    assert one_pass.item() == pytest.approx(scores(model)[tuple(range(L))], abs=1e-12)
    assert weight_of_count("stratified")[L] == 1


@pytest.mark.parametrize("K", [1, 2, 3])
def test_gauss_nodes_are_exact_from_half_the_length_on(model, K):
    """10. sum_S t^(l-1) (1-t)^(L-l) s(S) has degree L-1: K >= ceil(L/2) nodes give B, fewer do not."""
    nodes, shares = np.polynomial.legendre.leggauss(K)
    t = torch.tensor((nodes + 1) / 2)[:, None]
    draws = draw_masks(5000, K, L, generator(), "gauss")
    exact_weight = torch.tensor(shares / 2) * K / t[:, 0]
    torch.testing.assert_close(draws.weight[0].double(), exact_weight, rtol=1e-6, atol=0)
    assert (draws.masked.double().mean((0, 2)) - t[:, 0]).abs().max() < 4 * 0.5 / (5000 * L) ** 0.5

    s = scores(model)
    l = torch.tensor([len(S) for S in s])
    expected = (t**l * (1 - t) ** (L - l)) @ torch.tensor(list(s.values()), dtype=torch.float64)
    error = abs((exact_weight * expected).mean().item() - enumerated(model))
    assert error < 1e-12 if (L + 1) // 2 <= K else error > 1e-2


@pytest.mark.parametrize("length, n", [(5, 2), (7, 3), (8, 4), (6, 16)])
def test_systematic_strata_visit_every_count_once_over_all_offsets(length, n):
    """26. l_j = 1 + (k + floor(j L / n)) mod L: each column of the L possible rows is a permutation of 1..L."""
    counts = draw_masks(2000, n, length, generator(), "systematic").masked.sum(-1)
    rows = counts.unique(dim=0)
    assert len(rows) == length
    assert all(rows[:, j].sort().values.tolist() == list(range(1, length + 1)) for j in range(n))


def test_rounded_systematic_counts_never_visit_some():
    """26. The published form rounds halves to even: its second stratum at L = 5, n = 2 never draws 2 or 5."""
    offsets, stride = torch.arange(1, 6), 5 / 2
    rounded = ((offsets + stride).round().long() - 1) % 5 + 1
    assert set(rounded.tolist()) == {1, 3, 4}


@pytest.mark.parametrize("scheme", [*COUNT_FORMS, "complementary"])
def test_draws_average_to_the_enumerated_elbo(model, scheme):
    """27. Over 1e5 draws the mean is B within four standard errors, for every unbiased scheme."""
    means = sampled(model, draw_masks(25_000, 4, L, generator(), scheme)).mean(1)
    assert abs(means.mean().item() - enumerated(model)) < 4 * means.std().item() / len(means) ** 0.5


def test_gauss_draws_average_to_the_enumerated_elbo(model):
    """10. With enough nodes the drawn masks are unbiased, too."""
    means = sampled(model, draw_masks(25_000, (L + 1) // 2, L, generator(), "gauss")).mean(1)
    assert abs(means.mean().item() - enumerated(model)) < 4 * means.std().item() / len(means) ** 0.5


def test_spread_falls_from_iid_to_antithetic_draws():
    """27. Spread of Bhat at 16 draws: iid > complementary > systematic > stratified > antithetic.

    Heavy-tailed token difficulties and a surprise that grows as (l / length)^2.5, as long completions have.
    """
    length, n, B = 64, 16, 4000
    difficulty = 1 / torch.rand(length, generator=generator(1)).clamp(min=0.02)
    spread = {}
    for scheme in ("iid", "complementary", "systematic", "stratified", "antithetic"):
        draws = draw_masks(B, n, length, generator(), scheme)
        surprise = (draws.masked * difficulty).sum(-1) * draws.mask_ratio**2.5
        spread[scheme] = (draws.weight * surprise).mean(1).std().item()
    values = list(spread.values())
    assert values == sorted(values, reverse=True), spread
    assert spread["systematic"] < spread["iid"] / 2 and spread["antithetic"] < 0.95 * spread["stratified"], spread


def block_ordered(model: TableModel, b: int) -> float:
    """The sum over blocks of the enumeration inside each: earlier blocks clean, later ones masked."""
    table, total = logprobs(model), 0.0
    for start in range(0, L, b):
        inside, later = range(start, start + b), tuple(range(start + b, L))
        for l in range(1, b + 1):
            for S in combinations(inside, l):
                total += sum(table[code_of(S + later), i].item() for i in S) / (l * comb(b, l))
    return total


@pytest.mark.parametrize("b", [1, 2, 4])
def test_block_elbo_is_the_mean_over_the_orders_that_respect_the_blocks(model, b):
    """37. The in-block enumerations add up to the mean over the (b!)^(L/b) block-respecting orders."""
    inside = [permutations(range(start, start + b)) for start in range(0, L, b)]
    orders = [sum(parts, ()) for parts in product(*inside)]
    assert len(orders) == factorial(b) ** (L // b)
    assert sum(chains(model, orders)) / len(orders) == pytest.approx(block_ordered(model, b), abs=1e-12)


@pytest.mark.parametrize("b, K", [(1, 4), (1, 2), (2, 2), (2, 3), (4, 2)])
def test_block_draws_average_to_the_block_elbo(model, b, K):
    """37. The drawn masks estimate it without bias, whether or not the draws divide into the blocks."""
    draws = MASK_SCHEMES["block"](DrawShape(25_000, K, L, b), generator())
    means = sampled(model, draws).mean(1)
    assert abs(means.mean().item() - block_ordered(model, b)) < 4 * means.std().item() / len(means) ** 0.5 + 1e-6
