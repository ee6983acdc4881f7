"""What people can do with runs, without any process: intent in rows, and sentences where it cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from sqlalchemy import update

from bgpo.config import TrainConfig
from bgpo.jobs import control, runner
from bgpo.jobs.control import ControlError
from bgpo.tasks.registry import TASKS
from storage import tables
from storage.checkpoints import add_checkpoint
from storage.runs import RunNotFound, get_run, list_runs, run_events, transition


def test_submit_queues_a_run_with_its_config(db, runs_folder):
    config = TrainConfig(mc_samples=16, seed=3)
    run = control.submit(db, config, runs_folder)
    assert (run.status, run.name, run.train_steps) == ("queued", "adder bgpo K=16 seed 3", config.train_steps)
    assert TrainConfig.from_json(run.config_json) == config
    assert Path(run.folder).parent == runs_folder


def test_a_name_is_one_short_line(db, runs_folder):
    assert control.submit(db, TrainConfig(), runs_folder, name="two\n lines").name == "two lines"
    with pytest.raises(ControlError, match="has 81 characters; use at most 80"):
        control.submit(db, TrainConfig(), runs_folder, name="x" * 81)


@pytest.mark.parametrize("start_at", [-1.0, 8.6e11, math.nan, math.inf, pytest.param(10**400, id="huge")])
def test_a_start_that_no_clock_reaches_is_refused(db, runs_folder, start_at):
    with pytest.raises(ControlError, match="not within this century"):
        control.submit(db, TrainConfig(), runs_folder, start_at=start_at)
    assert list_runs(db) == []


@pytest.mark.parametrize("act", [control.stop, control.kill])
def test_a_queued_run_stops_at_once(db, row, act):
    run = act(db, row().id)
    assert (run.status, run.requested, run.reason) == ("stopped", None, "Stopped before it began.")


def test_a_working_run_is_asked_and_a_second_press_is_harmless(db, row):
    run = row("running")
    assert control.stop(db, run.id).requested == "stop"
    assert control.stop(db, run.id).requested == "stop"
    assert control.kill(db, run.id).requested == "kill"
    assert get_run(db, run.id).status == "running"


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_an_ended_run_cannot_be_stopped(db, row, status):
    with pytest.raises(ControlError, match=f"is not running; it is {status}"):
        control.stop(db, row(status).id)


@pytest.mark.parametrize("status", ["paused", "stopped", "failed"])
def test_resume_queues_again(db, row, status):
    run = row(status)
    assert control.resume(db, run.id).status == "queued"
    assert run_events(db, run.id)[-1].who == "user"


def test_pause_is_a_request_or_holds_back_what_is_queued(db, row):
    queued = control.pause(db, row().id)
    assert (queued.status, queued.reason) == ("paused", "Paused before it began.")
    assert control.pause(db, queued.id).status == "paused"
    working = row("running")
    assert control.pause(db, working.id).requested == "pause"
    assert control.stop(db, working.id).requested == "stop"  # the last word counts
    assert control.pause(db, working.id).requested == "pause"
    control.kill(db, working.id)
    assert control.pause(db, working.id).requested == "kill"  # but a kill is not taken back
    assert control.stop(db, queued.id).status == "stopped"
    with pytest.raises(ControlError, match="is not running; it is stopped"):
        control.pause(db, queued.id)


def out_of_memory(db, runs_folder, **values):
    run = control.submit(db, TrainConfig(**values), runs_folder)
    for status in ("launching", "running"):
        transition(db, run.id, ("queued", "launching"), status)
    transition(db, run.id, ("running",), "failed", failure_kind="oom_gpu")
    return run


def test_one_click_halves_the_pass_and_changes_nothing_else(db, runs_folder):
    run = out_of_memory(db, runs_folder, token_budget=4000)
    again = control.resume_smaller(db, run.id)
    assert (again.status, again.retries) == ("queued", 0)
    assert TrainConfig.from_json(again.config_json) == TrainConfig(token_budget=2000)


def test_the_budget_that_memory_has_left_counts(db, runs_folder):
    run = out_of_memory(db, runs_folder)
    for step, budget in ((5, 900), (10, 600)):
        folder = Path(run.folder, "checkpoints", f"step-{step}")
        folder.mkdir(parents=True)
        Path(folder, "training_state.json").write_text(
            json.dumps({"phase": "training", "step": step, "token_budget": budget}))
    assert TrainConfig.from_json(control.resume_smaller(db, run.id).config_json).token_budget == 300


def test_a_pass_of_one_completion_cannot_be_halved(db, runs_folder, row):
    run = out_of_memory(db, runs_folder, token_budget=TASKS["adder"].prompt_length + 8)
    with pytest.raises(ControlError, match="a single completion already; fork it"):
        control.resume_smaller(db, run.id)
    with pytest.raises(ControlError, match="did not fail for want of memory"):
        control.resume_smaller(db, row("failed").id)


@pytest.mark.parametrize("status", ["queued", "launching", "running", "finished"])
def test_only_what_was_interrupted_resumes(db, row, status):
    with pytest.raises(ControlError, match=f"is {status}"):
        control.resume(db, row(status).id)


def test_resume_is_never_refused_because_a_process_still_ends(db, row):
    run = row("stopped")
    with runner.acquire_lock(Path(run.folder)):
        assert control.resume(db, run.id).status == "queued"


@pytest.mark.parametrize("status", ["queued", "finished", "stopped", "failed"])
def test_delete_removes_rows_and_folder(db, row, status):
    run = row(status)
    Path(run.folder, "checkpoints").mkdir()
    Path(run.folder, "checkpoints", "weights").write_text("x")
    control.delete(db, run.id)
    with pytest.raises(RunNotFound):
        get_run(db, run.id)
    assert list(Path(run.folder).parent.iterdir()) == []


@pytest.mark.parametrize("status", ["launching", "running"])
def test_delete_is_refused_while_working(db, row, status):
    run = row(status)
    with pytest.raises(ControlError, match="stop it first"):
        control.delete(db, run.id)
    assert Path(run.folder).is_dir() and get_run(db, run.id).status == status


def test_delete_is_refused_while_a_process_holds_the_lock(db, row, monkeypatch):
    monkeypatch.setattr(control, "_LAST_WORDS_S", 0.2)
    run = row("stopped")
    with runner.acquire_lock(Path(run.folder)), pytest.raises(ControlError, match="still working"):
        control.delete(db, run.id)
    assert Path(run.folder).is_dir()


@pytest.fixture
def family(db, row):
    """A run with a checkpoint, and another that starts from it in some way."""

    def family(status: str, start: str):
        parent = row("finished")
        child = row(status, TrainConfig(start_from=start.format(id=parent.id, folder=parent.folder)).to_json())
        return parent, child

    return family


@pytest.mark.parametrize("status", ["queued", "launching", "running", "paused", "stopped", "failed"])
@pytest.mark.parametrize("start", ["{folder}/checkpoints/step-000005", "{folder}/x/../checkpoints/5/", "run:{id}@best",
                                   "run:{id}"])  # fmt: skip
def test_what_a_run_that_may_still_begin_starts_from_is_not_deleted(db, family, status, start):
    parent, child = family(status, start)
    with pytest.raises(ControlError, match=f"run {child.id}, which is {status}, starts from it; delete that one first"):
        control.delete(db, parent.id)
    assert get_run(db, parent.id).status == "finished" and Path(parent.folder).is_dir()


@pytest.mark.parametrize("status, has_begun, start", [
    ("finished", False, "run:{id}@best"), ("stopped", True, "run:{id}@best"),
    ("failed", True, "{folder}/checkpoints/5"), ("queued", False, "run:{id}0@best"),
    ("queued", False, "{folder}0/checkpoints/5"),
])
def test_what_nobody_needs_is_deleted(db, family, status, has_begun, start):
    parent, child = family(status, start)
    if has_begun:
        add_checkpoint(db, child.id, 5, "stop", str(Path(child.folder, "checkpoints", "step-000005")))
    control.delete(db, parent.id)
    assert [run.id for run in list_runs(db)] == [child.id]


def outside(kind: str, data: Path, run_id: int) -> Path:
    """A folder that is not the run's, with something in it that must stay."""
    target = data / "precious" / str(run_id)
    target.mkdir(parents=True)
    Path(target, "thesis.txt").write_text("ten years of work")
    if kind == "elsewhere":
        return target
    if kind == "parent":
        return data / "runs" / ".." / "precious" / str(run_id)
    if kind == "the runs folder":
        return data / "runs"
    if kind == "another run":
        return data / "runs" / str(run_id + 1)
    link = data / "elsewhere" / "runs" / str(run_id)
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    return link


@pytest.mark.parametrize("kind", ["elsewhere", "parent", "the runs folder", "another run", "link"])
def test_delete_never_leaves_the_runs_folder(db, data, row, kind):
    run, other = row("finished"), row("finished")
    folder = outside(kind, data, run.id)
    with db.write() as connection:
        connection.execute(update(tables.run).where(tables.run.c.id == run.id).values(folder=str(folder)))
    with pytest.raises(ControlError, match="nothing was deleted"):
        control.delete(db, run.id)
    assert (data / "precious" / str(run.id) / "thesis.txt").exists()
    assert Path(other.folder).is_dir()
    assert get_run(db, run.id).status == "finished"


def test_links_inside_a_run_are_not_followed(db, data, row):
    run = row("finished")
    (data / "keep").mkdir()
    (data / "keep" / "file").write_text("x")
    Path(run.folder, "link").symlink_to(data / "keep")
    control.delete(db, run.id)
    assert (data / "keep" / "file").exists()


def test_a_missing_run_gets_a_sentence(db):
    for act in (control.stop, control.kill, control.resume, control.delete):
        with pytest.raises(ControlError, match="Run 99 does not exist"):
            act(db, 99)


def test_deleting_a_run_whose_folder_is_gone(db, row):
    run = row("failed")
    Path(run.folder).rmdir()
    control.delete(db, run.id)
    with pytest.raises(RunNotFound):
        get_run(db, run.id)


def test_a_queued_run_that_is_claimed_in_the_middle_is_not_deleted(db, row):
    run = row()
    assert transition(db, run.id, ("queued",), "launching")
    with pytest.raises(ControlError):
        control.delete(db, run.id)
    assert get_run(db, run.id).status == "launching"
