"""Sweeps: runs that were launched as a group. Their runs name them; a sweep without runs is nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

from sqlalchemy import select

from storage.database import Database
from storage.tables import sweep


@dataclass(frozen=True)
class Sweep:
    id: int
    name: str
    plan_json: str  # knob -> its values, as text
    created_at: float


def create_sweep(db: Database, name: str, plan_json: str) -> Sweep:
    columns = [sweep.c[field.name] for field in fields(Sweep)]
    with db.write() as connection:
        insert = sweep.insert().values(name=name, plan_json=plan_json, created_at=time.time())
        return Sweep(*connection.execute(insert.returning(*columns)).one())


def sweep_names(db: Database) -> dict[int, str]:
    """Every sweep's name by its id."""
    with db.read() as connection:
        return {row.id: row.name for row in connection.execute(select(sweep.c.id, sweep.c.name))}
