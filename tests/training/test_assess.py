"""Measuring a checkpoint: the estimators against enumeration, the job and the command on a real checkpoint."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.loading import load
from bgpo.models.tiny import build_tiny
from bgpo.tasks.base import split_of
from bgpo.training.assess import main, run
from bgpo.training.scores import interval, pass_at
from tests.models import published


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("assess") / "step-000000"
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 0, 0.0, 1), None)
    return folder


class Heard:
    """A listener that remembers."""

    def __init__(self, stop: bool = False):
        self.points, self.shown, self.stop = {}, {}, stop

    def phase(self, name, done, total):
        pass

    def metrics(self, step, values):
        self.points |= {(name, step): value for name, value in values.items()}

    def completions(self, step, shown):
        self.shown[step] = shown

    def should_stop(self):
        return self.stop


@pytest.mark.parametrize("samples, right, k", [(5, 2, 1), (5, 2, 3), (6, 0, 2), (4, 4, 4), (8, 1, 8), (7, 3, 5)])
def test_pass_at_k_is_the_share_of_draws_that_hold_a_right_one(samples, right, k):
    draws = list(itertools.combinations(range(samples), k))
    assert pass_at(k, right, samples) == pytest.approx(sum(any(i < right for i in draw) for draw in draws) / len(draws))


def test_intervals():
    """Wilson's for one completion a problem (8 of 10: 0.490 to 0.943), never outside 0 to 1, never of no width."""
    assert interval([1] * 8 + [0] * 2, 1) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    for right in ([0] * 20, [4] * 20, [1, 2, 3] * 5):
        low, high = interval(right, 4)
        assert 0 <= low <= sum(right) / len(right) / 4 <= high <= 1 and low < high


def test_the_job_keeps_every_completion_with_its_verdict(checkpoint, tmp_path):
    config = TrainConfig(
        job="evaluate", start_from=str(checkpoint), eval_lengths="8,16", eval_samples=3, eval_problems=10, threads=1,
        block_length=8, denoising_steps=4,
    )
    heard = Heard()
    assert run(config, tmp_path, heard, tmp_path).status == "finished"
    kept = [json.loads(line) for line in (tmp_path / "completions.jsonl").read_text().splitlines()]
    scores = json.loads((tmp_path / "evaluation.json").read_text())
    assert len(kept) == 2 * 10 * 3 and [score["length"] for score in scores] == [8, 16]
    assert all(split_of(one["prompt"]) == "held_out" and one["reason"] for one in kept)
    for score in scores:
        mine = [one["solved"] for one in kept if one["length"] == score["length"]]
        assert score["pass_1"] == sum(mine) / len(mine) == heard.points["eval/pass_1", score["length"]]
        assert score["low"] <= score["pass_1"] <= score["high"] and score["pass_1"] <= score["pass_k"]
        assert score["nfe"] <= score["length"] / 2  # two tokens a pass, fewer passes where an answer has ended
    assert len(heard.shown[8]) == 30 and len({one["completion"] for one in kept}) > 10
    again = tmp_path / "again"
    again.mkdir()
    run(config, again, Heard(), tmp_path)
    assert (again / "completions.jsonl").read_text() == (tmp_path / "completions.jsonl").read_text()
    assert run(config, again, Heard(stop=True), tmp_path).status == "stopped"


def words_for(checkpoint: Path) -> list[str]:
    return ["--checkpoint", str(checkpoint), "--task", "adder", "stack_programs", "--eval-problems", "8",
            "--split", "validation", "--json", "--completion-length", "8"]


def assert_scores(output: str) -> None:
    result = json.loads(output.splitlines()[-1])
    assert result["split"] == "validation" and [row["task"] for row in result["scores"]] == ["adder", "stack_programs"]
    assert all(row["problems"] == 8 and row["low"] < row["high"] for row in result["scores"])


def test_the_command_prints_a_table_and_json(checkpoint, capsys):
    assert main(words_for(checkpoint)) == 0
    assert_scores(capsys.readouterr().out)
    assert main([*words_for(checkpoint), "--eval-lengths", "7"]) == 2
    assert "evaluation: eval_lengths = 7 has to be" in capsys.readouterr().err


def test_the_command_reads_problems_of_ones_own_and_takes_its_length_from_what_is_asked(tmp_path, capsys):
    model = load(published.llada(tmp_path / "published", max_sequence_length=512), "llada")
    save_checkpoint(tmp_path / "saved", model, TrainingState("training", 0, 0.0, 1), None)
    rows = {"own_data": [{"prompt": f"{n} and {n}?", "answer": str(2 * n)} for n in range(200)],
            "gsm8k": [{"question": f"How many are {n} pens?", "answer": f"#### {n}"} for n in range(200)]}
    for task, own in rows.items():
        (tmp_path / f"{task}=1.jsonl").write_text("\n".join(map(json.dumps, own)))
    words = ["--checkpoint", str(tmp_path / "saved"), "--eval-problems", "8", "--eval-lengths", "8,16", "--json"]

    def measured(*more: str) -> list[tuple]:
        assert main([*words, *more]) == 0
        scores = json.loads(capsys.readouterr().out.splitlines()[-1])["scores"]
        return [(score["task"], score["length"], score["nfe"]) for score in scores]

    own = [("own_data", 8, 8), ("own_data", 16, 16)]
    assert measured("--task", "own_data", "--data", str(tmp_path / "own_data=1.jsonl")) == own
    named = [f"{task}={tmp_path / f'{task}=1.jsonl'}" for task in rows]
    assert measured("--task", "own_data", "gsm8k", "--data", *named) == [*own, ("gsm8k", 8, 8), ("gsm8k", 16, 16)]
    assert main([*words, "--task", "own_data", "--data", f"gsm8k={tmp_path / 'x'}"]) == 2
    assert "is for task gsm8k, which is not among own_data" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_is_a_program(checkpoint):
    command = [sys.executable, "-m", "bgpo.training.evaluation", *words_for(checkpoint)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert_scores(done.stdout)
