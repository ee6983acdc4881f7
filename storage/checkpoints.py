"""Where a run's weights are: one row per step that has a checkpoint folder."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

from sqlalchemy import Row, delete, func, select, update

from storage.database import Database, new_insert
from storage.runs import RunNotFound
from storage.tables import checkpoint, run

KINDS = ("warm_start", "evaluation", "final", "stop")


@dataclass(frozen=True)
class Checkpoint:
    id: int
    run_id: int
    step: int
    kind: str  # warm_start, evaluation, final or stop
    folder: str
    created_at: float
    reward: float | None  # greedy held-out reward, where it was measured
    pinned: bool = False  # kept whatever the run's retention says


COLUMNS = [checkpoint.c[field.name] for field in fields(Checkpoint)]


def add_checkpoint(
    db: Database, run_id: int, step: int, kind: str, folder: str, reward: float | None = None
) -> Checkpoint:
    """Records a checkpoint. A second one at the same step replaces kind and folder but keeps a known reward.

    Raises RunNotFound, and ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind of checkpoint {kind!r}; available: {', '.join(KINDS)}")
    with db.write() as connection:
        if connection.execute(select(run.c.id).where(run.c.id == run_id)).first() is None:
            raise RunNotFound(run_id)
        insert = new_insert(connection, checkpoint).values(
            run_id=run_id, step=int(step), kind=kind, folder=str(folder), created_at=time.time(), reward=reward
        )
        replaced = {name: insert.excluded[name] for name in ("kind", "folder", "created_at")}
        replaced["reward"] = func.coalesce(insert.excluded.reward, checkpoint.c.reward)
        upsert = insert.on_conflict_do_update(index_elements=["run_id", "step"], set_=replaced)
        return _checkpoint(connection.execute(upsert.returning(*COLUMNS)).one())


def checkpoints_of(db: Database, run_id: int) -> list[Checkpoint]:
    """The run's checkpoints by step."""
    with db.read() as connection:
        query = select(*COLUMNS).where(checkpoint.c.run_id == run_id).order_by(checkpoint.c.step)
        return [_checkpoint(row) for row in connection.execute(query)]


def pin_checkpoint(db: Database, run_id: int, id: int, pinned: bool) -> bool:
    """Whether the run has such a checkpoint; it is then kept, or left to the run's retention again."""
    here = (checkpoint.c.run_id == run_id, checkpoint.c.id == id)
    with db.write() as connection:
        return connection.execute(update(checkpoint).where(*here).values(pinned=int(pinned))).rowcount == 1


def forget_checkpoint(db: Database, id: int) -> bool:
    """Removes the row of an unpinned checkpoint whose folder is to go; False when it is gone or was just pinned."""
    with db.write() as connection:
        gone = connection.execute(delete(checkpoint).where(checkpoint.c.id == id, checkpoint.c.pinned == 0))
        return gone.rowcount == 1


def all_checkpoints(db: Database) -> list[Checkpoint]:
    """Every checkpoint, newest run first and by step within a run, in one query."""
    with db.read() as connection:
        query = select(*COLUMNS).order_by(checkpoint.c.run_id.desc(), checkpoint.c.step)
        return [_checkpoint(row) for row in connection.execute(query)]


def _checkpoint(row: Row) -> Checkpoint:
    return Checkpoint(*row[:-1], pinned=bool(row.pinned))
