"""Token for token what published samplers write, and what caches promise: random weights in published layouts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bgpo.models.decoding import SamplerSettings
from bgpo.models.loading import Overrides, load
from bgpo.models.noise import Noise
from bgpo.models.sampler import complete
from tests.models import published, reference_samplers
from tests.models.reference_samplers import Keyed

L = 32


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Denoisers by family, and the logits of the networks written out beside them."""
    home = tmp_path_factory.mktemp("models")
    found = {
        "llada": (published.llada(home / "llada"), "llada", {}),
        "dream": (published.dream(home / "dream"), "dream", {}),
        "blocks": (published.converted(home / "blocks"), "a2d_block", {"attention_block": 4}),
    }
    return {name: _sharpened(load(folder, family, dtype=torch.float32, overrides=Overrides(**overrides)), folder)
            for name, (folder, family, overrides) in found.items()}


def _sharpened(model, folder):
    """Random heads are nearly uniform; larger ones make confidences differ."""
    network = published.reference(folder, torch.float32, block=model.attention_block)
    with torch.no_grad():
        model.model.lm_head.weight.mul_(3)

    @torch.no_grad()
    def logits(ids):
        values = network(ids) * 3
        values[..., model.mask_id] = -1e9
        return values

    return model, logits


def prompts(B: int, P: int = 9) -> torch.Tensor:
    return torch.randint(3, 300, (B, P), generator=torch.Generator().manual_seed(1))


def ours(model, prompt, *, order="low_confidence", steps=L, block=L, **more) -> torch.Tensor:
    settings = SamplerSettings(L, steps, block, 0.0, order, **more)
    return complete(model, prompt, settings, Noise(0)).ids


@pytest.mark.parametrize("cfg", [0.0, 1.5])
@pytest.mark.parametrize("steps, block", [(32, 32), (8, 32), (16, 8), (12, 16), (20, 8), (6, 32), (4, 8)])
def test_equals_llada_s_generate(models, steps, block, cfg):
    """Steps that divide the block and steps that do not."""
    model, logits = models["llada"]
    prompt = prompts(4)
    expected = reference_samplers.llada(logits, prompt, L, steps, block, model.mask_id, cfg)
    assert torch.equal(ours(model, prompt, steps=steps, block=block, cfg_scale=cfg), expected)
    assert torch.equal(ours(model, prompt, order="max_prob", steps=steps, block=block, cfg_scale=cfg), expected)
    assert len(set(map(tuple, expected.tolist()))) > 1, "equal rows would hide a mix-up"


@pytest.mark.parametrize("alg, order", [
    ("maskgit_plus", "low_confidence"), ("topk_margin", "margin"), ("entropy", "entropy"),
])
@pytest.mark.parametrize("steps", [32, 16, 13, 5])
def test_equals_dream_s_generate(models, alg, order, steps):
    model, logits = models["dream"]
    prompt = prompts(3)
    expected = reference_samplers.dream(logits, prompt, L, steps, model.mask_id, alg)
    assert torch.equal(ours(model, prompt, order=order, steps=steps, schedule="dream"), expected)


RULES = {
    "quota": ({"schedule": "quota"}, {}),
    "threshold": ({"schedule": "threshold", "confidence_threshold": 0.3}, {"threshold": 0.3}),
    "factor": ({"schedule": "factor", "factor": 2.1}, {"factor": 2.1}),
}


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("rule", RULES)
def test_equals_fast_dllm_s_caches_row_by_row(models, family, cache, rule):
    """Batch 1 against the reference, then a batch against its rows; with shifted logits as well."""
    model, _ = models[family]
    settings, published_rule = RULES[rule]
    keyed = Keyed(model.model, model.mask_id, shift=model.logit_shift)
    prompt = prompts(3)
    together = ours(model, prompt, steps=12, block=8, cache=cache, **settings)
    for row in range(3):
        expected = reference_samplers.fast_dllm(
            keyed, prompt[row : row + 1], L, 12, 8, model.mask_id, dual=cache == "dual", **published_rule
        )
        assert torch.equal(ours(model, prompt[row : row + 1], steps=12, block=8, cache=cache, **settings), expected)
        assert torch.equal(together[row : row + 1], expected)
    exact = ours(model, prompt, steps=12, block=8, **settings)
    assert not torch.equal(together, exact), "were these equal, an approximation would not have been tested"


@pytest.mark.parametrize("schedule", ["quota", "threshold"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_block_causal_keys_change_nothing(models, schedule, temperature):
    """Prompts of several lengths, rows that finish blocks at different steps, tokens locked in some rows."""
    model, _ = models["blocks"]
    prompt = prompts(4)
    prompt[1, :4] = model.pad_id
    prompt[3, :7] = model.pad_id
    locked = torch.full((4, L), model.mask_id)
    locked[2, 8:19] = 77
    settings = SamplerSettings(
        L, 16, 8, temperature, "max_prob", schedule=schedule, confidence_threshold=0.3, stop_at_eos=True
    )
    exact = complete(model, prompt, settings, Noise(2), locked=locked)
    cached = complete(model, prompt, replace(settings, cache="block_causal"), Noise(2), locked=locked)
    assert torch.equal(cached.ids, exact.ids) and torch.equal(cached.commit_step, exact.commit_step)
    torch.testing.assert_close(cached.logprob, exact.logprob, rtol=0, atol=3e-5)


def test_block_causal_keys_are_computed_once(models):
    """The prompt with the first block, then each finished block with the next one; no prefix is read again."""
    model, _ = models["blocks"]
    widths = []
    settings = SamplerSettings(L, 16, 8, 0.0, "max_prob", cache="block_causal")
    whole = model.states_at
    model.states_at = lambda ids, *more: widths.append(ids.shape[1]) or whole(ids, *more)
    try:
        complete(model, prompts(2), settings, Noise(0))
    finally:
        del model.states_at
    assert widths == [9 + 8, 8, 8, 8] + [16, 8, 8, 8] * 3


def test_block_causal_keys_need_whole_blocks(models):
    with pytest.raises(ValueError, match="multiple"):
        ours(models["blocks"][0], prompts(1), block=2, steps=16, cache="block_causal")


def test_padding_with_the_end_token_is_not_an_answer_that_has_ended(models):
    """LLaDA pads with its end token; neither the prompt's padding nor an answer's end is mistaken for the other."""
    model, _ = models["llada"]
    prompt = prompts(2)
    padded = torch.nn.functional.pad(prompt, (5, 0), value=model.pad_id)
    for cache in ("none", "prefix", "dual"):
        assert torch.equal(ours(model, padded, block=8, cache=cache), ours(model, prompt, block=8, cache=cache))
    mixed = torch.cat([padded[:1], torch.cat([prompts(1, 5), prompt[1:]], 1)])
    assert torch.equal(ours(model, mixed, block=8, stop_at_eos=True)[0], ours(model, prompt[:1], block=8,
                                                                              stop_at_eos=True)[0])
