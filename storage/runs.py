"""Runs: created, moved from status to status, asked to stop, listed and deleted.

    queued -> launching -> running -> finished | stopped | paused | failed     stopped | paused | failed -> queued

A status changes only in `transition` and in `storage.queue.claim_next`: a guarded UPDATE, so that of two processes that
want the same change one succeeds, and an event row that says who did it and why.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, Select, bindparam, delete, func, or_, select, update

from storage.database import Database, Prepared, PreparedForIds, StorageError
from storage.rollouts import delete_rollouts
from storage.tables import run, run_event

STATUSES = ("queued", "launching", "running", "paused", "finished", "stopped", "failed")
LIVE = ("launching", "running")  # a process holds, or is about to hold, the run
ENDED = ("finished", "stopped", "failed")  # a paused run has not ended, but no process holds it
# hung: killed because it makes no progress; overdue: because it did not do by itself what was asked
_WORDS = {
    "pause": "asked to pause", "stop": "asked to stop", "kill": "asked to kill",
    "hung": "killed, because it makes no progress", "stop_overdue": "killed, because it did not stop when asked",
    "pause_overdue": "killed, because it did not pause when asked",
}
REQUESTS = tuple(_WORDS)
BY_FORCE = ("kill", "hung", "stop_overdue", "pause_overdue")
FAILURE_KINDS = (
    "config_invalid", "oom_gpu", "oom_host", "nan", "disk_full", "data_error", "exception", "killed", "hung", "lost",
    "launch_timeout",
)
DEVICE_KINDS = ("auto", "cpu", "gpu")
LATEST = 4_102_444_800  # epoch seconds: the year 2100, which every clock and calendar can say
LOW, NORMAL, HIGH = -1, 0, 1  # priorities


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
    requested: str | None  # one of REQUESTS
    pid: int | None
    process_started: int | None
    boot_id: str | None
    reason: str  # why it failed or stopped, a sentence
    parent_id: int | None
    parent_step: int | None = None  # of the parent's checkpoint that this one began with
    sweep_id: int | None = None
    priority: int = NORMAL
    start_at: float | None = None  # not to be started before
    after_id: int | None = None  # not to be started before that run has ended
    device_kind: str = "auto"
    devices: int = 1  # how many of them it computes on
    epoch: int = 0  # how often it has been claimed
    retries: int = 0  # by themselves, since a person queued it
    retry_step: int | None = None  # of the newest checkpoint at the last of them
    failure_kind: str = ""  # one of FAILURE_KINDS if it failed
    progress_at: float | None = None
    stall_after: float | None = None  # seconds without progress that are too many
    stalled_at: float | None = None  # since when a running run counts as stalled
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
SETTABLE = {field.name for field in fields(Run)} - {"id", "status", "reason", "created_at", "queue_position"} | {
    "position"
}


def create_run(
    db: Database,
    *,
    name: str,
    config_json: str,
    train_steps: int,
    runs_folder: Path,
    status: str = "queued",
    who: str = "",
    **columns: Any,
) -> Run:
    """A new run with a new, empty folder `runs_folder/<id>`. Raises StorageError when that cannot be made.

    `columns` are others of the row: where it comes from, its place in the queue, the devices that it wants.

    Where a folder of that name is left from another database, the new one is `<id>-2` and so on: a run
    must never find somebody else's checkpoints.
    """
    _check_status(status)
    _check_columns(columns)
    now = time.time()
    values = {
        "name": name, "status": status, "phase": "", "config_json": config_json, "folder": "", "created_at": now,
        "queued_at": now, "step": 0, "started_at": now if status == "running" else None,
        "heartbeat_at": now if status in LIVE else None, "train_steps": train_steps, "phase_done": 0, "phase_total": 0,
        "seconds": 0.0, "reason": "", "point_sequence": 0, "position": last_place(), **columns,
    }  # fmt: skip
    insert = run.insert().values(values)
    folder = None
    try:
        with db.write() as connection:
            id = connection.execute(insert.returning(run.c.id)).scalar_one()
            folder = _new_folder(runs_folder, id)
            connection.execute(update(run).where(run.c.id == id).values(folder=str(folder)))
            record(connection, id, who, "", status, "created")
    except BaseException:
        if folder:
            folder.rmdir()
        raise
    return get_run(db, id)


def get_run(db: Database, id: int) -> Run:
    """Raises RunNotFound."""
    with db.read() as connection:
        return get_run_in(connection, id)


def list_runs(db: Database, ids: Collection[int] | None = None) -> list[Run]:
    """All runs, or those of `ids` that there are, newest first, in one query."""
    return [Run(*row) for row in (db.rows(_ALL) if ids is None else _OF_IDS.rows(db, ids))]


def change_counts(db: Database, newest: int = 2**31 - 1, also: Collection[int] = ()) -> dict[int, int]:
    """{run_id: a count that grows with every change of what a list shows of the run}, newest run first.

    As long as it is the same, so are the run's row, newest values, alerts, labels and curve. A run's place in the
    queue is not counted, since others change it, too: see `queued_runs`. Cheap enough for a list that asks every
    second.

    Args:
        newest: how many of the newest runs.
        also: older ones beside them; those that there are not are left out.
    """
    found = dict(db.rows(_CHANGES, most=newest))
    return found | dict(_CHANGES_OF_IDS.rows(db, [id for id in also if id not in found]))


_counts = select(run.c.id, run.c.changes).order_by(run.c.id.desc())
_CHANGES = Prepared(_counts.limit(bindparam("most", type_=Integer)))
_CHANGES_OF_IDS = PreparedForIds(lambda ids: _counts.where(run.c.id.in_(ids)))


def live_and_all(db: Database) -> tuple[list[int], int]:
    """Ids of the runs that a process holds, and how many runs there are."""
    ((count,),) = db.rows(_COUNT)
    return [id for (id,) in db.rows(_LIVE)], count


_LIVE = Prepared(select(run.c.id).where(or_(*(run.c.status == status for status in LIVE))))
_COUNT = Prepared(select(func.count()).select_from(run))


def configs_before(db: Database, id: int, most: int) -> list[tuple[int, str]]:
    """(id, config_json) of at most so many runs that came before a run, the newest first."""
    return db.rows(_BEFORE, before=id, most=most)


_BEFORE = Prepared(
    select(run.c.id, run.c.config_json).where(run.c.id < bindparam("before")).order_by(run.c.id.desc())
    .limit(bindparam("most", type_=Integer))
)  # fmt: skip


def count_change(connection: Connection, *which: ColumnElement[bool]) -> int:
    """Says that something of these runs has changed which is not in their row; how many there are."""
    return connection.execute(update(run).where(*which).values(changes=run.c.changes + 1)).rowcount


def transition(
    db: Database, id: int, allowed_from: Sequence[str], to: str, *, reason: str = "", who: str = "", **columns: Any
) -> bool:
    """Moves the run to status `to` if it is in one of `allowed_from`; False, and nothing changed, if not.

    The times that belong to a status are set here unless given in `columns`: `started_at` at the first
    start, `finished_at` at an end. A request is done with once the run ends or is queued again.
    """
    _check_status(to, *allowed_from)
    _check_columns(columns)
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
        record(connection, id, who, seen, to, reason)
        return True


def request(db: Database, id: int, what: str, who: str = "") -> bool:
    """Asks the run to 'pause' or 'stop', or its processes to be killed (`BY_FORCE`); False if it has none.

    The last word counts, but a kill is not taken back. Raises RunNotFound.
    """
    if what not in REQUESTS:
        raise ValueError(f"unknown request {what!r}; available: {', '.join(REQUESTS)}")
    with db.write() as connection:
        seen = get_run_in(connection, id)
        if seen.status in (*ENDED, "paused"):
            return False
        if seen.requested not in (what, *BY_FORCE):
            connection.execute(update(run).where(run.c.id == id).values(requested=what))
            record(connection, id, who, seen.status, seen.status, _WORDS[what])
        return True


def note(db: Database, seen: Run, why: str, who: str = "") -> None:
    """An event of a run that changes nothing."""
    with db.write() as connection:
        record(connection, seen.id, who, seen.status, seen.status, why)


def settle_origin(db: Database, id: int, config_json: str, parent_id: int | None, parent_step: int | None) -> None:
    """What a run that is about to start begins with, where that was not known when it was queued."""
    with db.write() as connection:
        begins = update(run).where(run.c.id == id, run.c.status == "launching")
        connection.execute(begins.values(config_json=config_json, parent_id=parent_id, parent_step=parent_step))


def mark_stalled(db: Database, id: int, since: float | None, why: str) -> bool:
    """Notes since when a running run makes no progress, None once it does; False, and no event, if nothing changed."""
    with db.write() as connection:
        other = run.c.stalled_at.is_not(None) if since is None else run.c.stalled_at.is_(None)
        changed = update(run).where(run.c.id == id, run.c.status == "running", other).values(stalled_at=since)
        if connection.execute(changed).rowcount != 1:
            return False
        record(connection, id, "scheduler", "running", "running", why)
        return True


def clear_request(db: Database, id: int) -> None:
    """Forgets a request that was carried out or taken back. Harmless when there is none."""
    with db.write() as connection:
        connection.execute(update(run).where(run.c.id == id).values(requested=None))


def delete_run(db: Database, id: int) -> None:
    """Deletes the run's rows, everywhere; its folder is the caller's. Raises RunNotFound.

    Raises StorageError for a run that a process holds: its rows would come back or its process be lost.
    """
    if get_run(db, id).status not in LIVE:
        delete_rollouts(db, id)  # first and in pieces: so many rows in one transaction would keep others waiting
    with db.write() as connection:
        count_change(connection, or_(run.c.parent_id == id, run.c.after_id == id))  # they now name no run
        gone = connection.execute(delete(run).where(run.c.id == id, run.c.status.not_in(LIVE)))
        if gone.rowcount == 0:
            status = get_run_in(connection, id).status
            raise StorageError(f"Run {id} is {status}, so it cannot be deleted; stop it first.")


def run_events(db: Database, id: int) -> list[RunEvent]:
    """What happened to the run, oldest first."""
    columns = [run_event.c[field.name] for field in fields(RunEvent)]
    with db.read() as connection:
        rows = connection.execute(select(*columns).where(run_event.c.run_id == id).order_by(run_event.c.id))
        return [RunEvent(*row) for row in rows]


def queue_order(table: Any = run) -> tuple[Any, ...]:
    """By what the queue is sorted: priority, then as people have moved runs, then age."""
    return table.c.priority.desc(), table.c.position, table.c.id


def last_place() -> Any:
    """The position behind every queued run, as a subquery."""
    other = run.alias()
    behind = func.coalesce(func.max(other.c.position), 0) + 1
    return select(behind).where(other.c.status == "queued").scalar_subquery()


def _runs() -> Select:
    """Runs in the order of `Run`'s fields, with their place in the queue."""
    place = func.row_number().over(order_by=queue_order()).label("place")
    queue = select(run.c.id, place).where(run.c.status == "queued").subquery()
    columns = [run.c[field.name] for field in fields(Run) if field.name != "queue_position"]
    return select(*columns, queue.c.place).outerjoin(queue, queue.c.id == run.c.id)


_ALL = Prepared(_runs().order_by(run.c.id.desc()))
_OF_IDS = PreparedForIds(lambda ids: _runs().where(run.c.id.in_(ids)).order_by(run.c.id.desc()))


def get_run_in(connection: Connection, id: int) -> Run:
    """Like `get_run`, within a transaction."""
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
    ended = {"requested": None, "phase": "", "phase_rate": None, "stalled_at": None}
    if to == "queued":
        process = {"pid": None, "process_started": None, "boot_id": None, "progress_at": None, "stall_after": None}
        queue = {"queued_at": now, "position": last_place(), "start_at": None}
        return {"finished_at": None, "failure_kind": "", **ended, **process, **queue}
    if to == "launching":
        return {"heartbeat_at": now}
    if to == "running":
        return {"started_at": func.coalesce(run.c.started_at, now), "heartbeat_at": now}
    return {"finished_at": now, **ended}


def _check_columns(columns: dict[str, Any]) -> None:
    unknown = columns.keys() - SETTABLE
    if unknown:
        raise ValueError(f"a run's columns {sorted(unknown)} cannot be set here; those that can are {sorted(SETTABLE)}")
    if columns.get("failure_kind", "") not in ("", *FAILURE_KINDS):
        raise ValueError(f"unknown kind of failure {columns['failure_kind']!r}; available: {', '.join(FAILURE_KINDS)}")


def record(connection: Connection, id: int, who: str, from_status: str, to_status: str, why: str) -> None:
    """The event row of a change, in the transaction that makes it."""
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
