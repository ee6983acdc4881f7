"""The tiny model and its tokenizer."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

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
