"""Under an adapter a run does not copy published weights: it says where they are, and notices when they are others."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import PeftConfig
from safetensors.torch import load_file, save_file

from bgpo.config import TrainConfig
from bgpo.models import bases
from bgpo.models.bases import fingerprint
from bgpo.models.checkpoints import CheckpointError, TrainingState, load_model, load_state, save_checkpoint
from bgpo.models.export import main as export
from bgpo.models.hub import local_folder
from bgpo.models.loading import load
from bgpo.training import policy
from bgpo.training.trainer import run
from tests.models import published
from tests.models.fake_hub import fake_hub
from tests.training.test_trainer import Recorder

CONFIG = {
    "model": "llada", "adapter": "lora", "lora_rank": 2, "warmup_steps": 0, "prompts_per_step": 2, "group_size": 2,
    "completion_length": 8, "denoising_steps": 4, "train_steps": 2, "eval_every": 2, "eval_problems": 8,
    "mc_samples": 1, "bound_probe": 0, "learning_rate": 1e-2, "threads": 1, "token_budget": 512, "device": "cpu",
}
LAST = "checkpoints/step-000002"
IDS = torch.arange(3, 27).view(2, 12)


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model.hidden(IDS)).float()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A finished LoRA run on a published folder beside it."""
    home = tmp_path_factory.mktemp("bases")
    published.llada(home / "source", shards=2)
    config = TrainConfig.parse(CONFIG | {"model_path": str(home / "source"), "precision": "bf16"})
    assert run(config, home / "run", Recorder(), home).status == "finished"
    return home


@pytest.fixture
def home(trained, tmp_path) -> Path:
    """A copy of it that may be broken; its reference still names the first one's folder."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return tmp_path


def refer(home: Path, folder: Path) -> None:
    path = home / "run/base/reference.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"folder": str(folder), "model_path": str(folder)}))


def test_the_runs_folder_names_the_base_and_holds_no_weights_of_it(trained):
    assert [path.name for path in (trained / "run/base").iterdir()] == ["reference.json"]
    checkpoint = trained / "run" / LAST
    assert not (checkpoint / "model.safetensors").exists()
    model = load_model(checkpoint)
    assert next(model.model.parameters()).dtype == torch.bfloat16, "computed in what it was trained in"
    assert PeftConfig.from_pretrained(str(checkpoint)).base_model_name_or_path == str(trained / "source")
    start = load_model(trained / "run/checkpoints/step-000000")
    assert torch.equal(logits(start), logits(load(trained / "source", "llada", dtype=torch.bfloat16)))


def test_a_stopped_run_goes_on_over_its_base(trained, tmp_path):
    config = TrainConfig.parse(CONFIG | {"model_path": str(trained / "source"), "precision": "bf16"})
    run(config.with_values(train_steps=1), tmp_path / "run", Recorder(), tmp_path)
    assert run(config, tmp_path / "run", Recorder(), tmp_path).status == "finished"
    files = [home / "run" / LAST / "adapter_model.safetensors" for home in (tmp_path, trained)]
    left, right = map(load_file, files)
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("harm, words", [
    (lambda folder: shutil.rmtree(folder), r"is not at .* any more; put it back there, or choose another checkpoint"),
    (lambda folder: (folder / "config.json").unlink(), "has changed since the adapter was trained"),
    (lambda folder: next(folder.glob("*.safetensors")).unlink(), "is not whole at .*half downloaded"),
    (lambda folder: published.llada(folder, shards=2, seed=1), "has changed since the adapter was trained"),
])
def test_a_base_that_is_gone_or_another_is_a_sentence(home, trained, harm, words, capsys):
    shutil.copytree(trained / "source", home / "other")
    refer(home, home / "other")
    assert torch.equal(logits(load_model(home / "run" / LAST)), logits(load_model(trained / "run" / LAST)))
    harm(home / "other")
    with pytest.raises(CheckpointError, match=words):
        load_model(home / "run" / LAST)
    assert export([str(home / "run" / LAST), "--merge", "--to", str(home / "merged")]) == 2
    assert "The model under this adapter" in capsys.readouterr().err and not (home / "merged").exists()


def test_a_reference_that_cannot_be_read_is_a_sentence(home):
    for text in ("{", "[]", "{}"):
        (home / "run/base/reference.json").write_text(text)
        with pytest.raises(CheckpointError, match="does not say which model this adapter belongs to"):
            load_model(home / "run" / LAST)


def test_one_weight_trained_further_is_another_base(trained, tmp_path):
    shutil.copytree(trained / "source", tmp_path / "source")
    file = sorted((tmp_path / "source").glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = max(tensors, key=lambda key: tensors[key].numel())
    tensors[name].view(-1)[-1] += 0.5
    save_file(tensors, file, metadata={"format": "pt"})
    before, after = fingerprint(trained / "source"), fingerprint(tmp_path / "source")
    assert [key for key in before if before[key] != after[key]] == [file.name]


def test_merged_over_its_base_it_is_a_whole_model(trained, tmp_path):
    expected = logits(load_model(trained / "run" / LAST))
    assert export([str(trained / "run" / LAST), "--merge", "--to", str(tmp_path / "merged")]) == 0
    merged = logits(load(tmp_path / "merged"))
    assert (merged - expected).abs().mean() < 0.02, "more than the rounding of bfloat16"


def test_a_base_from_the_hub_is_named_by_its_revision_and_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with fake_hub() as hub:
        from_hub = functools.partial(local_folder, endpoint=hub.url)
        monkeypatch.setattr(policy, "local_folder", from_hub)
        monkeypatch.setattr(bases, "local_folder", from_hub)
        hub.models["owner/tiny"] = published.llada(tmp_path / "published")
        config = TrainConfig.parse(CONFIG | {"model_path": "owner/tiny", "train_steps": 1, "eval_every": 1})
        run(config, tmp_path / "run", Recorder(), tmp_path)
        reference = json.loads((tmp_path / "run/base/reference.json").read_text())
        assert reference["model_path"] == f"owner/tiny@{Path(reference['folder']).name}"
        folder = tmp_path / "run/checkpoints/step-000001"
        assert PeftConfig.from_pretrained(str(folder)).base_model_name_or_path == "owner/tiny"
        expected = logits(load_model(folder))
        shutil.rmtree(tmp_path / "cache")
        assert torch.equal(logits(load_model(folder)), expected)
        shutil.rmtree(tmp_path / "cache")
        hub.models.clear()
        with pytest.raises(CheckpointError, match=r"owner/tiny.* is not at .* any more"):
            load_model(folder)


@pytest.fixture
def warmed_up(tmp_path) -> Path:
    """Another run's checkpoint of whole weights, with what its optimiser had."""
    model = load(published.llada(tmp_path / "published"), "llada")
    model.model.lm_head.weight.data += 0.125
    optimizer = torch.optim.AdamW(model.model.parameters())
    model.logits(model.hidden(IDS)).sum().backward()
    optimizer.step()
    folder = tmp_path / "other/checkpoints/step-000004"
    save_checkpoint(folder, model, TrainingState("training", 4, 1.0, 1), optimizer)
    return folder


def start_from(folder: Path, **values) -> TrainConfig:
    return TrainConfig.parse(CONFIG | {"start_from": str(folder), "train_steps": 1, "eval_every": 1} | values)


@pytest.mark.parametrize("linked", [True, False])
def test_weights_of_another_run_are_on_the_disk_once_and_outlive_it(tmp_path, warmed_up, monkeypatch, linked):
    if not linked:  # another file system

        def refuse(*_):
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
    config = start_from(warmed_up)
    expected = logits(load_model(warmed_up))
    run(config, tmp_path / "run", Recorder(), tmp_path)
    base, (began, ended) = tmp_path / "run/base", sorted((tmp_path / "run/checkpoints").iterdir())
    assert (base / "model.safetensors").samefile(warmed_up / "model.safetensors") == linked
    assert not (base / "config.json").samefile(warmed_up / "config.json"), "a person may change it in one place"
    assert not (base / "optimizer.safetensors").exists() and load_state(base).phase == "base"
    shutil.rmtree(warmed_up.parents[1])
    assert torch.equal(logits(load_model(began)), expected)
    load_model(ended)
    assert run(config.with_values(train_steps=2), tmp_path / "run", Recorder(), tmp_path).step == 2


def test_weights_that_are_rounded_are_not_those_of_the_other_run(tmp_path, warmed_up):
    run(start_from(warmed_up, precision="bf16"), tmp_path / "run", Recorder(), tmp_path)
    weights = load_file(tmp_path / "run/base/model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in load_file(warmed_up / "model.safetensors").values()} == {torch.float32}
