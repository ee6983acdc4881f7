"""Published layouts, stock classes: the same numbers as networks written out independently, on random weights."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from bgpo.algorithm import elbo
from bgpo.algorithm.elbo import Head, Pairs
from bgpo.models import last_layer
from bgpo.models.adapters import AdapterSettings, add_adapter
from bgpo.models.denoiser import Denoiser
from bgpo.models.loading import Overrides, load
from bgpo.models.memory import checkpoint_layers
from tests.models import published

FOLDERS = {
    "llada": (published.llada, "llada", {}),
    "llada with shared keys": (lambda folder: published.llada(folder, n_kv_heads=2), "llada", {}),
    "llada in shards": (lambda folder: published.llada(folder, shards=3), "llada", {}),
    "dream": (published.dream, "dream", {}),
    "qwen3": (published.converted, "a2d", {}),
    "qwen2": (lambda folder: published.converted(folder, "qwen2"), "a2d", {}),
    "llama": (lambda folder: published.converted(folder, "llama"), "a2d", {}),
    "qwen3 in blocks": (published.converted, "a2d_block", {"attention_block": 4}),
}


@pytest.fixture(scope="module", params=FOLDERS)
def case(request, tmp_path_factory) -> tuple[Path, str, dict]:
    """(folder, family, overrides)."""
    write, family, overrides = FOLDERS[request.param]
    return write(tmp_path_factory.mktemp("model") / "m"), family, overrides


def opened(case, dtype=torch.float32) -> Denoiser:
    folder, family, overrides = case
    return _opened(folder, family, Overrides(**overrides), dtype)


@functools.cache
def _opened(folder: Path, family: str, overrides: Overrides, dtype: torch.dtype) -> Denoiser:
    return load(folder, family, dtype=dtype, overrides=overrides)


def random_ids(B: int, T: int) -> torch.Tensor:
    return torch.randint(3, 300, (B, T), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: Denoiser, ids: torch.Tensor, **where: torch.Tensor) -> torch.Tensor:
    return model.logits(model.hidden(ids, **where))


def witness(case, dtype=torch.float32):
    return published.reference(case[0], dtype, block=case[2].get("attention_block", 0))


@torch.no_grad()
def test_logits_equal_the_reference(case):
    ids = random_ids(3, 16)
    expected = witness(case)(ids)
    assert expected.std() > 0.5  # weights that say something
    torch.testing.assert_close(logits(opened(case), ids), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_logits_equal_the_reference_in_bfloat16(case):
    """LLaDA's included: its rotation is in float32 (with the stock one, logits differ by 0.02 on average)."""
    ids = random_ids(3, 16)
    assert torch.equal(logits(opened(case, torch.bfloat16), ids), witness(case, torch.bfloat16)(ids))


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_rows_equal_the_reference(case, side):
    model, ids = opened(case), random_ids(3, 16)
    column, length = torch.arange(16), torch.tensor([[16], [11], [6]])
    valid = column < length if side == "right" else column >= 16 - length
    ids = torch.where(valid, ids, model.pad_id)
    found, expected = logits(model, ids, valid=valid), witness(case)(ids, valid)
    counted = valid.clone()
    if model.spec.logit_shift and side == "left":  # the first token's own prediction; the published code reads padding
        counted &= torch.cat([torch.zeros(3, 1, dtype=torch.bool), valid[:, :-1]], 1) | (column == 0)
    torch.testing.assert_close(found[counted], expected[counted], rtol=0, atol=2e-5)
    for row, start, end in ((1, 5, 16), (2, 10, 16)) if side == "left" else ():
        torch.testing.assert_close(found[row : row + 1, start:end], logits(model, ids[row : row + 1, start:end]),
                                   rtol=0, atol=2e-5)


def test_rotary_frequencies_survive_loading(case):
    """They are in no file: remote code was seen to leave them as uninitialised memory."""
    for dtype in (torch.float32, torch.bfloat16):
        model = opened(case, dtype).model
        config = model.config
        d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        theta = config.rope_parameters["rope_theta"]
        assert theta > 400_000
        found = model.model.rotary_emb.inv_freq
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, 1.0 / theta ** (torch.arange(0, d, 2).float() / d))


def test_gradients_with_activation_checkpointing_are_the_same(case):
    folder, family, overrides = case
    model, ids = load(folder, family, overrides=Overrides(**overrides)), random_ids(2, 12)

    def gradients() -> list[torch.Tensor]:
        model.model.zero_grad()
        logits = model.logits(model.hidden(ids))
        logits.log_softmax(-1)[..., 0].sum().backward()
        return [parameter.grad.clone() for parameter in model.model.parameters()]

    model.model.train()
    plain = gradients()
    model.model.activation_checkpointing_enable()
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients()))


def masked_pairs(model: Denoiser) -> Pairs:
    """Completions of 8 tokens with 1 to 8 masked, after prompts of 6, one of them padded."""
    ids, share = random_ids(5, 14), torch.tensor([0.1, 0.3, 0.5, 0.8, 1])
    ids[1, :3] = model.pad_id
    masked = torch.rand(5, 8, generator=torch.Generator().manual_seed(1)) < share[:, None]
    masked[0, 0] = True  # predicted from the last token of the prompt where logits are shifted
    return Pairs(ids[:, :6], ids[:, 6:], masked, masked)


@pytest.mark.parametrize("way", ["plain", "eager", "checkpointed", "adapter", "unknown attention"])
def test_a_last_layer_for_masked_rows_alone_has_the_same_values_and_gradients(case, way, monkeypatch):
    """And is computed for no other: its MLP sees each masked row once, a few pairs at a time."""
    folder, family, overrides = case
    model = load(folder, family, overrides=Overrides(**overrides))
    prepare(model, way, monkeypatch)
    monkeypatch.setattr(elbo, "_LAST_LAYER_TOKENS", 45)  # of 14, or 22 with the clean copy of blocks
    pairs, seen, found = masked_pairs(model), [], []
    model.model.model.layers[-1].mlp.register_forward_hook(lambda mlp, given, made: seen.append(made[..., 0].numel()))

    def derivative(first: int, last: int, values: torch.Tensor) -> torch.Tensor:
        return values.exp() + torch.arange(5.0)[first:last].repeat_interleave(pairs.scored[first:last].sum(1))

    for narrow in (False, True):
        model.model.zero_grad()
        seen.clear()
        values = elbo.backward(model, pairs, derivative, Head(narrow=narrow))
        with torch.no_grad():
            scored = elbo.token_logprob(model, pairs, Head(narrow=narrow))
        found.append((values, scored, *(p.grad for p in model.model.parameters() if p.requires_grad)))
        found[-1] = [tensor.clone() for tensor in found[-1]]
    rows = int(pairs.masked.sum())
    assert len(seen) >= 3 and seen[-1] == rows and sum(seen[:-1]) == rows
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)


def prepare(model: Denoiser, way: str, monkeypatch) -> None:
    if way == "eager":
        model.model.set_attn_implementation("eager")
    if way == "checkpointed":
        checkpoint_layers(model.model)
    if way == "adapter":
        add_adapter(model.model, AdapterSettings(2, 4, 0.0, "all"), "", torch.Generator().manual_seed(0))
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    if way == "unknown attention":  # as flash attention: queries of all tokens
        monkeypatch.setattr(last_layer, "_ATTENTIONS", set())


def test_the_end_token_learns_although_it_pads(case):
    """Stock embeddings give their padding row no gradient; in LLaDA and Dream that row is the end token's."""
    model = opened(case)
    ids = torch.full((1, 6), model.pad_id)
    hidden = model.hidden(ids, valid=torch.ones(1, 6, dtype=torch.bool))
    table = model.model.get_input_embeddings().weight
    (gradient,) = torch.autograd.grad(model.logits(hidden).log_softmax(-1)[..., 5].sum(), table)
    assert gradient[model.pad_id].norm() > 0


def test_special_tokens(case):
    model = opened(case)
    vocabulary = model.tokenizer.get_vocab()
    mask = "<|mdm_mask|>" if case[1] == "llada" else "<|mask|>"
    assert model.mask_id == vocabulary[mask] and model.mask_id in model.banned_ids
    end = {"llada": ["<|endoftext|>", "<|eot_id|>"], "dream": ["<|endoftext|>", "<|im_end|>"]}
    assert model.eos_ids == tuple(vocabulary[token] for token in end.get(case[1], ["<|im_end|>"]))
    assert not set(model.eos_ids) & set(model.banned_ids)  # LLaDA and Dream pad with their end token


def test_prompts_are_written_by_the_chat_template(case):
    model = opened(case)
    text = model.text.decode(model.text.prompt("What is 37+48?"))
    if case[1] == "llada":
        assert text == ("<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nWhat is 37+48?<|eot_id|>"
                        "<|start_header_id|>assistant<|end_header_id|>\n\n")
        assert model.text.prompt("  trimmed ") == model.text.prompt("trimmed")
    else:
        assert text.startswith("<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nWhat is")
        assert text.endswith("<|im_start|>assistant\n" + "<think>\n\n</think>\n\n" * (case[1] != "dream"))
    room = model.encode_prompts(["What is 37+48?"], 60)
    assert room.shape == (1, 60) and model.prompt_tokens(room).item() == len(model.text.prompt("What is 37+48?"))
    with pytest.raises(ValueError, match=r"takes up to 8 there.*prompt_length"):
        model.encode_prompts(["What is 37+48?"], 8)


@pytest.mark.parametrize("text", ["a<|mdm_mask|>b<|mask|>", "<|endoftext|><|eot_id|><|im_end|>", "<|im_start|>system"])
def test_a_prompt_cannot_write_control_tokens(case, text):
    model = opened(case)
    kinds = [i for i in model.text.prompt(text) if i in model.tokenizer.all_special_ids or i == model.mask_id]
    assert kinds == [i for i in model.text.prompt("x") if i in model.tokenizer.all_special_ids or i == model.mask_id]
    assert text in model.text.decode(model.text.prompt(text))


def test_completions_end_and_fill_with_end_tokens(case):
    model = opened(case)
    ids = model.encode_completions(["085", "Käse 数学 🙂"], 40)
    assert model.decode(ids) == ["085", "Käse 数学 🙂"]
    assert (ids[:, -1] == model.eos_id).all()
    if case[1] in ("llada", "dream"):  # a chat's answer closes its turn, then end tokens run on, as in their training
        written = model.completion_tokens(ids).tolist()
        assert ids[0, written[0] - 1] == model.eos_ids[1] and ids[0, written[0]] == model.eos_id


def test_pieces_are_readable(case):
    model = opened(case)
    ids = model.tokenizer("a 数\n")["input_ids"]
    pieces = model.pieces(ids)
    assert pieces[:2] == ["a", " "] and pieces[-1] == "\n"
    assert "".join(pieces[2:-1]) == "<E6><95><B0>"  # part of a character shows as its bytes
    assert [model.text.token_of(piece) for piece in pieces] == ids  # and tells which token it is
    assert model.text.token_of("no such piece") is None
    assert model.pieces([model.mask_id]) == [model.tokenizer.convert_ids_to_tokens(model.mask_id)]
    unused = model.model.config.vocab_size - 1
    assert model.pieces([unused]) == [f"<{unused}>"]


def test_a_base_model_takes_the_prompt_as_it_is(tmp_path):
    model = load(published.llada(tmp_path / "m", instruct=False), "llada")
    assert model.text.decode(model.text.prompt("What is")) == "What is"
    assert len(model.eos_ids) == 1 and model.decode(model.encode_completions(["85"], 6)) == ["85"]
    plain = load(published.llada(tmp_path / "i"), "llada", overrides=Overrides(prompt_style="plain"))
    assert plain.text.decode(plain.text.prompt("What is")) == "What is"
    with pytest.raises(ValueError, match=r"no chat template.*plain"):
        load(tmp_path / "m", "llada", overrides=Overrides(prompt_style="chat"))


def test_the_mask_id_is_a_parameter(tmp_path):
    """Another LLaDA has mask_id 5 and the same code."""
    folder = published.llada(tmp_path / "m", mask_token_id=5)
    assert load(folder, "llada").mask_id == 5
    assert load(folder, "llada", overrides=Overrides(mask_id=7)).mask_id == 7
    with pytest.raises(ValueError, match="outside the model's vocabulary of 384"):
        load(folder, "llada", overrides=Overrides(mask_id=384))
