"""The real app as a process, asked over one kept connection as a browser asks."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from bgpo.jobs import settling
from storage.database import Database, open_database, sqlite_url
from storage.runs import get_run

ROOT = Path(__file__).parents[2]
PATIENCE = 120  # seconds


class NotSeen(Exception):
    """What a bar waits for did not come; the message says what."""


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE, every: float = 0.01) -> Any:
    """The first true value of `condition`; raises NotSeen."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise NotSeen(f"waited {seconds:.0f} s for {what}")
        time.sleep(every)
    return value


class Answer(NamedTuple):
    """One answer: how long it took until its last byte was read, its body on the wire, its content."""

    seconds: float
    bytes: int
    content: Any


class Client:
    """A kept connection to the app. Not for two threads at once."""

    def __init__(self, port: int):
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def get(self, path: str) -> Answer:
        start = time.perf_counter()
        self._connection.request("GET", path, headers={"Accept-Encoding": "gzip"})
        answer = self._connection.getresponse()
        body = answer.read()
        seconds = time.perf_counter() - start
        if answer.status != 200:
            raise NotSeen(f"{path} answered {answer.status}")
        plain = gzip.decompress(body) if answer.getheader("Content-Encoding") == "gzip" else body
        is_json = "json" in (answer.getheader("Content-Type") or "")
        return Answer(seconds, len(body), json.loads(plain) if is_json else plain)


class Viewer:
    """Polls as a page does: the runs that are selected, from where it is on."""

    def __init__(self, client: Client, run_id: int):
        self._client, self._run = client, run_id
        self._seen, self._cursor, self._alerts = "", 0, 0
        while self.poll().content.get("more"):
            pass

    def poll(self) -> Answer:
        answer = self._client.get(f"/api/live?runs={self._run}:{self._cursor}:{self._alerts}&seen={quote(self._seen)}")
        if not answer.content.get("same"):
            self._seen = answer.content["seen"]
            self._cursor = answer.content["points"].get(str(self._run), {}).get("cursor", self._cursor)
            self._alerts = len(answer.content["alerts"].get(str(self._run), [None] * self._alerts))
        return answer


class Studio:
    """`python app.py` over a data folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.process: subprocess.Popen | None = None
        self.url, self.port, self.starts = "", 0, 0

    @property
    def database(self) -> str:
        return sqlite_url(self.folder / "bgpo.db")

    def open_database(self) -> Database:
        return open_database(self.database)

    def start(self, *program: str) -> float:
        """Seconds from the start of the process, app.py unless another is named, to the first page answered."""
        log = self.folder / f"app{self.starts}.txt"
        self.starts += 1
        command = [sys.executable, *(program or ("app.py",)), "--data-dir", str(self.folder), "--port", "0"]
        begun = time.perf_counter()
        with log.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        found = wait_for(lambda: re.search(r" at (http://\S+:(\d+)) ", log.read_text()), "the app to start")
        self.url, self.port = found.group(1), int(found.group(2))
        self.client().get("/")
        return time.perf_counter() - begun

    def client(self) -> Client:
        return Client(self.port)

    def kill(self) -> None:
        """As by `kill -9`."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def stop(self) -> None:
        """The app and whatever works on its runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(20)
            if self.process.poll() is None:
                self.kill()
        db = self.open_database()
        for run in settling.live_runs(db):
            settling.kill_tree(run)
        db.close()


class Writer:
    """The synthetic writer as a process; `times` says when each step was committed."""

    def __init__(self, studio: Studio, run_id: int, **options: float):
        self._studio, self._run = studio, run_id
        self._log = studio.folder / f"writer-{time.monotonic_ns()}.jsonl"
        flags = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.page_bars.writer", studio.database, str(run_id), "--log", str(self._log),
             *flags], cwd=ROOT)
        wait_for(self.times, "the writer's first step")

    def times(self) -> dict[int, float]:
        if not self._log.exists():
            return {}
        return dict(json.loads(line) for line in self._log.read_text().splitlines() if line.endswith("]"))

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *error: object) -> None:
        """Ends it at once; the app then notes what became of the run, and nothing changes any more."""
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(PATIENCE)
        db = self._studio.open_database()
        wait_for(lambda: get_run(db, self._run).status != "running", "the app to settle the writer's run")
        db.close()
