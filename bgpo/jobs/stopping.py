"""A run that does not answer to Stop: asked by its row, then by SIGTERM, then ended.

Stop and Pause are requests that a worker reads with its next flush and carries out between two passes, with a
checkpoint. One that does not (its main thread hangs in a call, its database is away) is asked again by a signal after
`GRACE` seconds, and its processes are killed after as many again: never while it writes a checkpoint, and where a step
of its own takes longer than `GRACE`, after as long as a step.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from bgpo.jobs.pace import STALL_FACTOR
from bgpo.jobs.settling import worker_identity
from storage.database import Database
from storage.runs import Run, note, request

GRACE = 60.0  # seconds from the request to SIGTERM, and from there to the end
WRITING = 30.0  # seconds without a change of a half-written checkpoint after which nobody writes it any more
_Asked = tuple[int, int, str]  # run, epoch, what was requested


class Escalation:
    """How long each run has been asked, by the monotonic clock: a restarted app begins to count again."""

    def __init__(self, grace: float = GRACE):
        self._grace = grace
        self._since: dict[_Asked, float] = {}
        self._signalled: dict[_Asked, float] = {}

    def look(self, db: Database, runs: Sequence[Run]) -> None:
        """One look at all live runs; what is asked of a run for too long is asked more firmly."""
        now = time.monotonic()
        asked = {(run.id, run.epoch, run.requested): run for run in runs if run.requested in ("stop", "pause")}
        self._since = {key: self._since.get(key, now) for key in asked}
        self._signalled = {key: at for key, at in self._signalled.items() if key in asked}
        for key, run in asked.items():
            patience = max(self._grace, (run.stall_after or 0) / STALL_FACTOR)
            waited = now - self._since[key]
            if key in self._signalled:  # however late the signal was, it has its own time to be heard
                if now - self._signalled[key] > patience and not writes_checkpoint(run):
                    request(db, run.id, f"{run.requested}_overdue", who="scheduler")
            elif waited > patience:
                self._signalled[key] = now
                if _signal(run):
                    note(db, run, f"did not {run.requested} within {waited:.0f} s; asked by SIGTERM", who="scheduler")


def writes_checkpoint(run: Run) -> bool:
    """Whether a checkpoint under its temporary name has just been changed: to end the run now could lose it."""
    for path in Path(run.folder, "checkpoints").glob(".*/*"):
        with contextlib.suppress(OSError):
            if abs(time.time() - path.stat().st_mtime) < WRITING:
                return True
    return False


def _signal(run: Run) -> bool:
    """SIGTERM to the worker that the row names, if exactly that one lives here."""
    worker = worker_identity(run)
    with contextlib.suppress(psutil.Error):
        if worker is not None and worker.alive():
            psutil.Process(worker.pid).terminate()
            return True
    return False
