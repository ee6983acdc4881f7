"""A copy of the metrics for other services, which may fail as they like. Their packages are stand-ins that keep notes.

They are real packages on the path, opened by the same imports as the published ones.
"""

from __future__ import annotations

import json
import sys
import threading
import types
from pathlib import Path

import pytest

from bgpo.config import MIRRORS, ConfigError, TrainConfig
from bgpo.jobs import mirror as module
from bgpo.jobs.mirror import Mirror, check_installed, mirror_of
from bgpo.jobs.narrator import Narrator
from bgpo.jobs.reporter import Reporter
from bgpo.jobs.worker import main
from storage.metrics import points_after
from storage.runs import get_run
from tests.waiting import PATIENCE, wait_until

NOTES = """
import json, pathlib
def note(*what):
    with open(pathlib.Path(__file__).with_suffix(".notes"), "a") as file:
        file.write(json.dumps(what) + "\\n")
"""
WANDB = NOTES + """
class Opened:
    def define_metric(self, name, step_metric): note("axis", name, step_metric)
    def log(self, values): note("log", {n: v for n, v in values.items() if n != "step"}, values["step"])
    def finish(self): note("finish")
def init(**given):
    note("init", given)
    return Opened()
"""
TRACKIO = NOTES + """
def init(project, name, resume, config): note("init", {"project": project, "name": name, "config": config})
def log(values, step): note("log", values, step)
def finish(): note("finish")
"""
NOBODY_LOGGED_IN = "def init(**given): raise SystemExit('api_key not configured')\n"


@pytest.fixture
def run(row):
    return row("running")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Installs a stand-in; returns where it keeps its notes."""

    def install(name: str, source: str) -> Path:
        folder = tmp_path / "site"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)
        return folder / f"{name}.notes"

    yield install
    for name in MIRRORS:
        sys.modules.pop(name, None)


def notes(path: Path) -> list:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name, source", [("wandb", WANDB), ("trackio", TRACKIO)])
def test_what_the_reporter_hears_is_mirrored(db, run, installed, name, source):
    path = installed(name, source)
    reporter = Reporter(db, run, Narrator(Path(run.folder, "log.txt")))
    config = TrainConfig(mirror=name, seed=7)
    reporter.mirror_to(mirror_of(config, run, pytest.fail))
    reporter.metrics(1, {"reward/mean": 0.5, "lr": float("nan")})
    reporter.metrics(2, {"reward/mean": 0.75})
    assert reporter.close()
    (first, given), *rest = notes(path)
    assert first == "init" and given["project"] == "bgpo-studio" and given["name"].startswith(run.name)
    assert given["config"]["seed"] == 7
    assert [line for line in rest if line[0] == "axis"] == ([["axis", "*", "step"]] if name == "wandb" else [])
    rest = [line for line in rest if line[0] != "axis"]
    assert rest == [["log", {"reward/mean": 0.5}, 1], ["log", {"reward/mean": 0.75}, 2], ["finish"]]
    assert len(points_after(db, run.id, 0)[0]) == 3


def test_a_resumed_run_goes_on_in_the_same_place_and_another_does_not(row, installed):
    path = installed("wandb", WANDB)
    one, other = row("running"), row("running")
    for run in (one, one, other):
        Mirror(TrainConfig(mirror="wandb"), run, pytest.fail).close(PATIENCE)
    ids = [given[0]["id"] for what, *given in notes(path) if what == "init"]
    assert ids[0] == ids[1] != ids[2]


def test_tensorboard_gets_its_scalars_in_the_folder_of_the_run(run, installed, monkeypatch):
    installed("tensorboard", "")
    seen = []

    class SummaryWriter:
        def __init__(self, log_dir):
            seen.append(log_dir)

        def add_scalar(self, *scalar):
            seen.append(scalar)

        def close(self):
            seen.append("closed")

    of_torch = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", of_torch)
    mirror = mirror_of(TrainConfig(mirror="tensorboard"), run, pytest.fail)
    mirror.log(3, {"lr": 0.1, "kl": 0.2})
    mirror.close(PATIENCE)
    assert seen == [str(Path(run.folder, "tensorboard")), ("lr", 0.1, 3), ("kl", 0.2, 3), "closed"]


def test_a_service_that_refuses_is_said_once_and_training_goes_on(run, installed):
    installed("wandb", NOBODY_LOGGED_IN)
    said = []
    mirror = Mirror(TrainConfig(mirror="wandb"), run, said.append)
    for step in range(3):
        mirror.log(step, {"lr": 0.1})
    mirror.close(PATIENCE)
    assert said == [
        "Metrics are not all mirrored to wandb (SystemExit: api_key not configured); the run goes on without.",
        "3 of 3 steps of metrics did not reach wandb.",
    ]


def test_a_service_that_hangs_takes_no_step_and_little_memory(run, monkeypatch):
    monkeypatch.setattr(module, "QUEUE_LIMIT", 10)
    begun, free = threading.Event(), threading.Event()

    def log(step, values):
        begun.set()
        free.wait(PATIENCE)

    monkeypatch.setitem(module._OPEN, "wandb", lambda config, run: module.Target(log, lambda: None))
    said = []
    mirror = Mirror(TrainConfig(mirror="wandb"), run, said.append)
    mirror.log(0, {})
    wait_until(begun.is_set, "the service to hang")
    for step in range(1, 31):
        mirror.log(step, {})  # would block here, did it wait for the service
    free.set()
    mirror.close(PATIENCE)
    assert said == [
        "Metrics are not all mirrored to wandb (it is too slow); the run goes on without.",
        "20 of 31 steps of metrics did not reach wandb.",
    ]


def test_a_package_that_is_missing_ends_the_run_before_it_begins(db, row, monkeypatch, capsys):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    check_installed(TrainConfig())
    with pytest.raises(ConfigError, match="pip install trackio"):
        check_installed(TrainConfig(mirror="trackio"))
    run = row("queued", TrainConfig(mirror="wandb").to_json())
    assert main([str(run.id), "--database", db.url]) == 1
    ended = get_run(db, run.id)
    assert (ended.status, ended.failure_kind, ended.step) == ("failed", "config_invalid", 0)
    assert ended.reason == (
        "The config cannot run: mirror = wandb needs a package that is not installed; pip install wandb, or set "
        "mirror to none."
    )
