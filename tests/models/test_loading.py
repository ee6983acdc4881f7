"""Folders: what is refused, each with a sentence that says what to do; and saving in the published layout."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from bgpo.models.folders import ModelError
from bgpo.models.loading import Overrides, load, save_published
from bgpo.models.registry import LLADA
from bgpo.models.tiny import build_tiny
from tests.models import published


def edit(path, change) -> None:
    """Applies `change` to the tensors or the JSON of a file."""
    if path.suffix == ".json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))
    else:
        tensors = load_file(path)
        save_file(change(tensors) or tensors, path)


def unlink(folder, name) -> None:
    (folder / name).unlink()


BAD = {
    "no folder": (lambda f: [path.unlink() for path in f.iterdir()] and f.rmdir(), "There is no folder"),
    "no config": (lambda f: unlink(f, "config.json"), "no config.json, so it is no model folder"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "config that is a list": (lambda f: (f / "config.json").write_text("[]"), "is no JSON object"),
    "no weights": (lambda f: [unlink(f, p.name) for p in f.glob("*.safetensors*")], "holds no weights"),
    "a pickle": (
        lambda f: [unlink(f, p.name) for p in f.glob("*.safetensors*")] + [(f / "pytorch_model.bin").write_bytes(b"x")],
        "pytorch_model.bin, a pickle",
    ),
    "a shard is absent": (lambda f: unlink(f, "model-00002-of-00003.safetensors"),
                          "half downloaded: .* names 3 files and model-00002-of-00003.safetensors is not there"),
    "a shard is cut short": (
        lambda f: (f / "model-00002-of-00003.safetensors").write_bytes(
            (f / "model-00002-of-00003.safetensors").read_bytes()[:-10]),
        r"cut short \([\d,]+ of [\d,]+ bytes\)",
    ),
    "a shard is no safetensors": (lambda f: (f / "model-00001-of-00003.safetensors").write_bytes(b"<html>" * 9),
                                  "no safetensors file"),
    "a shard is empty": (lambda f: (f / "model-00001-of-00003.safetensors").write_bytes(b""), "no safetensors file"),
    "the index is broken": (lambda f: (f / "model.safetensors.index.json").write_text("[]"), "cannot be read"),
    "the index points outside": (
        lambda f: edit(f / "model.safetensors.index.json", lambda c: c["weight_map"].update(x="../../x.safetensors")),
        "outside its folder",
    ),
    "a tensor is missing": (
        lambda f: edit(f / "model-00001-of-00003.safetensors", lambda t: t.pop(sorted(t)[0]) is None),
        "input_layernorm.weight is missing",
    ),
    "a tensor too many": (
        lambda f: edit(f / "model-00001-of-00003.safetensors", lambda t: t.update(extra=torch.ones(1))),
        "extra is not expected",
    ),
    "another shape": (lambda f: edit(f / "config.json", lambda c: c.update(mlp_hidden_size=64)), "does not fit|shape"),
    "another architecture": (lambda f: edit(f / "config.json", lambda c: c.update(model_type="llada2_moe")),
                             "llada2_moe, which no family here computes.*trust_remote_code stays off"),
    "no type": (lambda f: edit(f / "config.json", lambda c: c.pop("model_type") and None), "type unknown"),
    "a causal model": (lambda f: edit(f / "config.json", lambda c: c.update(model_type="llama")),
                       "reads from left to right"),
    "another family": (lambda f: edit(f / "config.json", lambda c: c.update(model_type="Dream")),
                       "not in the family llada; set model to dream"),
    "alibi": (lambda f: edit(f / "config.json", lambda c: c.update(alibi=True)), "alibi = True.*alibi = False only"),
    "a missing field": (lambda f: edit(f / "config.json", lambda c: c.pop("d_model") and None), "lacks d_model"),
    "a field of nonsense": (lambda f: edit(f / "config.json", lambda c: c.update(n_heads="many")),
                            "does not describe|does not fit"),
    "no tokenizer": (lambda f: unlink(f, "tokenizer.json"), "holds no tokenizer"),
    "a broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "holds no tokenizer"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_folder_gets_one_sentence(tmp_path, fault):
    folder = published.llada(tmp_path / "m", shards=3)
    spoil, words = BAD[fault]
    spoil(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load(folder, "llada")
    sentence = str(caught.value)
    assert sentence.endswith(".") and "\n" not in sentence and str(folder) in sentence


def test_another_models_tokenizer_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"a tokenizer of 346 tokens beside a model of 320; copy"):
        load(published.llada(tmp_path / "m", embedding_size=320), "llada")


def test_code_in_the_folder_never_runs(tmp_path):
    for write, family in ((published.llada, "llada"), (published.dream, "dream"), (published.converted, "a2d")):
        folder = write(tmp_path / family)
        assert list(folder.glob("*.py"))
        load(folder, family)
        assert not (folder / "EXECUTED").exists()


CASES = {
    "llada": (lambda f: published.llada(f, shards=2), "llada"), "dream": (published.dream, "dream"),
    "qwen3": (published.converted, "a2d"), "llama": (lambda f: published.converted(f, "llama"), "a2d"),
    "blocks": (published.converted, "a2d_block"),
}


@pytest.mark.parametrize("case", CASES)
def test_saving_keeps_the_published_layout(tmp_path, case):
    write, family = CASES[case]
    source = write(tmp_path / "source")
    model = load(source, family, overrides=Overrides(attention_block=8 if family == "a2d_block" else 0))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(0.01)
    (tmp_path / "saved").mkdir()
    save_published(model, tmp_path / "saved")
    before = {name: tensor for path in source.glob("*.safetensors") for name, tensor in load_file(path).items()}
    after = load_file(tmp_path / "saved" / "model.safetensors")
    assert set(after) == set(before)
    for name, tensor in after.items():
        torch.testing.assert_close(tensor, before[name] + 0.01)
    for name in ("config.json", "tokenizer_config.json", "generation_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (source / name).read_bytes()
    others = {p.name for p in source.iterdir() if p.suffix != ".safetensors" and "index" not in p.name}
    assert others < {p.name for p in (tmp_path / "saved").iterdir()}

    again = load(tmp_path / "saved")  # knows its family, mask and block by itself
    assert again.spec == model.spec
    ids = torch.randint(3, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again.logits(again.hidden(ids)), model.logits(model.hidden(ids)))
        reference = published.reference(tmp_path / "saved", block=model.attention_block)
        torch.testing.assert_close(reference(ids), model.logits(model.hidden(ids)), rtol=0, atol=1e-5)


def test_large_weights_are_saved_in_shards(tmp_path, monkeypatch):
    from bgpo.models import loading

    model = load(published.llada(tmp_path / "m"), "llada")
    monkeypatch.setattr(loading, "_SHARD", "40KB")
    (tmp_path / "saved").mkdir()
    save_published(model, tmp_path / "saved")
    assert len(list((tmp_path / "saved").glob("model-*.safetensors"))) > 1
    again = load(tmp_path / "saved")
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), again.model.parameters()))


def test_bfloat16_weights_stay_so(tmp_path):
    model = load(published.llada(tmp_path / "m"), "llada", dtype=torch.bfloat16)
    (tmp_path / "saved").mkdir()
    save_published(model, tmp_path / "saved")
    assert {t.dtype for t in load_file(tmp_path / "saved" / "model.safetensors").values()} == {torch.bfloat16}


def test_one_rule_per_name():
    """A pattern with alternatives was seen to leave a third of the tensors at their random values."""
    assert len(LLADA.key_names) == 12 and not any("|" in name for name in LLADA.key_names)
    assert len(set(LLADA.key_names.values())) == 12


def test_without_the_mapping_a_stock_class_finds_nothing(tmp_path):
    """Why missing and unexpected names are an error here: the stock reader only warns, and returns random weights."""
    folder = published.llada(tmp_path / "m")
    config = load(folder, "llada").model.config
    _, info = LlamaForCausalLM.from_pretrained(folder, config=config, output_loading_info=True)
    assert len(info["missing_keys"]) == len(info["unexpected_keys"]) == 21


def test_the_built_in_model_goes_through_the_same_path(tmp_path):
    model = build_tiny(torch.Generator().manual_seed(0))
    tmp_path.joinpath("saved").mkdir()
    save_published(model, tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.spec == model.spec
    assert all(torch.equal(a, b) for a, b in zip(model.model.parameters(), again.model.parameters()))


def test_code_and_pickles_in_a_folder_are_never_run(tmp_path):
    """A config that names classes of its own, their file, and weights that are a program when they are unpickled."""
    folder, ran = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    save_published(build_tiny(torch.Generator().manual_seed(0)), folder)
    edit(folder / "config.json", lambda c: c | {"auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}})
    edit(folder / "tokenizer_config.json", lambda c: c | {"auto_map": {"AutoTokenizer": ["modeling_evil.Evil", None]}})
    (folder / "modeling_evil.py").write_text(f"open({str(ran)!r}, 'w').close()\nclass Evil: pass\n")
    program = f"cos\nsystem\n(S'touch {ran}'\ntR.".encode()
    (folder / "pytorch_model.bin").write_bytes(program)
    assert load(folder).mask_id >= 0  # the safetensors beside them are read, by classes of the library
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelError):
        load(folder)
    assert not ran.exists()
