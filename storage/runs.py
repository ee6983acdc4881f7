"""Runs: created, claimed, moved from status to status, asked to stop, listed and deleted.

    queued -> launching -> running -> finished | stopped | failed        stopped | failed -> queued (resume)

A status changes only in `claim_next` and `transition`: a guarded UPDATE, so that of two processes that
want the same change one succeeds, and an event row that says who did it and why.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, delete, func, select, update

from storage.database import Database, StorageError
from storage.tables import run, run_event

STATUSES = ("queued", "launching", "running", "finished", "stopped", "failed")
LIVE = ("launching", "running")  # a process holds, or is about to hold, the run
ENDED = ("finished", "stopped", "failed")
REQUESTS = ("stop", "kill")


class RunNotFound(StorageError, LookupError):
    """No run has this id; the message says so to a person."""

    def __init__(self, id: int):
        super().__init__(f"Run {id} does not exist; it may have been deleted.")


@dataclass(frozen=True)
class Run:
    """One training, as stored. Times are UTC seconds since the epoch."""

    id: int
    name: str
    status: str
    phase: str  # of a running run: starting, warming_up, training, evaluating
    config_json: str
    folder: str  # absolute
    created_at: float
    started_at: float | None  # first start, over all resumes
    finished_at: float | None
    heartbeat_at: float | None
    step: int  # last finished training step
    train_steps: int
    phase_done: int
    phase_total: int
    phase_rate: float | None  # units of the current phase per second
    seconds: float  # running seconds so far, over all resumes
    requested: str | None  # stop or kill
    pid: int | None
    process_started: int | None
    boot_id: str | None
    reason: str  # why it failed or stopped, a sentence
    parent_id: int | None
    queue_position: int | None = None  # 1 is next; None unless queued


@dataclass(frozen=True)
class RunEvent:
    """One change of a run's status, or a request (from and to are then the same)."""

    time: float
    who: str
    from_status: str
    to_status: str
    why: str
    step: int | None = None  # the run's last finished step at that time


# What `transition` may set beside the status. The rest is written by `create_run` and `flush`.
SETTABLE = {field.name for field in fields(Run)} - {"id", "status", "reason", "created_at", "queue_position"}


def create_run(
    db: Database,
    *,
    name: str,
    config_json: str,
    train_steps: int,
    runs_folder: Path,
    status: str = "queued",
    parent_id: int | None = None,
    who: str = "",
) -> Run:
    """A new run with a new, empty folder `runs_folder/<id>`. Raises StorageError when that cannot be made.

    Where a folder of that name is left from another database, the new one is `<id>-2` and so on: a run
    must never find somebody else's checkpoints.
    """
    _check_status(status)
    now = time.time()
    insert = run.insert().values(
        name=name, status=status, phase="", config_json=config_json, folder="", created_at=now, queued_at=now, step=0,
        started_at=now if status == "running" else None, heartbeat_at=now if status in LIVE else None,
        train_steps=train_steps, phase_done=0, phase_total=0, seconds=0.0, reason="", parent_id=parent_id,
        point_sequence=0,
    )  # fmt: skip
    folder = None
    try:
        with db.write() as connection:
            id = connection.execute(insert.returning(run.c.id)).scalar_one()
            folder = _new_folder(runs_folder, id)
            connection.execute(update(run).where(run.c.id == id).values(folder=str(folder)))
            _record(connection, id, who, "", status, "created")
    except BaseException:
        if folder:
            folder.rmdir()
        raise
    return get_run(db, id)


def get_run(db: Database, id: int) -> Run:
    """Raises RunNotFound."""
    with db.read() as connection:
        return _get(connection, id)


def list_runs(db: Database, limit: int | None = None) -> list[Run]:
    """All runs, or the newest `limit`, newest first, in one query."""
    with db.read() as connection:
        return [Run(*row) for row in connection.execute(_runs().order_by(run.c.id.desc()).limit(limit))]


def claim_next(db: Database, who: str = "scheduler") -> Run | None:
    """Takes the run that has queued longest: queued -> launching, for exactly one of all callers."""
    oldest = (
        select(run.c.id)
        .where(run.c.status == "queued")
        .order_by(run.c.queued_at, run.c.id)
        .limit(1)
        # PostgreSQL: a second caller takes the next one instead of waiting. SQLite has one writer anyway.
        .with_for_update(skip_locked=True)
    )
    claim = (
        update(run)
        .where(run.c.id == oldest.scalar_subquery(), run.c.status == "queued")
        .values(status="launching", heartbeat_at=time.time(), reason="")
        .returning(run.c.id)
    )
    # A look first: an empty queue, asked every second, then never takes the write lock.
    with db.read() as connection:
        if connection.execute(_any_queued()).first() is None:
            return None
    with db.write() as connection:
        id = connection.execute(claim).scalar_one_or_none()
        if id is None:
            return None
        _record(connection, id, who, "queued", "launching", "")
        return _get(connection, id)


def transition(
    db: Database, id: int, allowed_from: Sequence[str], to: str, *, reason: str = "", who: str = "", **columns: Any
) -> bool:
    """Moves the run to status `to` if it is in one of `allowed_from`; False, and nothing changed, if not.

    The times that belong to a status are set here unless given in `columns`: `started_at` at the first
    start, `finished_at` at an end. A request is done with once the run ends or is queued again.
    """
    _check_status(to, *allowed_from)
    unknown = columns.keys() - SETTABLE
    if unknown:
        raise ValueError(f"transition cannot set {sorted(unknown)}; it can set {sorted(SETTABLE)}")
    with db.write() as connection:
        # The lock makes "from" of the event the status that the UPDATE replaced.
        seen = connection.execute(select(run.c.status).where(run.c.id == id).with_for_update()).scalar_one_or_none()
        if seen not in allowed_from:
            return False
        changed = connection.execute(
            update(run)
            .where(run.c.id == id, run.c.status == seen)
            .values({"status": to, "reason": reason, **_consequences(to), **columns})
        )
        if changed.rowcount != 1:
            return False
        _record(connection, id, who, seen, to, reason)
        return True


def request(db: Database, id: int, what: str, who: str = "") -> bool:
    """Asks the run to 'stop' or its processes to be killed; False if it has ended already.

    A 'kill' is not taken back by a later 'stop'. Raises RunNotFound.
    """
    if what not in REQUESTS:
        raise ValueError(f"unknown request {what!r}; available: {', '.join(REQUESTS)}")
    with db.write() as connection:
        seen = _get(connection, id)
        if seen.status in ENDED:
            return False
        if seen.requested not in (what, "kill"):
            connection.execute(update(run).where(run.c.id == id).values(requested=what))
            _record(connection, id, who, seen.status, seen.status, f"asked to {what}")
        return True


def clear_request(db: Database, id: int) -> None:
    """Forgets a request that was carried out or taken back. Harmless when there is none."""
    with db.write() as connection:
        connection.execute(update(run).where(run.c.id == id).values(requested=None))


def delete_run(db: Database, id: int) -> None:
    """Deletes the run's rows, everywhere; its folder is the caller's. Raises RunNotFound.

    Raises StorageError for a run that a process holds: its rows would come back or its process be lost.
    """
    with db.write() as connection:
        gone = connection.execute(delete(run).where(run.c.id == id, run.c.status.not_in(LIVE)))
        if gone.rowcount == 0:
            status = _get(connection, id).status
            raise StorageError(f"Run {id} is {status}, so it cannot be deleted; stop it first.")


def run_events(db: Database, id: int) -> list[RunEvent]:
    """What happened to the run, oldest first."""
    columns = [run_event.c[field.name] for field in fields(RunEvent)]
    with db.read() as connection:
        rows = connection.execute(select(*columns).where(run_event.c.run_id == id).order_by(run_event.c.id))
        return [RunEvent(*row) for row in rows]


def _runs() -> Select:
    """Runs in the order of `Run`'s fields, with their place in the queue."""
    place = func.row_number().over(order_by=(run.c.queued_at, run.c.id)).label("place")
    queue = select(run.c.id, place).where(run.c.status == "queued").subquery()
    columns = [run.c[field.name] for field in fields(Run) if field.name != "queue_position"]
    return select(*columns, queue.c.place).outerjoin(queue, queue.c.id == run.c.id)


def _any_queued() -> Select:
    return select(run.c.id).where(run.c.status == "queued").limit(1)


def _get(connection: Connection, id: int) -> Run:
    row = connection.execute(_runs().where(run.c.id == id)).one_or_none()
    if row is None:
        raise RunNotFound(id)
    return Run(*row)


def _new_folder(runs_folder: Path, id: int) -> Path:
    name, attempt = str(id), 1
    while True:
        folder = runs_folder.absolute() / name
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            attempt += 1
            name = f"{id}-{attempt}"
        except OSError as error:
            raise StorageError(
                f"The folder {folder} cannot be made ({error.strerror}); free some space, make {runs_folder} writable"
                " or choose another folder with --data-dir."
            ) from error


def _consequences(to: str) -> dict[str, Any]:
    now = time.time()
    if to == "queued":
        process = {"pid": None, "process_started": None, "boot_id": None}
        return {"queued_at": now, "finished_at": None, "requested": None, "phase": "", "phase_rate": None, **process}
    if to == "launching":
        return {"heartbeat_at": now}
    if to == "running":
        return {"started_at": func.coalesce(run.c.started_at, now), "heartbeat_at": now}
    return {"finished_at": now, "requested": None, "phase": "", "phase_rate": None}


def _record(connection: Connection, id: int, who: str, from_status: str, to_status: str, why: str) -> None:
    connection.execute(
        run_event.insert().values(
            run_id=id, time=time.time(), who=who, from_status=from_status, to_status=to_status, why=why,
            step=select(run.c.step).where(run.c.id == id).scalar_subquery(),
        )
    )


def _check_status(*statuses: str) -> None:
    unknown = [status for status in statuses if status not in STATUSES]
    if unknown:
        raise ValueError(f"unknown status {unknown[0]!r}; available: {', '.join(STATUSES)}")
