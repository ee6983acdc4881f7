"""A damaged, foreign or missing database: the app says what to type, and the repair loses nothing that can be read."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

import app as studio
from bgpo.jobs import control, repair, runner
from bgpo.jobs.reporter import Spool
from bgpo.jobs.scheduler import Scheduler
from storage.checkpoints import add_checkpoint, checkpoints_of, pin_checkpoint
from storage.database import open_database, sqlite_module, sqlite_url
from storage.metrics import Point, flush, points_after, series
from storage.queue import queued_runs
from storage.rollouts import Rollout, groups_of, whole_rollouts
from storage.runs import get_run, list_runs, run_events, transition
from storage.salvage import is_sound
from tests.waiting import PATIENCE, wait_until

from .conftest import ROOT, bury, reaches

PAGE = 4096
STEPS = 3000


@pytest.fixture
def lived(db, data, submit) -> Path:
    """The file of a database in which two runs have ended and one waits; closed."""
    for seed in (0, 1):
        run = submit(seed=seed, train_steps=STEPS)
        folder = Path(run.folder)
        transition(db, run.id, ("queued",), "running", who="test", started_at=1000.0)
        flush(db, run.id, [Point("reward/mean", step, step / 10, seed + step / STEPS) for step in range(1, STEPS + 1)])
        flush(db, run.id, [], rollouts=[rollout(step) for step in range(1, 40)])
        for step in (0, 20, 40):
            save(db, run.id, folder, step)
        (folder / "config.json").write_text(run.config_json)
        (folder / runner.LOG).write_text(f"09:00:00 Run {run.id}, my {seed}. run\n09:00:01 Training: step 0 of 40\n")
        end = {"status": "stopped", "reason": "Stopped at step 40 of 3000; Resume goes on from there.", "kind": ""}
        runner.write_json(folder / runner.RESULT, end)
        transition(db, run.id, ("running",), "stopped", reason=end["reason"], who="worker")
    submit(seed=2, start_from="run:2@40")
    db.close()
    return data / "bgpo.db"


def rollout(step: int) -> Rollout:
    return Rollout(
        step=step, problem_index=0, completion_index=0, prompt="1+1", completion="2" * 900, expected="2", reward=1.0,
        advantage=0.0, tokens=2, reason="", parts={}, trace="[]",
    )


def save(db, run_id: int, folder: Path, step: int) -> None:
    path = folder / "checkpoints" / f"step-{step:06d}"
    path.mkdir(parents=True)
    runner.write_json(path / "training_state.json", {"phase": "training", "step": step, "seconds": 12.5})
    (path / "manifest.json").write_text("{}")
    saved = add_checkpoint(db, run_id, step, "evaluation", str(path), step / 100)
    pin_checkpoint(db, run_id, saved.id, step == 20)


def damage(path: Path, seed: int, pages: int = 3) -> None:
    """Overwrites some pages behind the first, as a failing disk does."""
    generator = random.Random(seed)
    count = path.stat().st_size // PAGE
    with open(path, "r+b") as file:
        for page in generator.sample(range(1, count), pages):
            file.seek(page * PAGE)
            file.write(generator.randbytes(PAGE))


def command(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "bgpo.jobs", "repair", "--database", sqlite_url(path), *words]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)


def everything(db) -> dict[str, object]:
    runs = list_runs(db)
    return {
        "runs": [(run.id, run.name, run.status, run.reason, run.folder, run.config_json) for run in runs],
        "points": {run.id: sorted(point[:4] for point in points_after(db, run.id, 0, 10**6)[0]) for run in runs},
        "rollouts": {run.id: whole_rollouts(db, run.id)[0] for run in runs},
        "checkpoints": {run.id: checkpoints_of(db, run.id) for run in runs},
        "events": {run.id: run_events(db, run.id) for run in runs},
    }


def test_the_app_says_what_to_type_and_the_command_brings_back_what_can_be_read(lived, data, capsys):
    with closing(open_database(sqlite_url(lived))) as db:
        before = everything(db)
    damage(lived, seed=2)
    damaged = lived.read_bytes()
    assert studio.main(["--data-dir", str(data), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "is damaged. Nothing was changed" in said and "python -m bgpo.jobs repair --database" in said
    assert lived.read_bytes() == damaged

    done = command(lived)
    assert done.returncode == 0, done.stderr
    assert "3 runs" in done.stdout and "The damaged file is kept as" in done.stdout
    kept = next(path for path in data.iterdir() if ".damaged-" in path.name and path.suffix != ".lock")
    assert kept.read_bytes() == damaged and is_sound(lived)
    with closing(open_database(sqlite_url(lived))) as db:
        after = everything(db)
        assert after["runs"] == before["runs"] and after["checkpoints"] == before["checkpoints"]
        points = [set(after["points"][id]) for id in (1, 2)]
        assert all(found <= set(before["points"][id]) for id, found in zip((1, 2), points))
        assert sum(map(len, points)) > STEPS  # three pages are a few hundred points
        assert series(db, 1, "reward/mean", buckets=10)[-1].count > 0
        assert queued_runs(db) == [3]
    assert [path.name for path in data.iterdir() if "repair" in path.name] == []


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 20))])
def test_whatever_page_is_hit_the_rest_is_read_and_nothing_is_made_up(lived, data, seed):
    with closing(open_database(sqlite_url(lived))) as db:
        before = everything(db)
    damage(lived, seed, pages=1 + seed % 4)
    repair.repair(lived, data / "runs")
    assert is_sound(lived)
    with closing(open_database(sqlite_url(lived))) as db:
        after = everything(db)
    assert {run[0] for run in after["runs"]} >= {1, 2}  # from their rows or from their folders
    for id in (1, 2):
        assert set(after["points"][id]) <= set(before["points"][id])
        assert [item for item in after["rollouts"][id] if item not in before["rollouts"][id]] == []
        assert {item.step for item in after["checkpoints"][id]} == {0, 20, 40}


def test_without_a_readable_file_runs_come_back_from_their_folders(lived, data, tiny):
    lived.write_bytes(b"not a database at all " * 1000)
    Spool(data / "runs" / "2").append([Point("reward/mean", 41, 5.0, 0.75)])
    report = repair.repair(lived, data / "runs")
    assert report.adopted == [1, 2] and "2 runs were registered" in repair.words(report, lived)
    with closing(open_database(sqlite_url(lived))) as db:
        first, second = get_run(db, 1), get_run(db, 2)
        assert (first.name, first.status, first.step, first.seconds) == ("my 0. run", "stopped", 40, 12.0)
        assert first.reason.startswith("Stopped at step 40 of 3000")
        assert [item.step for item in checkpoints_of(db, 1)] == [0, 20, 40]
        assert points_after(db, 2, 0)[0] == [Point("reward/mean", 41, 5.0, 0.75)]  # what waited in its spool
        tiny("")
        runner.write_json(Path(second.folder, "state.json"), {"step": STEPS - 3})
        control.resume(db, 2)
        with ticking(db):
            assert reaches(db, second, "finished").step == STEPS
        control.delete(db, 1)
    assert not Path(first.folder).exists()


@contextmanager
def ticking(db):
    scheduler = Scheduler(db)
    scheduler.start()
    yield
    scheduler.shutdown()
    wait_until(lambda: bury(scheduler), "the runners to be buried")


def test_a_missing_file_is_noticed_before_an_empty_one_hides_it(lived, data, capsys):
    for side in ("", "-wal", "-shm"):
        Path(f"{lived}{side}").unlink(missing_ok=True)
    assert studio.main(["--data-dir", str(data), "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert "is missing, but there are folders of 2 runs" in said and not lived.exists()
    done = command(lived, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["adopted"] == [1, 2]
    again = json.loads(command(lived, "--json").stdout)
    assert (again["sound"], again["adopted"]) == (True, [])


def test_a_copy_from_before_an_upgrade_is_taken_where_the_file_gives_nothing(lived, data):
    copy = lived.with_name("bgpo.db.schema-0007.20260101T000000Z.backup")
    shutil.copy(lived, copy)
    with closing(sqlite_module.connect(copy)) as earlier:  # as it was before verdicts were kept
        earlier.execute("ALTER TABLE rollout DROP COLUMN solved")
        earlier.execute("ALTER TABLE rollout_group DROP COLUMN solved")
    lived.write_bytes(b"garbage")
    report = repair.repair(lived, data / "runs")
    db = open_database(sqlite_url(lived))
    assert len(groups_of(db, 1, kind="right")) == 39 and not groups_of(db, 1, kind="wrong")
    db.close()
    assert report.backup == copy and report.rows["run"] == 3 and report.adopted == []


KILLED = """
import os, sys
from pathlib import Path
from bgpo.jobs import repair
left = int(sys.argv[2])
def dying(real):
    def act(*given, **named):
        global left
        left -= 1
        if left < 0:
            os._exit(9)
        return real(*given, **named)
    return act
repair.os.replace, repair.shutil.copy2 = dying(os.replace), dying(repair.shutil.copy2)
repair.salvage_runs, repair.salvage_rest = dying(repair.salvage_runs), dying(repair.salvage_rest)
path = Path(sys.argv[1])
repair.repair(path, path.parent / "runs")
"""


@pytest.mark.parametrize("acts", [1, 4, *(pytest.param(acts, marks=pytest.mark.slow) for acts in (0, 2, 3))])
def test_a_repair_that_is_killed_loses_nothing_and_a_second_one_ends_it(lived, data, acts):
    damage(lived, seed=2)
    damaged = lived.read_bytes()
    killed = subprocess.run([sys.executable, "-c", KILLED, str(lived), str(acts)], cwd=ROOT, check=False)
    assert killed.returncode == 9
    assert lived.read_bytes() == damaged  # until the last step, which is one rename
    repair.repair(lived, data / "runs")
    with closing(open_database(sqlite_url(lived))) as db:
        assert len(list_runs(db)) == 3 and len(points_after(db, 1, 0, 10**6)[0]) > STEPS / 2
    assert [path.name for path in data.iterdir() if ".repair" in path.name] == []


def test_nothing_is_repaired_under_a_process_that_uses_it(lived, data):
    damage(lived, seed=2)
    damaged = lived.read_bytes()
    with runner.acquire_lock(data / "runs" / "1"), pytest.raises(repair.RepairError, match="still works on the run"):
        repair.repair(lived, data / "runs")
    user = subprocess.Popen([sys.executable, "-c", f"f = open({str(lived)!r}); print(1, flush=True); input()"],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    user.stdout.readline()
    done = command(lived)
    assert done.returncode == 4 and f"Process {user.pid}" in done.stderr and "end it, then repair" in done.stderr
    user.communicate("\n", timeout=PATIENCE)
    assert lived.read_bytes() == damaged


def test_a_disk_without_room_for_the_copy_changes_nothing(lived, data, monkeypatch):
    damage(lived, seed=2)
    monkeypatch.setattr(repair.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(repair.RepairError, match="free some space, then repair"):
        repair.repair(lived, data / "runs")
    assert [path.name for path in data.iterdir() if "damaged" in path.name] == []


def test_a_number_that_is_taken_gives_the_folder_a_new_one(lived, data):
    """Two databases in turn on one folder: 1 and 1-2 are two runs."""
    other = data / "runs" / "1-2"
    shutil.copytree(data / "runs" / "1", other)
    shutil.move(data / "runs" / "1", data / "runs" / "1-3")
    with closing(open_database(sqlite_url(lived))) as db:
        control.delete(db, 3)
    report = repair.repair(lived, data / "runs")
    assert report.sound and len(report.adopted) == 2
    with closing(open_database(sqlite_url(lived))) as db:
        for id in report.adopted:
            run = get_run(db, id)
            assert Path(run.folder).name == str(id) and len(checkpoints_of(db, id)) == 3
            control.delete(db, id)


def test_a_config_of_another_version_is_named_and_left(lived, data, capsys):
    lived.unlink()
    (data / "runs" / "1" / "config.json").write_text('{"no_such_knob": 1}')
    said = []
    report = repair.repair(lived, data / "runs", said.append)
    assert report.adopted == [2] and "cannot be registered" in said[0]
    assert (data / "runs" / "1").is_dir()


def test_the_curves_of_a_run_whose_row_is_lost_are_read_again(lived, data):
    """Its row is registered from its folder, and what the file still holds of it belongs to it as before."""
    with closing(open_database(sqlite_url(lived))) as db:
        before = everything(db)
        text = get_run(db, 1).config_json.encode()[:200]
    content = bytearray(lived.read_bytes())
    page = content.index(text) // PAGE * PAGE
    content[page : page + PAGE] = random.Random(0).randbytes(PAGE)
    lived.write_bytes(content)
    report = repair.repair(lived, data / "runs")
    assert 1 in report.adopted
    with closing(open_database(sqlite_url(lived))) as db:
        after = everything(db)
    assert after["points"][1] == before["points"][1] and after["rollouts"][1] == before["rollouts"][1]
    assert after["checkpoints"][1] == before["checkpoints"][1]
