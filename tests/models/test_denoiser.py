"""The tiny model and its tokenizer."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from math import comb

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bgpo.algorithm.elbo import estimate_elbo
from bgpo.models.denoiser import Denoiser
from bgpo.models.tiny import ALPHABET, build_tiny, tiny_tokenizer


@pytest.fixture(scope="module")
def model():
    return build_tiny(torch.Generator().manual_seed(0))


def test_size_and_vocabulary(model):
    assert sum(p.numel() for p in model.model.parameters()) == 342_816
    assert len(model.tokenizer) == 54 == model.model.config.vocab_size


def test_every_character_round_trips(model):
    text = ALPHABET
    ids = model.encode_completions([text], len(text) + 3)
    assert model.decode(ids) == [text]
    assert model.completion_tokens(ids).tolist() == [len(text) + 1]


def test_prompts_are_padded_on_the_left_to_one_width(model):
    ids = model.encode_prompts(["1+2", "37+48"], 6)
    assert ids[0, :3].tolist() == [model.pad_id] * 3 and ids[1, 0] == model.pad_id
    assert torch.equal(ids[0], model.encode_prompts(["1+2"], 6)[0])  # whatever the batch


@pytest.mark.parametrize(
    "text, words", [("é", "no token for"), ("<mask>" * 9, "takes up to"), ("1" * 9, "takes up to")]
)
def test_prompts_that_cannot_be_encoded_get_a_sentence(model, text, words):
    with pytest.raises(ValueError, match=words):
        model.encode_prompts([text], 8)


def test_special_tokens_cannot_be_typed(model):
    assert model.mask_id not in model.encode_prompts(["<mask>"], 8)


def test_decoding_stops_at_the_first_end_token(model):
    a, end = tiny_tokenizer().convert_tokens_to_ids(["a", "<eos>"])
    ids = torch.tensor([[a, end, a, end], [end, a, a, a], [a, a, a, a]])
    assert model.decode(ids) == ["a", "", "aaaa"]
    assert model.completion_tokens(ids).tolist() == [2, 1, 4]


def test_attention_is_bidirectional(model):
    """A token's hidden state depends on what comes after it."""
    ids = torch.randint(3, 50, (1, 6), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[0, -1] = (other[0, -1] - 3 + 1) % 47 + 3
    with torch.no_grad():
        assert (model.hidden(ids)[0, 0] - model.hidden(other)[0, 0]).abs().max() > 1e-6


def test_a_causal_model_is_refused():
    config = LlamaConfig(vocab_size=54, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match="is_causal"):
        Denoiser(LlamaForCausalLM(config), tiny_tokenizer())


def test_rows_do_not_depend_on_their_neighbours(model):
    ids = torch.randint(3, 50, (4, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(model.hidden(ids)[2:3], model.hidden(ids[2:3]), rtol=1e-4, atol=1e-5)


# ---- families: shift, padding, blocks, on small random models of the stock classes


def random_model(shift: bool = False, block: int = 0, eos_pads: bool = True) -> Denoiser:
    """A stock Llama over the built-in tokenizer; its end token pads, as LLaDA's does."""
    tiny = build_tiny(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in tiny.model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(5)  # far from the linear regime, so that a wrong mask shows
    spec = replace(tiny.spec, logit_shift=shift, attention_block=block, pad_id=2 if eos_pads else 0)
    return Denoiser(tiny.model.eval(), tiny.tokenizer, spec)


def random_ids(B: int, T: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 50, (B, T), generator=torch.Generator().manual_seed(seed))


FAMILIES = [{}, {"shift": True}, {"block": 4}]


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("width", [1, 3, 7])
@torch.no_grad()
def test_states_do_not_depend_on_left_padding(kind, width):
    model = random_model(**kind)
    ids = random_ids(2, 11)
    ids[:, -3:] = model.eos_id  # an answer's end tokens are no padding, though they have its id
    padded = torch.cat([torch.full((2, width), model.pad_id), ids], dim=1)
    torch.testing.assert_close(model.hidden(padded)[:, width:], model.hidden(ids), rtol=1e-4, atol=1e-4)
    assert model.prompt_tokens(padded[:, : width + 4]).tolist() == [4, 4]


@pytest.mark.parametrize("kind", FAMILIES)
@torch.no_grad()
def test_a_padded_neighbour_changes_nothing(kind):
    """The fault of a published file: any padding in the batch made every row causal."""
    model = random_model(**kind)
    ids = random_ids(3, 12)
    ids[1, :5] = model.pad_id
    together = model.hidden(ids)
    assert together.isfinite().all()
    torch.testing.assert_close(together[0:1], model.hidden(ids[0:1]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together[1:2, 5:], model.hidden(ids[1:2, 5:]), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_right_padding_is_honoured_where_it_is_named():
    model = random_model()
    ids = random_ids(2, 9)
    valid = torch.arange(9) < torch.tensor([[6], [9]])
    other = ids.clone()
    other[0, 6:] = 7
    found, again = model.hidden(ids, valid=valid), model.hidden(other, valid=valid)
    torch.testing.assert_close(found[0, :6], model.hidden(ids[:1, :6])[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[0, :6], again[0, :6])


@torch.no_grad()
def test_a_shift_is_applied_inside():
    """The state at i - 1 comes out at i; the first token keeps its own."""
    plain, shifted = random_model(), random_model(shift=True)
    ids = random_ids(2, 8)
    states = plain.hidden(ids)
    expected = torch.cat([states[:, :1], states[:, :-1]], dim=1)
    assert torch.equal(shifted.hidden(ids), expected)


@torch.no_grad()
def test_blocks_see_themselves_and_what_is_before():
    model = random_model(block=4)
    ids = random_ids(1, 11)  # a prompt of 3, blocks of 4 from there
    base = model.hidden(ids)
    for column in range(11):
        other = ids.clone()
        other[0, column] = (other[0, column] - 3 + 1) % 47 + 3
        moved = ((model.hidden(other) - base).abs().amax(-1) > 1e-5)[0]
        start = 0 if column < 3 else 3 + (column - 3) // 4 * 4
        assert moved.tolist() == [i >= start for i in range(11)]


@torch.no_grad()
def test_noised_blocks_read_the_clean_ones_before_them():
    """One pass over noised and clean halves equals a pass per block with a clean prefix: what decoding sees."""
    model = random_model(block=4)
    prompt, completion = random_ids(3, 5, seed=1), random_ids(3, 12, seed=2)
    prompt[1, :2] = model.pad_id
    masked = torch.rand(3, 12, generator=torch.Generator().manual_seed(0)) < 0.5
    noised = completion.masked_fill(masked, model.mask_id)
    found = model.hidden(torch.cat([prompt, noised], 1), completion_ids=completion)
    assert found.shape[1] == 17
    for start in (0, 4, 8):
        canvas = torch.cat([prompt, completion[:, :start], noised[:, start : start + 4]], dim=1)
        expected = model.hidden(canvas)[:, 5 + start :]
        torch.testing.assert_close(found[:, 5 + start : 9 + start], expected, rtol=1e-4, atol=1e-4)


def test_draws_of_a_block_model_estimate_the_sum_of_its_blocks_elbos():
    """Masks over the whole completion, restricted to a block, are that block's own masks: enumerated for L = 4, two
    blocks of 2. (A count uniform in 1..n and a set of that many: given one member, the others are masked with one
    shared uniform probability, and so they are within any block.)"""
    model = random_model(block=2)
    prompt, completion = random_ids(1, 3, seed=1), random_ids(1, 4, seed=2)

    def mean(sets: list[tuple[int, ...]], positions: list[int]) -> float:
        """E over (count uniform, set uniform given the count) of n / count * sum of log p at the masked positions."""
        n, total = len(positions), 0.0
        for chosen in sets:
            masked = torch.zeros(1, 4, dtype=torch.bool)
            masked[0, list(chosen)] = True
            with torch.no_grad():
                elbo = estimate_elbo(model, prompt, completion, masked, torch.tensor([n / len(chosen)]))
            total += elbo.item() / (n * comb(n, len(chosen)))
        return total

    def sets_of(positions: list[int]) -> list[tuple[int, ...]]:
        return [s for size in range(1, len(positions) + 1) for s in combinations(positions, size)]

    whole = mean(sets_of([0, 1, 2, 3]), [0, 1, 2, 3])
    blocks = sum(mean(sets_of(block), block) for block in ([0, 1], [2, 3]))
    assert whole == pytest.approx(blocks, abs=1e-4)
