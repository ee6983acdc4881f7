"""What is kept of a run's checkpoints, what is freed, and what happens before a disk is full."""

from __future__ import annotations

import itertools
from collections import namedtuple
from pathlib import Path

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs import housekeeping, retention
from bgpo.jobs.ends import End
from bgpo.jobs.housekeeping import Housekeeping
from bgpo.jobs.retention import disk_use, free_all, free_checkpoints, watch_disk, with_disk_words
from storage.checkpoints import add_checkpoint, checkpoints_of, forget_checkpoint, pin_checkpoint
from storage.runs import get_run, request, run_events, transition
from storage.settings import pause_queue, queue_paused, queue_state
from tests.waiting import wait_until


@pytest.fixture
def saved(db, row):
    """A run of some config with a checkpoint every 5 steps; the reward at 20 is the best one."""
    def make(count: int = 10, status: str = "running", **values):
        run = row(status, TrainConfig(keep_last_checkpoints=3, **values).to_json())
        for number in range(count):
            folder = Path(run.folder, "checkpoints", f"step-{number * 5:06d}")
            folder.mkdir(parents=True)
            (folder / "model.safetensors").write_bytes(b"x" * 5000)
            add_checkpoint(db, run.id, number * 5, "evaluation", str(folder), 0.9 if number == 4 else number / 100)
        return run

    return make


def steps(db, run) -> list[int]:
    """Of the rows; the folders must be the same."""
    rows = checkpoints_of(db, run.id)
    folders = sorted(path.name for path in Path(run.folder, "checkpoints").iterdir())
    assert folders == [Path(item.folder).name for item in rows]
    return [item.step for item in rows]


def test_the_first_the_best_and_the_last_stay(db, saved):
    run = saved()
    assert free_checkpoints(db, run) == 5
    assert steps(db, run) == [0, 20, 35, 40, 45]
    assert free_checkpoints(db, run) == 0


def test_a_pinned_one_stays_until_it_is_let_go(db, saved):
    run = saved()
    pinned = checkpoints_of(db, run.id)[2]
    assert pin_checkpoint(db, run.id, pinned.id, True)
    assert not pin_checkpoint(db, run.id + 1, pinned.id, False)  # of another run
    assert not forget_checkpoint(db, pinned.id)
    free_all(db)
    assert steps(db, run) == [0, 10, 20, 35, 40, 45]
    pin_checkpoint(db, run.id, pinned.id, False)
    free_all(db)
    assert steps(db, run) == [0, 20, 35, 40, 45]


def test_what_another_run_starts_from_stays(db, saved, row):
    run = saved()
    needed = checkpoints_of(db, run.id)[3].folder
    other = row("queued", TrainConfig(start_from=needed).to_json())
    free_all(db)
    assert 15 in steps(db, run)
    transition(db, other.id, ("queued",), "stopped")
    free_all(db)
    assert 15 in steps(db, run)  # resumed, it begins there
    add_checkpoint(db, other.id, 0, "stop", str(Path(other.folder, "checkpoints", "step-000000")))
    free_all(db)
    assert 15 not in steps(db, run)


def test_a_row_never_makes_something_else_be_deleted(db, saved, tmp_path):
    run = saved(1)
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    odd = (elsewhere, Path(run.folder), Path(run.folder, "checkpoints", "..", ".."), "/")
    for step, folder in enumerate(odd, start=1):
        add_checkpoint(db, run.id, step, "evaluation", str(folder))
    for step in range(50, 80, 5):
        add_checkpoint(db, run.id, step, "evaluation", str(Path(run.folder, "checkpoints", f"step-{step:06d}")))
    free_checkpoints(db, run)
    assert elsewhere.is_dir() and Path(run.folder).is_dir()
    assert {item.step for item in checkpoints_of(db, run.id)} == {0, 1, 2, 3, 4, 65, 70, 75}


def test_a_deletion_that_was_cut_off_is_finished(db, saved):
    run = saved(3)
    half = Path(run.folder, "checkpoints", ".freed-step-000099")
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"x")
    free_all(db)
    assert not half.exists()


def test_a_config_of_another_version_keeps_everything(db, saved, row):
    run = row("stopped")  # its config does not read
    folder = Path(run.folder, "checkpoints", "step-000001")
    folder.mkdir(parents=True)
    add_checkpoint(db, run.id, 1, "stop", str(folder))
    free_all(db)
    assert folder.is_dir()


def test_disk_use_counts_what_the_folder_holds(saved):
    run = saved(4)
    assert disk_use(run) >= 4 * 5000


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("free, paused", [(5e9, False), (1.0e9, True), (0, True)])
def test_a_nearly_full_disk_pauses_runs_and_the_queue(db, saved, runs_folder, monkeypatch, free, paused):
    run = saved(2)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1e12, 1e12 - free, free))
    why = watch_disk(db, runs_folder)
    assert bool(why) == paused == queue_paused(db)
    assert get_run(db, run.id).requested == ("pause" if paused else None)
    if paused:
        assert "Free some space, then resume" in why and queue_state(db)["why"] == why
        assert run_events(db, run.id)[-1].who == "disk"
        watch_disk(db, runs_folder)
        assert len([event for event in run_events(db, run.id) if event.who == "disk"]) == 1


def test_a_run_that_the_disk_had_paused_says_so(db, saved, runs_folder, monkeypatch):
    run, other = saved(1), saved(1)
    end = End("paused", "Paused at step 3 of 60.")
    request(db, other.id, "pause", who="user")
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1e12, 1e12, 0))
    why = watch_disk(db, runs_folder)
    assert with_disk_words(db, run, end).reason == why
    assert with_disk_words(db, run, End("finished")) == End("finished")
    assert with_disk_words(db, other, end) == end  # a person had asked for that one
    pause_queue(db, False)
    assert queue_state(db) == {"paused": False, "why": "", "slots": 1}
    pause_queue(db, True)
    assert queue_state(db)["why"] == ""


def test_a_worker_keeps_house_for_its_own_run_alone(db, saved, monkeypatch):
    run, other = saved(), saved()
    monkeypatch.setattr(housekeeping, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1e12, 1e12, 0))
    said = []
    house = Housekeeping(db, run, said.append)
    wait_until(lambda: get_run(db, run.id).requested == "pause", "the disk to be looked at")
    house.close()
    assert steps(db, run) == [0, 20, 35, 40, 45] and len(steps(db, other)) == 10
    assert get_run(db, other.id).requested is None
    assert said == ["Freed 5 checkpoints; the first, the best, the last and those that are pinned are kept."]


def test_a_house_that_cannot_be_kept_is_said_once(db, saved, monkeypatch):
    def broken(*_):
        raise OSError("no such disk")

    run, said, looks = saved(1), [], itertools.count()
    monkeypatch.setattr(housekeeping, "LOOK_EVERY", 0.01)
    monkeypatch.setattr(housekeeping, "watch_disk", lambda *_: (next(looks), broken()))
    house = Housekeeping(db, run, said.append)
    wait_until(lambda: next(looks) > 3, "some looks")
    house.close()
    assert said == ["Checkpoints and disk could not be looked after (no such disk); it is tried again."]


def test_room_for_the_last_checkpoints_is_part_of_the_threshold(db, saved, runs_folder, monkeypatch):
    run = saved(2)
    Path(checkpoints_of(db, run.id)[-1].folder, "optimizer.safetensors").write_bytes(b"x" * 2_000_000)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1e12, 1e12, 1.003e9))
    assert watch_disk(db, runs_folder)
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1e12, 1e12, 1.005e9))
    transition(db, run.id, ("running",), "running")
    assert not watch_disk(db, runs_folder)


def test_a_disk_without_runs_on_it_is_not_watched(db, runs_folder, monkeypatch):
    monkeypatch.setattr(retention.shutil, "disk_usage", lambda path: Usage(1, 1, 0))
    assert watch_disk(db, runs_folder) == "" and not queue_paused(db)
