"""The ELBO estimator against full enumeration of masks."""

from __future__ import annotations

from itertools import permutations
from math import comb, factorial, lgamma

import pytest
import torch

from bgpo.algorithm.elbo import estimate_elbo
from bgpo.algorithm.masking import draw_masks
from tests.toy import PROMPT, L, TableModel, masks_of, subsets


@pytest.fixture
def model():
    return TableModel(0)


@pytest.fixture
def ids():
    return torch.tensor([[0, 2, 1, 1]])


def masked_logprob(model, ids) -> dict[tuple[int, ...], float]:
    """s(S) = sum over S of log p(y_i | y without S), for every S, straight from the table."""
    scores = {}
    for positions in subsets():
        code = sum(2**i for i in positions)
        logprob = model.table[code].log_softmax(-1)
        scores[positions] = sum(logprob[i, ids[0, i]].item() for i in positions)
    return scores


def enumerated(model, ids) -> float:
    """mean over l of the mean over |S| = l of (L / l) s(S)."""
    return sum(L / len(S) * s / comb(L, len(S)) for S, s in masked_logprob(model, ids).items()) / L


def test_estimator_equals_the_table_for_every_mask(model, ids):
    sets = subsets()
    weight = torch.tensor([L / len(S) for S in sets], dtype=torch.float64)
    n = len(sets)
    got = estimate_elbo(model, PROMPT.expand(n, 1), ids.expand(n, L), masks_of(sets), weight)
    expected = [L / len(S) * s for S, s in masked_logprob(model, ids).items()]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_enumerated_elbo_in_three_forms(model, ids):
    scores = masked_logprob(model, ids)
    by_sum = sum(s / (len(S) * comb(L, len(S))) for S, s in scores.items())

    def beta(a, b):
        return torch.tensor(lgamma(a) + lgamma(b) - lgamma(a + b), dtype=torch.float64).exp().item()

    by_beta = sum(beta(len(S), L - len(S) + 1) * s for S, s in scores.items())
    assert by_sum == pytest.approx(enumerated(model, ids), abs=1e-12)
    assert by_beta == pytest.approx(enumerated(model, ids), abs=1e-12)


def test_elbo_is_the_mean_over_orders_and_a_lower_bound(model, ids):
    logprob = model.table.log_softmax(-1)
    chains = []
    for order in permutations(range(L)):
        left = set(range(L))
        chain = 0.0
        for i in order:
            chain += logprob[sum(2**j for j in left), i, ids[0, i]].item()
            left.remove(i)
        chains.append(chain)
    B = enumerated(model, ids)
    assert pytest.approx(sum(chains) / factorial(L), abs=1e-12) == B
    assert torch.tensor(chains, dtype=torch.float64).logsumexp(0).item() - lgamma(L + 1) >= B


@pytest.mark.parametrize("scheme", ["iid", "stratified"])
def test_draws_average_to_the_enumerated_elbo(model, ids, scheme):
    B, K = 20_000, 4
    draws = draw_masks(B, K, L, torch.Generator().manual_seed(0), scheme)
    n = B * K
    with torch.no_grad():
        samples = estimate_elbo(
            model, PROMPT.expand(n, 1), ids.expand(n, L), draws.masked.view(n, L), draws.weight.double().view(n)
        ).view(B, K)
    means = samples.mean(1)
    assert abs(means.mean().item() - enumerated(model, ids)) < 4 * means.std().item() / B**0.5


def test_single_position_elbo_is_the_likelihood():
    """L = 1: one mask, weight 1, no variance."""
    draws = draw_masks(3, 7, 1, torch.Generator().manual_seed(0))
    assert draws.masked.all() and (draws.weight == 1).all()


def test_gradient_matches_full_logits_gathered_afterwards():
    """Head at masked rows only: equal to the head on all rows, value and gradients, trunk and head alike."""
    from bgpo.models.tiny import build_tiny

    model = build_tiny(torch.Generator().manual_seed(0))
    model.model.double()
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (5, 11), generator=generator)
    draws = draw_masks(5, 1, 8, generator)
    masked, weight = draws.masked[:, 0], draws.weight[:, 0].double()
    got = estimate_elbo(model, ids[:, :3], ids[:, 3:], masked, weight)
    got.sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.model.named_parameters()}

    model.model.zero_grad()
    noised = torch.cat([ids[:, :3], ids[:, 3:].masked_fill(masked, model.mask_id)], 1)
    logits = model.model(input_ids=noised).logits[:, 3:].log_softmax(-1)
    token_logprob = logits.gather(-1, ids[:, 3:, None])[..., 0]
    expected = weight * (token_logprob * masked).sum(1)
    expected.sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    for name, parameter in model.model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-9, atol=1e-11)
