"""The GPU benchmark's program, at a size that a CPU can do. Its figures are of no interest here."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import Bench, main, target_lines

SMALL = ["--small", "--device", "cpu", "--json"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_exits_with_2(capsys):
    assert main(["--json"]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().out


def test_every_part_reports_at_a_small_size(capsys, monkeypatch):
    # a CPU may be slower at products in bf16 than the model, which works in float32: its ceiling says nothing here
    monkeypatch.setattr(Bench, "_ceiling", lambda self: 1e10)
    assert main(SMALL) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    peak = report["memory"]["peak_gb"]
    assert report["memory"]["bgpo_64_over_1"] == pytest.approx(1, abs=0.25)
    assert peak["elbo"]["64"] > 20 * peak["elbo"]["1"]
    update = report["update"]
    assert update["tokens"] == 3 * 4 * 40 and update["seconds"] > 0
    assert update["share_of_ceiling"] == pytest.approx(update["tflops"] * 100, abs=0.006) and update["tflops"] > 0
    assert report["rollout"].keys() == {"none", "prefix", "dual"} and min(report["rollout"].values()) > 0
    assert report["step"]["paper_s"] >= report["step"]["whole_s"] >= report["step"]["update_s"] > 0


def test_a_part_that_fails_says_why_and_the_others_go_on(capsys, monkeypatch):
    def out_of_memory(self):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Bench, "update", out_of_memory)
    assert main([*SMALL, "--parts", "update", "step"]) == 1
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["update"] == {"error": "CUDA out of memory"} and report["step"]["optimizer_s"] > 0
    assert "memory" not in report


def test_targets_are_said_to_be_met_or_missed():
    report = {"memory": {"bgpo_64_over_1": 1.004}, "update": {"share_of_ceiling": 0.41}, "step": {"error": "no room"}}
    assert target_lines(report) == [
        "memory bgpo_64_over_1 = 1.004: meets the target, at most 1.01.",
        "update share_of_ceiling = 0.41: MISSES the target, at least 0.45.",
        "step: all parameters were NOT trained on this card.",
    ]
