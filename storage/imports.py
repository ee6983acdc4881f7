"""Rows from elsewhere: events with their own times, the last word on an imported run, runs found on the disk."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update

from storage.database import Database
from storage.runs import ENDED, Run, RunEvent, get_run_in, record
from storage.tables import run, run_event

# What an imported run keeps of its row. The rest (process, queue, devices, lineage) means nothing here.
KEPT = ("created_at", "started_at", "finished_at", "step", "seconds", "reason", "failure_kind")


def add_events(db: Database, run_id: int, events: Sequence[RunEvent]) -> None:
    """Adds the past of a run, with the times and the words that it had."""
    if events:
        with db.write() as connection:
            connection.execute(run_event.insert(), [{"run_id": run_id, **vars(event)} for event in events])


def complete_import(db: Database, run_id: int, status: str, values: Mapping[str, Any]) -> None:
    """Makes the run what it was; raises ValueError for a status that only a process of this machine can have."""
    if status not in ENDED:
        raise ValueError(f"an imported run cannot be {status!r}; available: {', '.join(ENDED)}")
    kept = {name: values[name] for name in KEPT if name in values}
    with db.write() as connection:
        connection.execute(update(run).where(run.c.id == run_id).values(status=status, phase="", **kept))


def adopt_run(
    db: Database, id: int | None, folder: str, *, name: str, config_json: str, train_steps: int, status: str, why: str,
    **values: Any,
) -> Run:
    """A row for a run that has a folder and no row, under its old number, or a new one where that is None.

    `values` are those of `KEPT`. Raises ValueError for a status that a run without a process cannot have.
    """
    if status not in (*ENDED, "paused"):
        raise ValueError(f"a run that is found cannot be {status!r}; available: {', '.join(ENDED)}, paused")
    now = time.time()
    row = {
        "name": name, "config_json": config_json, "folder": folder, "train_steps": train_steps, "status": status,
        "phase": "", "created_at": now, "queued_at": now, "step": 0, "seconds": 0.0, "reason": "", "phase_done": 0,
        "phase_total": 0, "point_sequence": 0,
    } | {key: values[key] for key in KEPT if key in values}
    with db.write() as connection:
        new = connection.execute(run.insert().values(row | ({} if id is None else {"id": id})).returning(run.c.id))
        number = new.scalar_one()
        record(connection, number, "repair", "", status, why)
        return get_run_in(connection, number)
