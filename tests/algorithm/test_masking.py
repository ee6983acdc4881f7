"""Mask draws: counts, marginals, independence of how a batch is cut."""

from __future__ import annotations

import pytest
import torch

from bgpo.algorithm.masking import MASK_SCHEMES, draw_masks
from bgpo.config import MASK_DRAWS

FIXED_COUNT = ["iid", "systematic", "stratified", "antithetic"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_form_offers_every_scheme():
    assert set(MASK_DRAWS) == {"auto", *MASK_SCHEMES}


@pytest.mark.parametrize("scheme", FIXED_COUNT)
def test_every_draw_masks_exactly_its_count(scheme):
    draws = draw_masks(50, 6, 9, generator(), scheme)
    count = draws.masked.sum(-1)
    assert count.min() >= 1 and count.max() <= 9
    torch.testing.assert_close(count / 9, draws.mask_ratio)
    torch.testing.assert_close(draws.weight, 9 / count)


@pytest.mark.parametrize("scheme", FIXED_COUNT)
@pytest.mark.parametrize("L, K", [(5, 2), (8, 4), (7, 16)])
def test_counts_are_uniform_over_all_lengths(scheme, L, K):
    B = 40_000
    counts = draw_masks(B, K, L, generator(), scheme).masked.sum(-1)
    share = torch.bincount(counts.flatten(), minlength=L + 1)[1:] / (B * K)
    assert (share - 1 / L).abs().max() < 4 * (1 / L / B) ** 0.5


def test_stratified_draws_visit_each_stratum_once():
    L, K = 16, 4
    counts = draw_masks(100, K, L, generator(), "stratified").masked.sum(-1)
    assert (((counts - 1) * K // L) == torch.arange(K)).all()


@pytest.mark.parametrize("scheme", FIXED_COUNT)
def test_each_position_is_masked_equally_often(scheme):
    draws = draw_masks(20_000, 2, 6, generator(), scheme)
    share = draws.masked.float().mean((0, 1))
    assert (share - share.mean()).abs().max() < 0.01


def test_same_seed_same_masks():
    assert torch.equal(draw_masks(4, 3, 8, generator(5)).masked, draw_masks(4, 3, 8, generator(5)).masked)
    assert not torch.equal(draw_masks(4, 3, 8, generator(5)).masked, draw_masks(4, 3, 8, generator(6)).masked)
