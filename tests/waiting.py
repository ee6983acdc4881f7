"""Waiting for what other processes and threads do, without a guess at how long they take."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from storage.database import Database

PATIENCE = 60  # seconds; how long a busy machine may take, never how long anything should


def wait_until(condition: Callable[[], object], what: str, seconds: float = PATIENCE) -> object:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


@contextlib.contextmanager
def paused(db: Database, pid: int) -> Iterator[None]:
    """Holds a worker still, so that it cannot reach its end while a test looks at its middle."""
    process = psutil.Process(pid)
    with db.write():  # our lock: it is not stopped while it holds one that others wait for
        process.suspend()
    try:
        yield
    finally:
        process.resume()
