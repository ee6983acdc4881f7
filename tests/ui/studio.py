"""The app as a process of its own, for tests that meet it as a person does."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bgpo.jobs import settling
from storage.database import open_database, sqlite_url
from tests.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class App:
    """A running app process."""

    url: str
    data_dir: Path
    process: subprocess.Popen

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(PATIENCE)


@contextlib.contextmanager
def apps(data_dir: Path, *program: str) -> Iterator[Callable[[], App]]:
    """Starts `python app.py`, or another program, on free ports, each once it answers. In the end nothing that came of
    them is left."""
    started: list[App] = []

    def start() -> App:
        log = data_dir / f"app{len(started)}.txt"  # a pipe that nobody empties would block a talkative app
        command = [sys.executable, *(program or ("app.py",)), "--data-dir", str(data_dir), "--port", "0"]
        with log.open("w") as file:
            process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        started.append(App("", data_dir, process))
        found = wait_until(
            lambda: process.poll() is not None or re.search(r" at (http://\S+) ", log.read_text()), "the app to start"
        )
        assert found is not True, f"The app did not start: {log.read_text()}"
        started[-1].url = found.group(1)
        return started[-1]

    try:
        yield start
    finally:
        for one in started:
            one.stop()
        end_workers(data_dir)


def end_workers(data_dir: Path) -> None:
    db = open_database(sqlite_url(data_dir / "bgpo.db"))
    for run in settling.live_runs(db):
        settling.kill_tree(run)
    db.close()
