"""Held-out problems during a run: right is not the same as rewarded, and every completion is kept with its verdict."""

from __future__ import annotations

import json

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.models.tiny import build_tiny
from bgpo.tasks.base import Reward
from bgpo.tasks.registry import TASKS
from bgpo.training.evaluation import evaluate, held_out_problems, measures_pass
from bgpo.training.metrics import METRICS, at_length, explained
from bgpo.training.trainer import run
from tests.training.test_trainer import Recorder

CONFIG = TrainConfig(eval_lengths="8,16", eval_samples=3, eval_problems=10, denoising_steps=4, threads=1)
SHORT = CONFIG.with_values(
    warmup_steps=0, train_steps=2, eval_every=1, prompts_per_step=2, group_size=2, mc_samples=1, eval_samples=1,
    token_budget=64, bound_probe=0,
)


def paid_for_its_form(problem, text) -> Reward:
    """d1 pays a wrong answer in the right form 2 points."""
    return Reward(2.0, "the form is right", {"correct": float("0" in text), "form": 1.0})


def test_a_rewarded_answer_is_right_only_if_its_task_says_so():
    task, model = TASKS["adder"], build_tiny(torch.Generator().manual_seed(0))
    found = evaluate(model, task, CONFIG, held_out_problems(task, CONFIG), paid_for_its_form)
    assert found.metrics["reward/heldout_greedy"] == found.metrics["reward/heldout_sampled"] == 2
    for length in (8, 16):
        mine = [one for one in found.judged if one.length == length and (length, one.sample) != (8, None)]
        sampled = mine[10:] if length == 8 else mine  # before them the greedy ones that the reward is of
        assert len(sampled) == 10 * 3
        share = sum("0" in one.completion for one in sampled) / 30
        assert found.metrics[at_length("eval/pass_1", length)] == pytest.approx(share) and share < 1
        low, high = (found.metrics[at_length(f"eval/pass_1_{end}", length)] for end in ("low", "high"))
        assert low <= share <= high and share <= found.metrics[at_length("eval/pass_k", length)]
        assert all(one.solved == ("0" in one.completion) and one.reward == 2 for one in mine)
    assert all(one.solved == ("0" in one.completion) and one.reward == 2 for one in found.shown)
    assert all(explained(name) for name in found.metrics)


def test_a_run_measures_at_every_evaluation_and_keeps_every_completion(tmp_path):
    recorder = Recorder()
    assert run(SHORT, tmp_path / "run", recorder, tmp_path).status == "finished"
    for step in (0, 1, 2):
        kept = [json.loads(line) for line in (tmp_path / f"run/evaluations/step-{step:06d}.jsonl").open()]
        assert [one["length"] for one in kept] == [8] * 10 + [16] * 10, "the greedy ones at 8 tokens are made once"
        for length in (8, 16):
            solved = [one["solved"] for one in kept if one["length"] == length]
            assert recorder.points[at_length("eval/pass_1", length), step] == sum(solved) / 10
            assert recorder.points[at_length("eval/nfe", length), step] <= length / 2
        assert all(one["reason"] and one["prompt"] and "trace" not in one for one in kept)
    assert not any(name.startswith("eval/pass_k") for name, _ in recorder.points)


def test_the_built_in_model_is_measured_when_asked_and_published_ones_always():
    assert not measures_pass(TrainConfig())
    assert measures_pass(TrainConfig(eval_lengths="8")) and measures_pass(TrainConfig(eval_samples=2))
    assert measures_pass(TrainConfig(model="llada", model_path="a/b", task="gsm8k", warmup_steps=0,
                                     completion_length=64, denoising_steps=64))


@pytest.mark.parametrize("name", ["eval/pass_1/", "eval/pass_1/0", "eval/pass_1/8x", "eval/other/8", "reward/mean/8",
                                  "eval/pass_1/123456", "eval/pass_1/8/8", "eval/pass_1/\u0663"])
def test_what_is_no_metric_at_a_length_has_no_explanation(name):
    assert explained(name) is None


def test_a_metric_at_a_length_says_so():
    assert explained("eval/pass_1/256").label == "pass@1, 256 tokens"
    assert explained("eval/pass_1/256").help == METRICS["eval/pass_1"].help
