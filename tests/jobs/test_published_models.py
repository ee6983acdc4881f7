"""RL on published layouts, end to end: a worker process, its checkpoints, and chat with them, on tiny weights."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import worker
from bgpo.jobs.chat import Chat, ChatError
from bgpo.models.checkpoints import TrainingState, load_model, save_checkpoint
from bgpo.models.hub import local_folder
from bgpo.models.loading import Overrides, load
from bgpo.training import policy
from storage.checkpoints import checkpoints_of
from storage.database import open_database
from tests.models import published
from tests.models.fake_hub import fake_hub

SMALL = {
    "prompts_per_step": 2, "group_size": 4, "completion_length": 8, "denoising_steps": 4, "block_length": 8,
    "train_steps": 2, "eval_every": 1, "eval_problems": 8, "warmup_steps": 0, "mc_samples": 2, "bound_probe": 8,
    "learning_rate": 1e-3, "threads": 1, "token_budget": 512, "device": "cpu",
}


def arguments(tmp_path, knobs) -> list[str]:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in (SMALL | knobs).items()]
    return ["--preset", "adder", "--json", "--database", f"sqlite:///{tmp_path / 'runs.db'}",
            "--data-dir", str(tmp_path / "data"), *flags]


@pytest.fixture
def train(tmp_path, capfd):
    """Runs the worker's command here: (exit code, what --json prints, what it said)."""

    def run(**knobs) -> tuple[int, dict, str]:
        code = worker.main(arguments(tmp_path, knobs))
        out, said = capfd.readouterr()
        return code, json.loads(out.splitlines()[-1]), said

    return run


CASES = {
    "llada": (published.llada, {"model": "llada"}),
    "dream after a warm start": (published.dream, {"model": "dream", "warmup_steps": 2, "warmup_examples": 32}),
    "blocks": (published.converted, {"model": "a2d_block", "attention_block": 4, "block_length": 4}),
}


@pytest.mark.slow  # the next test does the same in this process
def test_a_worker_process_trains_a_published_model(tmp_path):
    folder = published.llada(tmp_path / "published")
    done = subprocess.run(
        [sys.executable, "-m", "bgpo.jobs.worker", *arguments(tmp_path, {"model": "llada", "model_path": str(folder)})],
        capture_output=True, text=True, timeout=300,
    )
    assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1])["status"] == "finished", done.stderr


@pytest.mark.parametrize("case", CASES)
def test_a_published_model_is_trained_and_chat_reads_it(tmp_path, train, case):
    write, knobs = CASES[case]
    folder = write(tmp_path / "published")
    code, summary, said = train(model_path=str(folder), **knobs)
    assert (code, summary["status"]) == (0, "finished"), said
    with contextlib.closing(open_database(f"sqlite:///{tmp_path / 'runs.db'}")) as db:
        rows = checkpoints_of(db, summary["run_id"])
    assert [row.step for row in rows] == [0, 1, 2]
    last = rows[-1].folder
    before = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
    after = load_file(f"{last}/model.safetensors")
    assert after.keys() == before.keys()
    assert (folder / "config.json").read_bytes() == (Path(last) / "config.json").read_bytes()
    if "warmup_steps" in knobs:  # random weights rarely earn a reward; supervised steps always move them
        assert any(not torch.equal(after[name], before[name]) for name in before)

    events = list(Chat().answer(last, "adder", "37+48", {
        "completion_length": 8, "denoising_steps": 4, "block_length": 4, "temperature": 1, "remasking": "max_prob",
        "seed": 0,
    }))
    assert events[0]["kind"] == "start" and "".join(events[0]["prompt_tokens"]).count("37+48") == 1
    assert events[-1]["kind"] == "end" and events[-1]["verdict"]["reward"] in (0.0, 1.0)
    assert sum(len(event["commits"]) for event in events if event["kind"] == "step") == 8


def test_a_run_downloads_its_model_and_says_so(tmp_path, train, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with fake_hub() as hub:
        monkeypatch.setattr(policy, "local_folder", functools.partial(local_folder, endpoint=hub.url))
        hub.models["owner/tiny"] = published.llada(tmp_path / "published")
        code, summary, said = train(model="llada", model_path="owner/tiny", train_steps=1)
        assert code == 0 and "Downloading (MB)" in said, said
        code, summary, said = train(model="llada", model_path="owner/none", train_steps=1)
    assert code == 1 and summary["reason"].startswith("The hub has no model owner/none")


def test_a_wrong_folder_fails_the_run_with_its_sentence(tmp_path, train):
    code, summary, _ = train(model="llada", model_path=str(published.dream(tmp_path / "published")))
    assert code == 1 and "not in the family llada; set model to dream." in summary["reason"]
    code, summary, _ = train(model="llada", model_path=str(published.llada(tmp_path / "s", max_sequence_length=16)))
    assert code == 1 and "more than the 16 that" in summary["reason"]


def test_chat_refuses_blocks_that_the_model_cannot_read(tmp_path, train):
    code, summary, said = train(
        model="a2d_block", attention_block=4, block_length=4, train_steps=1,
        model_path=str(published.converted(tmp_path / "published")),
    )
    assert code == 0, said
    folder = Path(summary["folder"]) / "checkpoints" / "step-000001"
    assert load_model(folder).attention_block == 4
    with pytest.raises(ChatError, match="blocks of 4 tokens"):
        list(Chat().answer(str(folder), "adder", "37+48", {
            "completion_length": 8, "denoising_steps": 8, "block_length": 8, "temperature": 0,
            "remasking": "max_prob", "seed": 0,
        }))


def test_what_a_model_was_saved_with_counts_and_not_the_familys_usual_block(tmp_path):
    model = load(published.converted(tmp_path / "m"), "a2d_block", overrides=Overrides(attention_block=4))
    save_checkpoint(tmp_path / "saved", model, TrainingState("training", 0, 0.0, 1), None)
    knobs = {"model": "a2d_block", "start_from": str(tmp_path / "saved"), "warmup_steps": 0}
    long = {"completion_length": 32, "denoising_steps": 32}
    for values, words in (
        (long | {"block_length": 32}, "block_length = 32 does not divide the model's blocks of 4"),
        ({"attention_block": 8}, "trained with blocks of 4 tokens; set attention_block to 0 or 4"),
        (long | {"attention_block": 32, "block_length": 32, "cache": "block_causal"}, "trained with blocks of 4"),
    ):
        config = TrainConfig.parse(knobs | values)
        with pytest.raises(ValueError, match=words):
            policy.fresh_policy(config, torch.device("cpu"))
        with pytest.raises(ValueError, match="blocks of 4"):
            moved = {"model_path": str(tmp_path / "saved"), "start_from": ""}
            policy.fresh_policy(config.with_values(**moved), torch.device("cpu"))
    fitting = TrainConfig.parse(knobs | {"attention_block": 4, "block_length": 4, "cache": "block_causal"})
    assert policy.fresh_policy(fitting, torch.device("cpu")).attention_block == 4


@pytest.mark.parametrize("knobs, at, words", [
    ({"model": "llada"}, "model_path", "no weights to read; give a hub id or a folder"),
    ({"model_path": "owner/name"}, "model_path", "means nothing to model = tiny"),
    ({"mask_id": 5}, "mask_id", "means nothing to model = tiny"),
    ({"model": "llada", "model_path": "a/b", "start_from": "x"}, "start_from", "clear one of them"),
    ({"model": "dream", "model_path": "a/b", "completion_length": 2048, "block_length": 2048, "denoising_steps": 8},
     "completion_length", "more than the 2048 that model = dream"),
    ({"model": "llada", "model_path": "a/b", "attention_block": 4}, "attention_block", "set it to 0"),
    ({"model": "a2d_block", "model_path": "a/b", "completion_length": 48, "block_length": 16, "denoising_steps": 48},
     "completion_length", "no whole number of the model's blocks of 32"),
    ({"model": "a2d_block", "model_path": "a/b", "completion_length": 64, "block_length": 64, "denoising_steps": 64},
     "block_length", "does not divide the model's blocks of 32"),
    ({"model": "a2d_block", "model_path": "a/b", "attention_block": 4, "block_length": 8}, "block_length",
     "blocks of 4"),
    ({"model": "a2d_block", "model_path": "a/b", "attention_block": 8, "block_length": 4, "cache": "block_causal"},
     "cache", "keeps finished blocks of 8 tokens, and block_length = 4 would keep unfinished ones"),
    ({"model": "a2d_block", "model_path": "a/b", "attention_block": 8, "block_length": 4, "eval_lengths": "8,12"},
     "eval_lengths", "8,12 holds no whole number of the model's blocks of 8"),
    ({"model": "dream", "model_path": "a/b", "eval_lengths": "8,2048"}, "eval_lengths", "8,2048 after prompts of"),
])
def test_contradictions_between_model_knobs(knobs, at, words):
    with pytest.raises(ConfigError) as caught:
        TrainConfig.parse(knobs)
    assert words in caught.value.problems[at]
