"""Real schedulers, runners and workers on a database of the test's own; nothing they start outlives a test."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bgpo.config import TrainConfig
from bgpo.jobs import control, launcher
from bgpo.jobs.scheduler import Scheduler
from bgpo.jobs.settling import live_runs
from storage.database import Database
from storage.runs import Run, create_run, get_run
from tests.databases import new_database
from tests.waiting import PATIENCE, wait_until

from .tiny_worker import FAULT

ROOT = Path(__file__).resolve().parents[2]
BAD_CONFIG = '{"mc_samples": 0}'  # a worker that reads it ends before it loads torch

# Enough supervised steps for some reward, so that the updates have something to do.
QUICK = TrainConfig(
    warmup_steps=100, warmup_examples=512, correct_fraction=1.0, train_steps=40, prompts_per_step=4, group_size=4,
    eval_problems=8, eval_every=20, mc_samples=2, bound_probe=4, threads=1, retries=0,
)  # fmt: skip


def reaches(db: Database, run: Run, *statuses: str, seconds: float = PATIENCE) -> Run:
    """The run once it has one of the statuses; fails at once if it ends in another one."""

    def look() -> Run | None:
        now = get_run(db, run.id)
        if now.status in ("finished", "stopped", "failed") and now.status not in statuses:
            log = Path(now.folder, "log.txt")
            pytest.fail(f"run {run.id} is {now.status}: {now.reason}\n{log.read_text() if log.exists() else ''}")
        return now if now.status in statuses else None

    return wait_until(look, f"run {run.id} to become {' or '.join(statuses)}", seconds)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Living processes that were started with `folder` somewhere in their command."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(folder) in word for word in words):
            found.append(process)
    return found


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """The data folder. Whatever still runs in it when the test is over is killed."""
    yield tmp_path
    for process in processes_of(tmp_path):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            process.wait(PATIENCE)


@pytest.fixture
def db(data: Path) -> Iterator[Database]:
    database = new_database(data / "bgpo.db")
    yield database
    database.close()


@pytest.fixture
def runs_folder(data: Path) -> Path:
    return data / "runs"


class CountingScheduler(Scheduler):
    """Counts the ticks that left a run alive: promptness in ticks is the same on a busy machine."""

    spared = 0

    def reap(self) -> None:
        super().reap()
        self.spared += bool(live_runs(self._db))


@pytest.fixture
def scheduler(db: Database) -> Iterator[CountingScheduler]:
    """A scheduler that ticks. Afterwards no runner of this process is left as a zombie."""
    scheduler = CountingScheduler(db)
    scheduler.start()
    yield scheduler
    scheduler.shutdown()
    wait_until(lambda: bury(scheduler), "the runners to be buried")


def bury(*schedulers: Scheduler) -> bool:
    """One reaping; whether no child of this test is left that only waits to be buried."""
    for scheduler in schedulers:
        scheduler.reap()
    return zombies() <= _OF_OTHERS


def zombies() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() == psutil.STATUS_ZOMBIE}


_OF_OTHERS: set[int] = set()


@pytest.fixture(autouse=True)
def others() -> None:
    """What tests of other folders have left to be buried, such as a browser's children, is none of these tests'."""
    _OF_OTHERS.clear()
    _OF_OTHERS.update(zombies())


@pytest.fixture
def submit(db: Database, runs_folder: Path) -> Callable[..., Run]:
    def submit(**values: object) -> Run:
        return control.submit(db, QUICK.with_values(**values), runs_folder)

    return submit


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """From here on `tiny_worker` works on runs; the statements given are what happens to the one with seed 0."""
    monkeypatch.setattr(
        launcher, "worker_command",
        lambda db, run_id: [sys.executable, "-m", "tests.jobs.tiny_worker", str(run_id), "--database", db.url],
    )
    return lambda fault: monkeypatch.setenv(FAULT, fault)


@pytest.fixture
def row(db: Database, runs_folder: Path) -> Callable[..., Run]:
    """A run's row without any process."""

    def row(status: str = "queued", config_json: str = BAD_CONFIG) -> Run:
        return create_run(
            db, name="test", config_json=config_json, train_steps=10, runs_folder=runs_folder, status=status
        )

    return row
