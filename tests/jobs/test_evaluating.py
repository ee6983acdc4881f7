"""The job `evaluate` by its command: a checkpoint of a run is measured, and the row says what it came from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bgpo.jobs import commands, control, worker
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from storage.checkpoints import add_checkpoint
from storage.completions import completions_of
from storage.metrics import values_by_step
from storage.runs import Run, create_run, get_run, transition
from tests.waiting import PATIENCE

from .conftest import QUICK, ROOT


@pytest.fixture
def command(db, runs_folder) -> tuple[Run, list[str]]:
    """A run with a checkpoint, and the words after `python -m bgpo.jobs.worker` that measure it."""
    parent = create_run(db, name="measured", config_json=QUICK.to_json(), train_steps=40, runs_folder=runs_folder)
    folder = Path(parent.folder, "checkpoints", "step-000020")
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 20, 0.0, 1), None)
    add_checkpoint(db, parent.id, 20, "evaluation", str(folder))
    return parent, [
        "--job", "evaluate", "--start-from", f"run:{parent.id}@20", "--eval-problems", "8", "--eval-samples", "2",
        "--eval-lengths", "8,16", "--block-length", "8", "--denoising-steps", "4", "--threads", "1",
        "--database", db.url, "--json",
    ]


def assert_measured(db, parent: Run, output: str) -> None:
    run = get_run(db, json.loads(output.splitlines()[-1])["run_id"])
    assert (run.status, run.parent_id, run.parent_step) == ("finished", parent.id, 20)
    scores = dict(values_by_step(db, run.id, ("eval/pass_1", "eval/pass_1_low", "eval/pass_1_high")))
    assert list(scores) == [8, 16]
    assert all(0 <= s["eval/pass_1_low"] <= s["eval/pass_1"] <= s["eval/pass_1_high"] <= 1 for s in scores.values())
    assert {c.step for c in completions_of(db, run.id)} == {8, 16}
    assert len(Path(run.folder, "completions.jsonl").read_text().splitlines()) == 2 * 8 * 2


def test_a_checkpoint_of_a_run_is_evaluated_by_the_command(db, command, capsys):
    parent, words = command
    assert worker.main(words) == 0
    assert_measured(db, parent, capsys.readouterr().out)
    assert worker.main(["--job", "evaluate", "--start-from", f"run:{parent.id}@21", "--database", db.url]) == 2
    assert f"run {parent.id} has no checkpoint at step 21" in capsys.readouterr().err


def test_one_that_waited_for_its_run_is_measured_in_a_terminal_when_that_has_ended(db, runs_folder, capsys):
    def here(id: int) -> tuple[int, str]:
        return commands.main(["resume", str(id), "--here", "--database", db.url]), capsys.readouterr().err

    measured = QUICK.with_values(eval_samples=1, eval_lengths="8", block_length=8, denoising_steps=4)
    parent = control.submit(db, measured, runs_folder)
    run = control.evaluate(db, parent.id, runs_folder)
    code, said = here(run.id)
    assert code == 2 and f"run {parent.id} has not ended; start this one when it has" in said
    transition(db, parent.id, ("queued",), "stopped")
    code, said = here(run.id)
    assert code == 2 and f"run {parent.id} has no checkpoint" in said
    assert get_run(db, run.id).status == "queued"  # still, for when there is one
    folder = Path(parent.folder, "checkpoints", "step-000020")
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 20, 0.0, 1), None)
    add_checkpoint(db, parent.id, 20, "evaluation", str(folder), 0.5)
    code, said = here(run.id)
    assert code == 0, said
    done = get_run(db, run.id)
    assert (done.status, done.parent_id, done.parent_step) == ("finished", parent.id, 20)
    assert json.loads(done.config_json)["start_from"] == str(folder)


@pytest.mark.slow
def test_the_command_is_a_program(db, command):
    parent, words = command
    done = subprocess.run([sys.executable, "-m", "bgpo.jobs.worker", *words], cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    assert_measured(db, parent, done.stdout)
