"""What the bars share: one browser, one app over the filled database, other apps over empty ones; and what a bar is."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, sync_playwright

from benchmarks.page_bars.data import Filled, Sizes, fill
from benchmarks.page_bars.studio import Studio
from tests.chromium import FLAGS, HOW, find_chromium


@dataclass(frozen=True)
class Found:
    """What was measured: figures by name, or None with a reason. `holds` is None when that is not known."""

    value: dict[str, Any] | None
    holds: bool | None
    reason: str = ""


@dataclass(frozen=True)
class Bar:
    """One line of the table.

    Attributes:
        needs: what the filled database has to hold for it: "curves" of long runs, "completions".
        long: takes more than a minute, so it is measured on request.
    """

    target: str
    peer: str
    measure: Callable[[Bench], Found]
    needs: str = ""
    long: bool = False


class Bench:
    """Starts what a bar needs when it is first needed; `close` ends all of it."""

    def __init__(self, sizes: Sizes, needs: Collection[str], long: bool = False, soak_minutes: float = 60.0):
        self.sizes, self.needs, self.long, self.soak_minutes = sizes, needs, long, soak_minutes
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        self._empty = 0

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @cached_property
    def browser(self) -> Browser:
        path = find_chromium()
        if path is None:
            raise SystemExit(HOW)
        playwright = self._stack.enter_context(sync_playwright())
        running = playwright.chromium.launch(executable_path=path, args=[*FLAGS, "--enable-precise-memory-info"])
        self._stack.callback(running.close)
        return running

    @cached_property
    def filled(self) -> Filled:
        db = self._big.open_database()
        found = fill(db, self._big.folder / "runs", self.sizes, self.needs)
        db.close()
        return found

    @cached_property
    def big(self) -> Studio:
        """The app over the filled database."""
        assert self.filled
        self._big.start()
        return self._big

    @cached_property
    def _big(self) -> Studio:
        return self._studio("filled")

    def empty(self) -> Studio:
        """An app over a database without a run, not started yet."""
        self._empty += 1
        return self._studio(f"empty{self._empty}")

    def _studio(self, name: str) -> Studio:
        studio = Studio(self._folder / name)
        self._stack.callback(studio.stop)
        return studio


def p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def ms(seconds: float) -> float:
    return round(seconds * 1000, 1)
