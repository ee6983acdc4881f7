"""The law that committed tokens follow: softmax(logits / T) for orders that look at logits alone, and at no other."""

from __future__ import annotations

import pytest
import torch

from bgpo.models.decoding import ROLLOUT_ORDERS, SamplerSettings
from bgpo.models.noise import Noise, philox
from bgpo.models.sampler import denoise
from bgpo.models.tiny import build_tiny

LENGTH = 4


@pytest.fixture(scope="module")
def model():
    """Random weights are nearly uniform; a larger head gives the law a shape."""
    model = build_tiny(torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.model.lm_head.weight.mul_(40)
    return model


def chi_square(model, order: str, temperature: float, B: int = 6000) -> float:
    """Mean over positions of chi-square per cell of the first step's tokens, rare ones pooled."""
    prompt = model.encode_prompts(["10+48"], 5)
    with torch.no_grad():
        canvas = torch.cat([prompt, torch.full((1, LENGTH), model.mask_id)], 1)
        logits = model.logits(model.hidden(canvas)[0, 5:])
    logits[:, model.banned_ids] = -torch.inf
    law = (logits / temperature).softmax(-1)
    settings = SamplerSettings(LENGTH, LENGTH, LENGTH, temperature, order)
    event = next(denoise(model, prompt.expand(B, -1), settings, Noise(0)))
    cells = []
    for position in range(LENGTH):
        rows = event.committed[:, position]
        if not (n := int(rows.sum())):
            continue
        counts = torch.bincount(event.ids[rows, position], minlength=len(law[0])).double()
        expected = law[position].double() * n
        usual = expected > 5
        counts, expected = (torch.cat([v[usual], v[~usual].sum()[None]]) for v in (counts, expected))
        cells.append(((counts - expected) ** 2 / expected.clamp(min=1e-9)).mean())
    return float(torch.stack(cells).mean())


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("order", ROLLOUT_ORDERS)
def test_tokens_follow_the_policy(model, order, temperature):
    assert chi_square(model, order, temperature) < 2


def test_tokens_chosen_by_their_own_confidence_do_not(model):
    """What makes the order unfit for rollouts; were this to pass, the rule that refuses it would be wrong."""
    assert chi_square(model, "low_confidence", 1.0) > 10


def test_rare_tokens_are_drawn_as_often_as_they_should():
    """Half-precision noise never draws the tail (inference notes of the field: .727/.273/.000 for .50/.30/.20)."""
    from bgpo.models.orders import draw

    V, n = 126_464, 400
    mass = torch.full((V,), 0.2 / (V - 101))
    mass[0], mass[1:101] = 0.5, 0.3 / 100
    rows = torch.arange(n)
    counts = torch.zeros(3)
    for part in rows.split(100):
        race = Noise(7).exponential(part, torch.zeros_like(part), torch.zeros_like(part), V)
        token = draw(mass.log().expand(len(part), V), 1.0, race).token
        counts += torch.stack([(token == 0).sum(), ((token > 0) & (token <= 100)).sum(), (token > 100).sum()])
    share = counts / n
    assert torch.allclose(share, torch.tensor([0.5, 0.3, 0.2]), atol=4 * 0.025), share


@pytest.mark.parametrize("counter, key, words", [
    ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    ([0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344], [0xA4093822, 0x299F31D0],
     [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
])
def test_philox_gives_its_authors_known_answers(counter, key, words):
    got = philox(tuple(torch.tensor([word]) for word in counter), tuple(key))
    assert [int(word) for word in got] == words


def test_noise_is_exponential_uniform_and_unrelated_between_keys():
    rows = torch.arange(400)
    zero = torch.zeros_like(rows)
    noise = Noise(2**40 + 5)
    race = noise.exponential(rows, zero, zero, 1001)
    assert race.shape == (400, 1001) and race.dtype == torch.float32
    assert (race > 0).all() and race.isfinite().all()
    assert abs(race.mean() - 1) < 0.01 and abs(race.var() - 1) < 0.02
    others = [
        noise.exponential(rows + 400, zero, zero, 1001), noise.exponential(rows, zero + 1, zero, 1001),
        noise.exponential(rows, zero, zero + 1, 1001), Noise(5).exponential(rows, zero, zero, 1001),
        Noise(2**40 + 6).exponential(rows, zero, zero, 1001),
    ]
    for other in others:
        assert abs(torch.corrcoef(torch.stack([race.flatten(), other.flatten()]))[0, 1]) < 0.01
    unit = noise.uniform(rows, zero, zero)
    assert abs(unit.mean() - 0.5) < 0.06 and ((unit > 0) & (unit < 1)).all()
