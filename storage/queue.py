"""The queue: which run is next, where it stands, and the devices that it takes with it.

A run leaves the queue by one guarded UPDATE. Its WHERE holds everything that may keep the run there: the pause of the
queue, its planned time, the run that it waits for, a process of its own that still ends (its lease is not back yet),
room on the machine. Its leases are rows of the same transaction;
their primary key is the device, so two dispatchers can neither start a run twice nor put two runs on one device.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, and_, delete, exists, func, or_, select, update

from storage.database import Database, Prepared, new_insert
from storage.runs import DEVICE_KINDS, ENDED, HIGH, LOW, Run, RunNotFound, get_run_in, queue_order, record
from storage.settings import QUEUE_PAUSED
from storage.tables import lease, run, setting

_CLAIMS = 0x636C6169  # of PostgreSQL's locks that any program may use; any constant, the same in every process
RESERVED_AFTER = 600.0  # seconds after which no smaller run may pass one that waits for several devices


@dataclass(frozen=True)
class Offer:
    """The devices of one machine that may be used, by id, whoever has them now.

    A CPU slot's id is `pool:number`; when there are fewer slots than before, runs in those that are gone still count.
    """

    cpu: tuple[str, ...] = ()
    gpu: tuple[str, ...] = ()
    has_gpu: bool = False  # also where none of them may be used now; runs that want one then wait

    def pool(self, wish: str) -> str:
        """Where a run's device comes from: a GPU where the machine has one, unless it wishes for the CPU.

        Where no GPU is known a run that wants one starts all the same: there may be one of another make, and if
        there is none the run says so better than a queue could.
        """
        return "gpu" if self.has_gpu and wish != "cpu" else "cpu"


@dataclass(frozen=True)
class Lease:
    device: str
    run_id: int
    epoch: int  # the run's when it took the device
    taken_at: float


def claim_next(db: Database, offer: Offer, who: str = "scheduler", now: float | None = None) -> Run | None:
    """Takes the first run that may start: queued -> launching, with its devices, for exactly one of all callers."""
    now = time.time() if now is None else now
    # A look first: an empty queue, asked every second, then never takes the write lock.
    with db.read() as connection:
        if connection.execute(select(run.c.id).where(run.c.status == "queued").limit(1)).first() is None:
            return None
    try:
        with db.write() as connection:
            return _claim(connection, offer, who, now)
    except _Taken:
        return None


class _Taken(Exception):
    """Another dispatcher took one of the devices in the same moment; undoes the claim."""


def _claim(connection: Connection, offer: Offer, who: str, now: float) -> Run | None:
    _take_turns(connection)
    free = _free(connection, offer)
    table = run.alias("candidate")
    first = (
        select(table.c.id)
        .where(_may_start(table, now), _fits(table, free, offer), ~_is_reserved(table, free, offer, now))
        .order_by(*queue_order(table))
        .limit(1)
    )
    paused = exists().where(setting.c.name == QUEUE_PAUSED, setting.c.value == "yes")
    claim = (
        update(run)
        .where(run.c.id == first.scalar_subquery(), run.c.status == "queued", ~paused)
        .values(status="launching", heartbeat_at=now, reason="", epoch=run.c.epoch + 1)
        .returning(run.c.id, run.c.epoch, run.c.devices, run.c.device_kind)
    )
    row = connection.execute(claim).one_or_none()
    if row is None:
        return None
    _take(connection, free[offer.pool(row.device_kind)][: row.devices], row.id, row.epoch, now)
    record(connection, row.id, who, "queued", "launching", "")
    return get_run_in(connection, row.id)


def _take_turns(connection: Connection) -> None:
    """Waits until no other process is claiming. SQLite has one writer anyway.

    Without it a second dispatcher would pass over the head of the queue while the first one is at it, and take the last
    device for a run further behind; the first one's claim would then be undone.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(select(func.pg_advisory_xact_lock(_CLAIMS)))


def _free(connection: Connection, offer: Offer) -> dict[str, list[str]]:
    taken = set(connection.scalars(select(lease.c.device)))
    pools = {device.rpartition(":")[0] for device in offer.cpu}
    slots_left = len(offer.cpu) - sum(device.rpartition(":")[0] in pools for device in taken)
    free = {"cpu": offer.cpu, "gpu": offer.gpu}
    left = {kind: [device for device in devices if device not in taken] for kind, devices in free.items()}
    left["cpu"] = left["cpu"][: max(0, slots_left)]
    return left


def _may_start(table, now: float) -> ColumnElement[bool]:
    before = run.alias("before")
    ended = exists().where(before.c.id == table.c.after_id, before.c.status.in_(ENDED))
    # a person's plan is a time of day and waits for it; a retry's is a pause, which a clock set back must not lengthen
    set_back = and_(table.c.retries > 0, table.c.queued_at > now)
    return and_(
        table.c.status == "queued",
        or_(table.c.start_at.is_(None), table.c.start_at <= now, set_back),
        or_(table.c.after_id.is_(None), ended),
        ~exists().where(lease.c.run_id == table.c.id),
    )


def _fits(table, free: dict[str, list[str]], offer: Offer) -> ColumnElement[bool]:
    return or_(*(and_(_wants(table, kind, offer), table.c.devices <= len(free[kind])) for kind in free))


def _wants(table, kind: str, offer: Offer) -> ColumnElement[bool]:
    return table.c.device_kind.in_([wish for wish in DEVICE_KINDS if offer.pool(wish) == kind])


def _is_reserved(table, free: dict[str, list[str]], offer: Offer, now: float) -> ColumnElement[bool]:
    """Whether a run further ahead has waited so long for several devices that those that are free are kept for it."""
    ahead = run.alias("ahead")
    before = or_(
        ahead.c.priority > table.c.priority,
        and_(ahead.c.priority == table.c.priority, ahead.c.position < table.c.position),
    )
    since = now - RESERVED_AFTER
    waits = and_(_may_start(ahead, now), ahead.c.queued_at <= since, func.coalesce(ahead.c.start_at, 0) <= since)
    return or_(*(
        and_(_wants(table, kind, offer), exists().where(
            waits, before, _wants(ahead, kind, offer), ahead.c.devices > len(free[kind])))
        for kind in free
    ))  # fmt: skip


def _take(connection: Connection, devices: Sequence[str], run_id: int, epoch: int, now: float) -> None:
    for device in sorted(devices):  # one order for all: no two transactions can wait for each other
        insert = new_insert(connection, lease).values(device=device, run_id=run_id, epoch=epoch, taken_at=now)
        if connection.execute(insert.on_conflict_do_nothing().returning(lease.c.device)).first() is None:
            raise _Taken


# ---- leases


def leases(db: Database) -> list[Lease]:
    """Which run has which device, by device."""
    with db.read() as connection:
        rows = connection.execute(select(lease.c.device, lease.c.run_id, lease.c.epoch, lease.c.taken_at))
        return sorted((Lease(*row) for row in rows), key=lambda lease: lease.device)


def free_devices(db: Database, offer: Offer) -> dict[str, list[str]]:
    """What of `offer` nobody has, by pool: "cpu" and "gpu"."""
    with db.read() as connection:
        return _free(connection, offer)


def lease_if_free(db: Database, run: Run, devices: Sequence[str]) -> bool:
    """Takes one device for a run that starts without the queue; False when all are taken, and then it goes without."""
    with db.write() as connection:
        for device in devices:
            try:
                _take(connection, [device], run.id, run.epoch, time.time())
            except _Taken:
                continue
            return True
    return False


def release(db: Database, held: Lease) -> bool:
    """Gives one device back, unless somebody has it by now who is not the one that was looked at."""
    with db.write() as connection:
        gone = delete(lease).where(
            lease.c.device == held.device, lease.c.run_id == held.run_id, lease.c.epoch == held.epoch
        )
        return connection.execute(gone).rowcount == 1


# ---- what people do with it


def queued_runs(db: Database) -> list[int]:
    """Ids of the queued runs, the next one first."""
    return [id for (id,) in db.rows(_QUEUED)]


_QUEUED = Prepared(select(run.c.id).where(run.c.status == "queued").order_by(*queue_order()))


def move(db: Database, id: int, place: int) -> bool:
    """Puts a queued run at a place of the queue, 1 being the next; False if it is not queued any more.

    Among runs of another priority it takes on theirs, for otherwise it would not stay where it was put.
    """
    columns = (run.c.id, run.c.priority)
    with db.write() as connection:
        query = select(*columns).where(run.c.status == "queued").order_by(*queue_order()).with_for_update()
        queue = [(row.id, row.priority) for row in connection.execute(query)]
        mine = next((item for item in queue if item[0] == id), None)
        if mine is None:
            return False
        queue.remove(mine)
        place = min(max(place, 1), len(queue) + 1) - 1
        most = queue[place - 1][1] if place else HIGH
        least = queue[place][1] if place < len(queue) else LOW
        queue.insert(place, (id, min(max(mine[1], least), most)))
        for position, (other, priority) in enumerate(queue, 1):
            changed = update(run).where(run.c.id == other, run.c.status == "queued")
            connection.execute(changed.values(position=position, priority=priority))
        return True


def plan(db: Database, id: int, **columns: object) -> bool:
    """Changes when a queued run may start: `priority`, `start_at`, `after_id`; False if it is not queued any more.

    Raises ValueError for a wish that can never be fulfilled, in a sentence.
    """
    unknown = columns.keys() - {"priority", "start_at", "after_id"}
    if unknown:
        raise ValueError(f"the plan of a run has no {sorted(unknown)}")
    with db.write() as connection:
        if columns.get("after_id") is not None:
            _check_order(connection, id, columns["after_id"])
        changed = update(run).where(run.c.id == id, run.c.status == "queued").values(**columns)
        return connection.execute(changed).rowcount == 1


def _check_order(connection: Connection, id: int, after: int) -> None:
    seen = set()
    other: int | None = after
    while other is not None and other not in seen:
        if other == id:
            raise ValueError(f"Run {id} cannot wait for run {after}, which waits for run {id}; choose another one.")
        seen.add(other)
        row = connection.execute(select(run.c.after_id).where(run.c.id == other)).one_or_none()
        if row is None:
            raise RunNotFound(other)
        other = row.after_id
