"""`start_from` as people write it: which checkpoint it names, whose child the run becomes, and what it waits for."""

from __future__ import annotations

import pytest

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import control
from bgpo.jobs.lineage import origin, reference
from bgpo.jobs.scheduler import Scheduler
from storage.checkpoints import add_checkpoint
from storage.queue import queued_runs
from storage.runs import get_run, transition


@pytest.fixture
def parent(db, row):
    run = row("finished")
    for step, reward in ((0, 0.1), (5, 0.9), (10, 0.4)):
        add_checkpoint(db, run.id, step, "evaluation", f"/runs/{run.id}/step-{step}", reward)
    return run


@pytest.mark.parametrize("which, step", [("@5", 5), ("@best", 5), ("@newest", 10), ("", 10)])
def test_a_checkpoint_is_named_by_run_and_step(db, parent, which, step):
    begin = origin(db, TrainConfig(start_from=f"run:{parent.id}{which}"))
    assert begin.config.start_from == f"/runs/{parent.id}/step-{step}"
    assert (begin.parent_id, begin.parent_step, begin.waits_for) == (parent.id, step, None)


@pytest.mark.parametrize("given, sentence", [
    ("run:99@5", "Run 99 does not exist"), ("run:1@7", "has no checkpoint at step 7; it has 0, 5, 10."),
    ("run:one", "write run:12@40, run:12@best or run:12"), ("run:1@-3", "cannot be read"),
])
def test_what_is_not_there_gets_a_sentence(db, parent, given, sentence):
    with pytest.raises(ConfigError, match=sentence) as refused:
        origin(db, TrainConfig(start_from=given))
    assert refused.value.problems.keys() == {"start_from"}


def test_a_folder_is_taken_as_it_is(db):
    assert origin(db, TrainConfig(start_from="/some/folder")).config.start_from == "/some/folder"
    assert origin(db, TrainConfig()).parent_id is None


def test_a_fork_keeps_its_lineage(db, parent, runs_folder):
    run = control.submit(db, TrainConfig(mc_samples=16, start_from=reference(parent.id, 5)), runs_folder)
    assert (run.parent_id, run.parent_step, run.after_id) == (parent.id, 5, None)
    assert TrainConfig.from_json(run.config_json).start_from.endswith("step-5")


def test_the_best_of_a_run_that_still_works_is_known_when_it_ends(db, row, runs_folder, monkeypatch):
    first = row("running")
    run = control.submit(db, TrainConfig(start_from=f"run:{first.id}@best"), runs_folder)
    assert (run.parent_id, run.parent_step, run.after_id) == (first.id, None, first.id)
    started = []
    monkeypatch.setattr("bgpo.jobs.scheduler.launch", lambda db, run, devices: started.append(run.id))
    scheduler = Scheduler(db)
    scheduler.dispatch()
    assert started == [] and queued_runs(db) == [run.id]
    add_checkpoint(db, first.id, 5, "evaluation", "/runs/step-5", 0.5)
    transition(db, first.id, ("running",), "finished")
    scheduler.dispatch()
    now = get_run(db, run.id)
    assert started == [run.id] and (now.parent_step, now.status) == (5, "launching")
    assert TrainConfig.from_json(now.config_json).start_from == "/runs/step-5"


def test_a_run_whose_parent_left_nothing_fails_with_the_reason(db, row, runs_folder):
    first = row("running")
    run = control.submit(db, TrainConfig(start_from=f"run:{first.id}"), runs_folder)
    transition(db, first.id, ("running",), "failed")
    Scheduler(db).dispatch()
    now = get_run(db, run.id)
    assert (now.status, now.failure_kind) == ("failed", "config_invalid")
    assert "has no checkpoint; choose another run" in now.reason
