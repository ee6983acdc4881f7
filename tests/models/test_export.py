"""Export: a checkpoint or a merged adapter in the published layout, as a folder, a zip, or on a hub."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import ClassVar

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from bgpo.models.adapters import AdapterSettings, add_adapter
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.export import main, push, write_folder
from bgpo.models.folders import ModelError
from bgpo.models.loading import load
from tests.models import published

IDS = torch.randint(3, 300, (2, 12), generator=torch.Generator().manual_seed(0))
STATE = TrainingState("training", 3, 1.0, 1)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(IDS))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    model = load(published.llada(tmp_path / "source"), "llada")
    optimizer = torch.optim.AdamW(model.model.parameters())
    save_checkpoint(tmp_path / "run" / "checkpoints" / "step-000003", model, STATE, optimizer)
    return tmp_path / "run" / "checkpoints" / "step-000003"


@pytest.fixture
def adapter(tmp_path) -> tuple[Path, torch.Tensor]:
    """A run's checkpoint that is an adapter, and its logits."""
    model = load(published.llada(tmp_path / "source"), "llada")
    save_checkpoint(tmp_path / "run" / "base", model, STATE, None)
    add_adapter(model.model, AdapterSettings(4, 8.0, 0.0, "all"), str(tmp_path / "run" / "base"), torch.Generator())
    with torch.no_grad():
        for name, parameter in model.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    folder = tmp_path / "run" / "checkpoints" / "step-000003"
    save_checkpoint(folder, model, STATE, None)
    return folder, logits(model)


def test_a_checkpoint_becomes_a_published_folder(tmp_path, checkpoint, capsys):
    assert main([str(checkpoint), "--to", str(tmp_path / "out" / "model")]) == 0
    out = tmp_path / "out" / "model"
    assert capsys.readouterr().out.strip() == str(out)
    names = {path.name for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "modeling_llada.py"} <= names
    assert not names & {"optimizer.safetensors", "training_state.json", "manifest.json"}
    assert load_file(out / "model.safetensors").keys() == load_file(tmp_path / "source" / "model.safetensors").keys()
    torch.testing.assert_close(logits(load(out)), logits(load(tmp_path / "source", "llada")))
    with torch.no_grad():  # another implementation reads it
        torch.testing.assert_close(published.reference(out)(IDS), logits(load(out)), rtol=0, atol=1e-5)


def test_a_zip_holds_the_same(tmp_path, checkpoint):
    assert main([str(checkpoint), "--to", str(tmp_path / "model.zip")]) == 0
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        archive.extractall(tmp_path / "unpacked")
    assert torch.equal(logits(load(tmp_path / "unpacked" / "model")), logits(load(tmp_path / "source", "llada")))
    assert {path.name for path in tmp_path.iterdir()} == {"source", "run", "model.zip", "unpacked"}


def test_a_merged_adapter_is_a_whole_published_model(tmp_path, adapter):
    folder, expected = adapter
    assert (logits(load(tmp_path / "source", "llada")) - expected).abs().max() > 0.1
    assert main([str(folder), "--merge", "--to", str(tmp_path / "merged")]) == 0
    torch.testing.assert_close(logits(load(tmp_path / "merged")), expected, rtol=0, atol=1e-4)
    assert not (tmp_path / "merged" / "adapter_config.json").exists()
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert tensors.keys() == load_file(tmp_path / "source" / "model.safetensors").keys()


def test_an_adapter_stays_one_without_merge(tmp_path, adapter):
    folder, _ = adapter
    assert main([str(folder), "--to", str(tmp_path / "out")]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names and "model.safetensors" not in names


def test_an_adapter_trained_under_published_names_is_merged(tmp_path):
    """By another tool, on the model's own code: `ff_out` there means the head as well as a matrix of each layer."""
    source = published.llada(tmp_path / "source")
    network = published.reference(source)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "attn_out", "ff_proj", "ff_out"], init_lora_weights=False)
    peft.inject_adapter_in_model(config, network, "default")
    tensors = peft.get_peft_model_state_dict(network, adapter_name="default", save_embedding_layers=False)
    (tmp_path / "adapter").mkdir()
    save_file({f"base_model.model.{name}": t.contiguous() for name, t in tensors.items()},
              tmp_path / "adapter" / "adapter_model.safetensors")
    config.save_pretrained(tmp_path / "adapter")
    write_folder(tmp_path / "adapter", tmp_path / "merged", merge=True, base=str(source))
    with torch.no_grad():
        torch.testing.assert_close(logits(load(tmp_path / "merged")), network(IDS), rtol=0, atol=1e-4)


class FakeApi:
    """Keeps what would have gone to the hub."""

    made: ClassVar[list[FakeApi]] = []

    def __init__(self, token: str):
        self.token, self.calls = token, []
        FakeApi.made.append(self)

    def create_repo(self, repo: str, **options: object) -> None:
        self.calls.append((repo, options))

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> str:
        self.files = {path.name: path.stat().st_size for path in Path(folder_path).iterdir()}
        self.config = json.loads((Path(folder_path) / "config.json").read_text())
        return f"https://hub.example/{repo_id}"


def test_push_takes_the_token_from_the_environment_and_keeps_it_nowhere(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    (tmp_path / "work").mkdir()
    assert push(checkpoint, "you/model", work=tmp_path / "work", api=FakeApi) == "https://hub.example/you/model"
    api = FakeApi.made[-1]
    assert api.token == "hf_write" and api.calls == [("you/model", {"private": True, "exist_ok": True})]
    assert api.config["model_type"] == "llada" and api.files["model.safetensors"] > 0
    assert not {"optimizer.safetensors", "training_state.json"} & api.files.keys()
    assert not list((tmp_path / "work").iterdir())
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"hf_write" in p.read_bytes()]


def test_push_says_what_is_wrong(tmp_path, checkpoint, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(ModelError, match="set the environment variable HF_TOKEN"):
        push(checkpoint, "you/model", api=FakeApi)
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    with pytest.raises(ModelError, match="no name of a repository"):
        push(checkpoint, "you/../model", api=FakeApi)

    class Refusing(FakeApi):
        def create_repo(self, repo: str, **options: object) -> None:
            raise OSError("403 Forbidden for hf_write")

    with pytest.raises(ModelError, match=r"did not take you/model \(403 Forbidden for \*\*\*\)"):
        push(checkpoint, "you/model", api=Refusing)


@pytest.mark.parametrize("wrong, words", [
    ("target is full", "is there already; give a folder"), ("no checkpoint", "There is no folder"),
    ("damaged", "is damaged"), ("no base", "names no base model; give it with --base"),
    ("adapter of another model", "does not fit its base model"),
])
def test_what_cannot_be_exported_says_why_and_leaves_nothing(tmp_path, checkpoint, adapter, capsys, wrong, words):
    folder, target = adapter[0], tmp_path / "out"
    if wrong == "target is full":
        target.mkdir()
        (target / "mine.txt").write_text("x")
    elif wrong == "no checkpoint":
        folder = tmp_path / "nothing"
    elif wrong == "damaged":
        (folder / "adapter_model.safetensors").write_bytes(b"x")
    else:
        foreign = tmp_path / "foreign"
        foreign.mkdir()
        config = json.loads((folder / "adapter_config.json").read_text())
        base = "" if wrong == "no base" else str(published.llada(tmp_path / "other", n_layers=1))
        (foreign / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": base}))
        (foreign / "adapter_model.safetensors").write_bytes((folder / "adapter_model.safetensors").read_bytes())
        folder = foreign
    before = {path.name for path in tmp_path.iterdir()}
    assert main([str(folder), "--merge", "--to", str(target)]) == 2
    assert words in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == before
