"""Mask draws: the structure of each scheme, its marginals, and that what a draw stands for adds up."""

from __future__ import annotations

import pytest
import torch

from bgpo.algorithm.knobs import MASK_DRAWS
from bgpo.algorithm.masking import (
    MASK_SCHEMES,
    DrawShape,
    coupled,
    draw_masks,
    full,
    one_ratio,
    shared_in_groups,
    trace_slices,
    trace_steps,
    with_earlier_blocks_masked,
    with_prompt_masked,
)

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


def test_antithetic_neighbours_mirror_each_other():
    """u and 1 - u in neighbouring strata: their counts add up to the same in every row."""
    counts = draw_masks(500, 4, 16, generator(), "antithetic").masked.sum(-1)
    assert (counts[:, 0] + counts[:, 1] == 9).all() and (counts[:, 2] + counts[:, 3] == 25).all()
    assert len(counts[:, 0].unique()) == 4, "the whole stratum is visited"


def test_antithetic_with_an_odd_number_leaves_the_last_draw_alone():
    counts = draw_masks(2000, 3, 6, generator(), "antithetic").masked.sum(-1)
    assert set(counts[:, 2].tolist()) == {5, 6}


@pytest.mark.parametrize("K", [2, 6, 5])
def test_complementary_pairs_mask_a_set_and_its_complement(K):
    L, B = 5, 6000
    draws = draw_masks(B, K, L, generator(), "complementary")
    first, second = draws.masked[:, 0 : K - 1 : 2], draws.masked[:, 1::2]
    assert torch.equal(first[:, : second.shape[1]], ~second)
    l = draws.masked.sum(-1)
    torch.testing.assert_close(draws.weight, torch.where(l > 0, (L + 1) / l, 0.0))
    share = torch.bincount(l[:, 0], minlength=L + 1) / B
    assert (share - 1 / (L + 1)).abs().max() < 4 * (1 / (L + 1) / B) ** 0.5


def test_block_draws_see_earlier_blocks_clean_and_later_ones_masked():
    L, b, K = 12, 4, 6
    draws = draw_masks(200, K, L, generator(), "block", block_length=b)
    masked, scored = (x.view(200, K, L // b, b) for x in (draws.masked, draws.scored))
    l = scored.sum((-1, -2))
    own = scored.any(-1)
    assert (own.sum(-1) == 1).all()
    assert (own.int().argmax(-1) == torch.arange(K) // 2).all(), "the blocks are stratified over the draws"
    before, after = own.flip(-1).cumsum(-1).flip(-1) - own.int() > 0, own.cumsum(-1) - own.int() > 0
    assert not masked[before].any() and masked[after].all()
    assert torch.equal(masked[own], scored[own])
    assert set(l.flatten().tolist()) == {1, 2, 3, 4}
    torch.testing.assert_close(draws.weight, L / l)


def test_bernoulli_ratios_are_uniform_and_weighed_by_their_inverse():
    draws = draw_masks(20_000, 2, 6, generator(), "bernoulli")
    t = 1 / draws.weight
    assert t.min() > 0 and t.max() <= 1 and abs(t.mean().item() - 0.5) < 0.01
    for low in (0.1, 0.5, 0.8):
        near = (t - low).abs() < 0.05
        assert draws.masked[near].float().mean().item() == pytest.approx(t[near].mean().item(), abs=0.02)


def test_full_masks_everything_once():
    draws = full(DrawShape(3, 7, 5, 5), generator())
    assert draws.masked.shape == (3, 1, 5) and draws.masked.all() and draws.scored.all() and (draws.weight == 1).all()


def test_coupled_passes_are_all_masked_some_masked_and_the_rest():
    draws = coupled(DrawShape(4000, 9, 6, 6), generator())
    assert draws.masked.shape == (4000, 3, 6)
    assert draws.masked[:, 0].all() and torch.equal(draws.masked[:, 1], ~draws.masked[:, 2])
    one, first, second = draws.weight.unique(dim=0)[0].tolist()  # one t for the whole batch
    t = 1 / first
    assert one == 1 and 0.2 < t < 0.8 and 1 / second == pytest.approx(1 - t)
    assert draws.masked[:, 1].float().mean().item() == pytest.approx(t, abs=0.02)
    assert len({coupled(DrawShape(1, 3, 6, 6), generator(seed)).weight[0, 1].item() for seed in range(5)}) == 5


def test_one_ratio_rises_evenly_to_the_whole_completion():
    shape, L = DrawShape(7, 9, 1000, 1000), 1000
    draws = [one_ratio(shape, generator(3), update, 5) for update in range(5)]
    counts = [d.masked.sum(-1).unique().tolist() for d in draws]
    assert all(len(count) == 1 for count in counts), "one ratio for the batch"
    steps = torch.tensor(counts).diff(dim=0)
    assert counts[-1] == [L] and steps.min() > 0 and steps.max() - steps.min() <= 1
    assert all(d.masked.shape == (7, 1, L) for d in draws)
    single = {one_ratio(DrawShape(1, 1, L, L), generator(seed), 0, 1).masked.sum().item() for seed in range(5)}
    assert len(single) == 5


def paths(B: int, L: int, per_step: int) -> torch.Tensor:
    """(B, L) commit steps of random paths that write `per_step` tokens at a time."""
    return torch.rand(B, L, generator=generator(9)).argsort(-1) // per_step + 1


@pytest.mark.parametrize("per_step, shrink, slices", [(1, 1, 8), (1, 3, 3), (2, 1, 4), (1, 8, 1)])
def test_trace_slices_partition_the_completion_in_the_order_it_was_written(per_step, shrink, slices):
    commit_step = paths(5, 8, per_step)
    draws = trace_slices(commit_step, shrink)
    assert draws.scored.shape[1] == slices and (draws.weight == 1).all()
    assert (draws.scored.sum(1) == 1).all(), "each token is scored exactly once"
    for j in range(slices):
        assert torch.equal(draws.masked[:, j], commit_step > j * shrink)
        assert torch.equal(draws.scored[:, j], (commit_step > j * shrink) & (commit_step <= (j + 1) * shrink))


def test_trace_steps_show_the_canvas_of_their_step_and_score_what_it_wrote():
    commit_step = paths(6, 8, 2)
    draws = trace_steps(commit_step, torch.ones(6, 8, dtype=torch.bool), 3, generator())
    for b in range(6):
        for j in range(3):
            step, = commit_step[b][draws.scored[b, j]].unique().tolist()
            assert torch.equal(draws.scored[b, j], commit_step[b] == step)
            assert torch.equal(draws.masked[b, j], commit_step[b] >= step)
    assert (draws.weight == 4).all()


def test_what_fills_up_an_ended_completion_is_masked_in_every_draw_and_never_scored():
    """It stood as masks while the model wrote: a state that shows it is none that the policy drew from."""
    commit_step = torch.tensor([[2, 1, 3, 0, 0], [1, 2, 3, 4, 5]])
    written = torch.tensor([[True, True, True, False, False], [True] * 5])
    for draws in (trace_slices(commit_step, 1), trace_steps(commit_step, written, 3, generator())):
        assert draws.masked[0, :, 3:].all() and not draws.scored[0, :, 3:].any()
        assert draws.scored[0].any() and (draws.masked | ~draws.scored).all()


@pytest.mark.parametrize("B, K", [(1, 1), (1, 3), (3, 2)])
def test_trace_steps_estimate_the_sum_over_the_written_steps(B, K):
    """AGRPO: over the draws the weighted score has the mean of the sum over steps that wrote before the end."""
    L = 6
    commit_step = paths(B, L, 1)
    written = torch.arange(L) < torch.tensor([[6], [4], [1]])[:B]
    value = torch.randn(B, L, generator=generator(1), dtype=torch.float64)
    source, found = generator(2), []
    for _ in range(4000):
        draws = trace_steps(commit_step, written, K, source)
        found.append((draws.weight * (draws.scored * value[:, None]).sum(-1)).mean(-1))
    found = torch.stack(found)
    error = found.std(0) / len(found) ** 0.5
    assert ((found.mean(0) - (value * written).sum(-1)).abs() <= 4 * error + 1e-12).all()


def test_trace_steps_are_spread_over_completions_and_draws():
    """Low discrepancy: B * K draws over as many steps visit each exactly once."""
    commit_step = torch.arange(1, 9).expand(4, 8)
    draws = trace_steps(commit_step, torch.ones(4, 8, dtype=torch.bool), 2, generator())
    assert draws.scored.sum((0, 1)).tolist() == [1] * 8


def test_shared_draws_are_equal_within_a_group_and_differ_between_groups():
    own = with_prompt_masked(draw_masks(3, 4, 9, generator()), 5, generator(1))
    shared = shared_in_groups(own, 2)
    for field in ("masked", "weight", "scored", "prompt_masked"):
        assert torch.equal(getattr(shared, field).view(3, 2, 4, -1)[:, 0], getattr(own, field).view(3, 4, -1))
        assert torch.equal(getattr(shared, field).view(3, 2, 4, -1)[:, 1], getattr(own, field).view(3, 4, -1))
    assert not torch.equal(shared.masked[0], shared.masked[2])


def test_prompt_tokens_are_hidden_with_probability_fifteen_percent():
    draws = with_prompt_masked(draw_masks(2000, 2, 4, generator()), 10, generator(1))
    assert draws.prompt_masked.shape == (2000, 2, 10)
    assert draws.prompt_masked.float().mean().item() == pytest.approx(0.15, abs=0.01)


def test_tokens_of_earlier_blocks_are_hidden_with_probability_fifteen_percent_and_not_scored():
    plain = draw_masks(2000, 2, 12, generator(), "block", 4)
    draws = with_earlier_blocks_masked(plain, 4, generator(1))
    assert torch.equal(draws.scored, plain.scored) and torch.equal(draws.weight, plain.weight)
    block_of = torch.arange(12) // 4
    earlier = block_of < block_of[plain.scored.int().argmax(-1)][..., None]
    assert torch.equal(draws.masked & ~earlier, plain.masked)
    assert not (draws.masked & earlier & draws.scored).any()
    assert draws.masked[earlier].float().mean().item() == pytest.approx(0.15, abs=0.01)


def test_scoring_only_what_was_written_leaves_the_masks_alone():
    draws = draw_masks(4, 3, 6, generator())
    written = torch.arange(6) < torch.tensor([[6], [3], [1], [2]])
    fewer = draws.scoring_only(written)
    assert torch.equal(fewer.masked, draws.masked)
    assert torch.equal(fewer.scored, draws.masked & written[:, None])
