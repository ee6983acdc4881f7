"""Rows that come from another database: events with their own times, and the last word on an imported run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import update

from storage.database import Database
from storage.runs import ENDED, RunEvent
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
