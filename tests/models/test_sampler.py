"""Sampler invariants, on the tiny model with random weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpo.models.sampler import SamplerSettings, complete, denoise
from bgpo.models.tiny import build_tiny

ORDERS = ("random", "max_prob", "low_confidence")


@pytest.fixture(scope="module")
def model():
    return build_tiny(torch.Generator().manual_seed(0))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def prompts(model, B: int = 5) -> torch.Tensor:
    return model.encode_prompts([f"{10 + i}+48" for i in range(B)], 5)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("length, steps, block", [(8, 8, 8), (8, 4, 4), (12, 6, 4), (10, 3, 10), (6, 2, 3)])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_every_position_is_committed_once_within_its_block(model, order, length, steps, block, temperature):
    sampler = SamplerSettings(length, steps, block, temperature, order)
    events = list(denoise(model, prompts(model), sampler, seeded()))
    assert [event.step for event in events] == list(range(1, steps + 1))
    assert (sum(event.committed.int() for event in events) == 1).all()
    steps_per_block = steps // (length // block)
    for event in events:
        start = (event.step - 1) // steps_per_block * block
        assert event.committed[:, start : start + block].sum() == event.committed.sum()  # nothing beyond the block
        assert event.committed.sum(1).unique().numel() == 1
    final = events[-1].ids
    assert not torch.isin(final, torch.tensor([model.mask_id, model.pad_id])).any()


@given(length=st.integers(1, 12), block=st.integers(1, 12), steps=st.integers(1, 14))
@settings(max_examples=200)
def test_quotas_add_up_or_the_settings_are_refused(length, block, steps):
    sampler = SamplerSettings(length, steps, block, 1.0, "random")
    fits = length % block == 0 and steps <= length and steps % (length // block) == 0
    if not fits:
        with pytest.raises(ValueError, match="does not divide"):
            sampler.quotas()
        return
    quotas = sampler.quotas()
    assert len(quotas) == steps and sum(quota for _, quota in quotas) == length
    assert min(quota for _, quota in quotas) >= 1


@pytest.mark.parametrize("order", ORDERS)
def test_same_seed_same_answer(model, order):
    sampler = SamplerSettings(8, 8, 8, 1.0, order)
    first, second = (complete(model, prompts(model), sampler, seeded(3)).ids for _ in range(2))
    other = complete(model, prompts(model), sampler, seeded(4)).ids
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_greedy_is_the_same_for_both_confidence_orders_and_any_seed(model):
    runs = [
        complete(model, prompts(model), SamplerSettings(8, 8, 8, 0.0, order), seeded(seed)).ids
        for order in ("max_prob", "low_confidence") for seed in (0, 1)
    ]
    assert all(torch.equal(runs[0], run) for run in runs[1:])


def test_guesses_do_not_change_the_answer_and_cover_what_is_masked(model):
    sampler = SamplerSettings(8, 8, 8, 1.0, "random")
    plain = list(denoise(model, prompts(model), sampler, seeded()))
    guessed = list(denoise(model, prompts(model), sampler, seeded(), guesses=True))
    assert torch.equal(plain[-1].ids, guessed[-1].ids)
    assert plain[0].guess_ids is None
    assert (guessed[0].guess_confidence > 0).all() and not (guessed[0].guess_ids == model.mask_id).any()


def test_committed_tokens_follow_the_policy_for_random_order_and_not_for_low_confidence(model):
    """Chi-square against softmax(logits): the claim that rollouts sample from the policy, and its known exception."""
    B = 6000
    prompt = prompts(model, 1).expand(B, -1)
    with torch.no_grad():
        canvas = torch.cat([prompt[:1], torch.full((1, 4), model.mask_id)], 1)
        logits = model.logits(model.hidden(canvas)[0, 5:])
        logits = logits * 40  # random weights are nearly uniform; sharpen them so that the law has a shape
    sharp = _Sharpened(model, 40)
    logits[:, model.banned_ids] = -torch.inf
    law = logits.softmax(-1)

    def chi_square(order: str) -> float:
        event = next(denoise(sharp, prompt, SamplerSettings(4, 4, 4, 1.0, order), seeded()))
        total = 0.0
        for position in range(4):
            rows = event.committed[:, position]
            n = int(rows.sum())
            counts = torch.bincount(event.ids[rows, position], minlength=len(law[0])).double()
            expected = law[position].double() * n
            usual = expected > 5
            terms = ((counts - expected) ** 2 / expected.clamp(min=1e-9))[usual]
            total += float(terms.mean())
        return total / 4

    assert chi_square("random") < 2
    assert chi_square("low_confidence") > 10


class _Sharpened:
    """The model with its logits scaled."""

    def __init__(self, model, factor: float):
        self._model, self._factor = model, factor

    def __getattr__(self, name):
        return getattr(self._model, name)

    def logits(self, hidden):
        return self._model.logits(hidden) * self._factor


def test_recorded_confidence_is_the_probability_at_temperature_one(model):
    sampler = SamplerSettings(4, 4, 4, 0.5, "random")
    prompt = prompts(model, 3)
    canvas = torch.full((3, 4), model.mask_id)
    for event in denoise(model, prompt, sampler, seeded()):
        with torch.no_grad():
            logits = model.logits(model.hidden(torch.cat([prompt, canvas], 1))[:, 5:])
        logits[..., model.banned_ids] = -torch.inf
        probability = logits.softmax(-1).gather(-1, event.ids[..., None])[..., 0]
        torch.testing.assert_close(event.confidence[event.committed], probability[event.committed])
        canvas = event.ids


def test_complete_asks_between_steps(model):
    asked = []
    complete(model, prompts(model), SamplerSettings(8, 4, 8, 1.0, "random"), seeded(), lambda: asked.append(1))
    assert len(asked) == 4
