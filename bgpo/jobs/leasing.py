"""Devices come back when the tree of processes that used them is gone, and not before."""

from __future__ import annotations

import time
from pathlib import Path

from bgpo.jobs import runner
from bgpo.jobs.settling import SILENCE, kill_marked, tree_alive, worker_identity
from storage.database import Database
from storage.queue import leases, release
from storage.runs import LIVE, Run, get_run


def devices_of(db: Database, run_id: int) -> list[str]:
    """What the run has leased."""
    return [lease.device for lease in leases(db) if lease.run_id == run_id]


def release_unused(db: Database) -> None:
    """Gives back every device whose run is over and has no process left; ends what such a run has left behind."""
    for lease in leases(db):
        run = get_run(db, lease.run_id)
        if run.status in LIVE and run.epoch == lease.epoch:
            continue
        if _elsewhere(run):
            continue
        worker = worker_identity(run)
        if not tree_alive(run):
            release(db, lease)
        elif runner.lock_state(Path(run.folder)) != "held" and not (worker and worker.alive()):
            kill_marked(run)  # the next look finds them gone


def _elsewhere(run: Run) -> bool:
    """Whether the run's processes were on another machine, whose app is the one to judge, unless it is long silent."""
    here = runner.lock_state(Path(run.folder)) != "unknown" or run.boot_id in (None, runner.boot_id())
    quiet = time.time() - (run.finished_at or run.heartbeat_at or run.created_at)
    return not here and quiet < SILENCE
