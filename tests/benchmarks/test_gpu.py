"""The GPU benchmark's program, at a size that a CPU can do. Its figures are of no interest here."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.gpu import main

SMALL = [
    "--device", "cpu", "--layers", "2", "--width", "32", "--heads", "2", "--mlp", "48", "--vocabulary", "60",
    "--prompt", "4", "--completion", "8", "--denoising-steps", "4", "--block-length", "4", "--completions", "3",
    "--token-budget", "36", "--rollout-rows", "2", "--json",
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so_and_exits_with_2(capsys):
    assert main(["--json"]) == 2
    assert "needs an NVIDIA GPU" in capsys.readouterr().out


def test_every_part_reports_at_a_small_size(capsys):
    assert main(SMALL) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    peak = report["memory"]["peak_gb"]
    assert report["memory"]["bgpo_64_over_1"] == pytest.approx(1, abs=0.25)
    assert peak["elbo"]["64"] > 20 * peak["elbo"]["1"]
    assert 0 < report["update"]["share_of_ceiling"] < 1 and report["update"]["tokens"] == 3 * 4 * 12
    assert report["rollout"].keys() == {"none", "prefix", "dual"} and min(report["rollout"].values()) > 0
    assert report["step"]["whole_s"] >= report["step"]["update_s"] > 0
