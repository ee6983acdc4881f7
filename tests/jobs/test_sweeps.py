"""Sweeps: what the lines mean, how many runs come of them, and that nothing is queued when one cannot run."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs import sweeps
from bgpo.jobs.control import ControlError
from bgpo.jobs.sweeps import MOST_RUNS, SweepError, launch, plan
from storage.queue import queued_runs
from storage.runs import get_run, list_runs
from storage.sweeps import sweep_names

BASE = TrainConfig()


def test_a_grid_is_every_combination():
    planned = plan(BASE, "mc_samples = 1, 4, 16\n\n seed = 0..1 ")
    assert [(c.mc_samples, c.seed) for c in planned.configs] == [(1, 0), (1, 1), (4, 0), (4, 1), (16, 0), (16, 1)]
    assert planned.changes[2] == {"mc_samples": 4, "seed": 0}
    assert planned.configs[0] == BASE.with_values(mc_samples=1, seed=0)


def test_samples_are_drawn_from_lists_and_ranges_the_same_each_time():
    lines = "learning_rate = 1e-5..1e-3 log\nmc_samples = 2, 4\ngroup_size = 4..32\nweight_decay = 0..0.5"
    planned = plan(BASE, lines, samples=30)
    assert planned == plan(BASE, lines, samples=30) and len(planned.configs) == 30
    assert planned != plan(BASE.with_values(seed=1), lines, samples=30)
    rates = sorted(c.learning_rate for c in planned.configs)
    assert rates[0] >= 1e-5 and rates[-1] <= 1e-3
    assert sum(rate < 1e-4 for rate in rates) > 5  # evenly in the logarithm: half of them, by chance
    assert {c.mc_samples for c in planned.configs} == {2, 4}
    assert all(4 <= c.group_size <= 32 and 0 <= c.weight_decay <= 0.5 for c in planned.configs)


def test_no_combination_is_drawn_twice():
    planned = plan(BASE, "mc_samples = 2, 4\nseed = 0..1", samples=50)
    assert len(planned.configs) == len(set(planned.configs)) == 4


def test_knobs_that_only_together_fit_are_judged_together():
    base = BASE.with_values(completion_length=16, block_length=16)
    planned = plan(base, "block_length = 4, 16\ndrop_zero_advantage = true, false")
    assert len(planned.configs) == 4 and {c.drop_zero_advantage for c in planned.configs} == {True, False}


@pytest.mark.parametrize("lines, samples, sentence", [
    ("", 0, "names no knob"), ("frobnicate = 1", 0, "'frobnicate = 1' names no knob"), ("seed", 0, "names no knob"),
    ("seed =", 0, "seed has no value"), ("seed = 1\nseed = 2", 0, "seed is there twice"),
    ("seed = one", 0, "seed = one is not allowed; give a whole number"), ("seed = 4..1", 0, "is no range"),
    ("learning_rate = 0..1 log", 3, "above 0 with log"), ("learning_rate = 1e-5..1e-3", 0, "is a range"),
    ("seed = 0..999", 0, "at most 200"), ("seed = 0..99999", 0, "has 100000 values"),
    (f"seed = 1..1{'0' * 400} log", 0, "beyond what is allowed; give a whole number from 0"),
    (f"seed = 1..1{'0' * 400}", 0, "beyond what is allowed"), ("seed = 1..1000000000000 log", 3, "beyond what is"),
    ("learning_rate = 1e-5..1e999 log", 3, "beyond what"), ("learning_rate = 1e-5..nan", 3, "beyond what"),
    ("seed = 0..9", 201, "samples = 201"),
    ("block_length = 3, 4, 5", 0, r"and 1 more like it.. block_length 3: "),
    ("objective = bgpo, ppo", 0, "objective ppo"),
    ("masked_head = maybe", 0, "masked_head = maybe is not allowed"), ("x" * 5000, 0, "at most 4000"),
])
def test_a_sweep_that_cannot_run_queues_nothing(db, runs_folder, lines, samples, sentence):
    with pytest.raises(SweepError, match=sentence):
        launch(db, BASE, lines, samples, runs_folder)
    assert list_runs(db) == [] and sweep_names(db) == {}


@pytest.mark.parametrize("broken", ["submit", "transition"])
@pytest.mark.parametrize("error", [ControlError("The disk is full."), KeyboardInterrupt()])
def test_a_sweep_that_breaks_in_the_middle_leaves_no_run(db, runs_folder, monkeypatch, broken, error):
    """And no app has begun with any: all that it could have seen was paused, unless all of them were made."""
    act, seen = getattr(sweeps, broken), []

    def breaks(*given, **named):
        seen.append({run.status for run in list_runs(db)})
        if len(seen) == 3:
            raise error
        return act(*given, **named)

    monkeypatch.setattr(sweeps, broken, breaks)
    with pytest.raises(type(error)):
        launch(db, BASE, "seed = 0..3", 0, runs_folder)
    assert seen[:3] == ([set(), {"paused"}, {"paused"}] if broken == "submit" else
                        [{"paused"}, {"paused", "queued"}, {"paused", "queued"}])  # fmt: skip
    assert list_runs(db) == [] and list(runs_folder.iterdir()) == []


def test_a_sweep_that_is_planned_for_later_is_so(db, runs_folder, row):
    other = row()
    runs = launch(db, BASE, "seed = 0..1", 0, runs_folder, start_at=4e9, after_id=other.id)
    assert {(run.status, run.start_at, run.after_id) for run in runs} == {("queued", 4e9, other.id)}


def test_a_sweep_is_a_group_in_the_queue(db, runs_folder):
    runs = launch(db, BASE, "mc_samples = 1, 16\nlearning_rate = 1e-4", 0, runs_folder, name="draws", priority=-1)
    assert queued_runs(db) == [run.id for run in runs]
    assert [run.name for run in runs] == [
        "draws: mc_samples 1, learning_rate 0.0001", "draws: mc_samples 16, learning_rate 0.0001"]
    assert {get_run(db, run.id).sweep_id for run in runs} == set(sweep_names(db)) == {1}
    assert sweep_names(db) == {1: "draws"} and {run.priority for run in runs} == {-1}
    assert MOST_RUNS >= 100
