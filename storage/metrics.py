"""Points of a run's curves: written in one short transaction per flush, read as deltas, buckets and latest values."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, Select, case, func, select, update

from storage.alerts import Alert, write_alerts
from storage.completions import Completion, write_completions
from storage.database import Database, new_insert, upsert
from storage.rollouts import Rollout, write_rollouts
from storage.runs import RunNotFound
from storage.tables import clean_text, metric, point, run
from storage.tables import latest as latest_point


@dataclass(frozen=True)
class Point:
    """One value of one metric. `value` is None where it was NaN or infinite: a gap."""

    metric: str
    step: int
    seconds: float  # running seconds of the run, over all resumes
    value: float | None


@dataclass(frozen=True)
class Progress:
    """How far a run is."""

    phase: str
    phase_done: int
    phase_total: int
    phase_rate: float | None  # units of the phase per second
    step: int
    seconds: float
    progress_at: float | None = None  # when there was some last
    stall_after: float | None = None  # seconds without any that are too many


@dataclass(frozen=True)
class Bucket:
    """A range of steps of a curve. All values are None in a bucket that holds only gaps."""

    step: int  # where `last` is
    seconds: float
    minimum: float | None
    maximum: float | None
    last: float | None
    count: int  # points with a value


def flush(
    db: Database,
    run_id: int,
    points: Sequence[Point],
    completions: Sequence[Completion] = (),
    progress: Progress | None = None,
    alerts: Sequence[Alert] = (),
    rollouts: Sequence[Rollout] = (),
) -> str | None:
    """Writes all of it, and a heartbeat, in one transaction; returns what is requested of the run, if anything.

    Upserts: writing the same again, after an error or by a resumed run, does no harm.
    Raises RunNotFound when the run was deleted, StorageError when the database cannot be written now.
    """
    points = list({(clean_text(p.metric), int(p.step)): p for p in points}.values())  # the last of twins counts
    with db.write() as connection:
        sequence, requested = _beat(connection, run_id, len(points), progress)
        if points:
            _write_points(connection, run_id, points, sequence)
        write_completions(connection, run_id, completions)
        write_alerts(connection, run_id, alerts)
        write_rollouts(connection, run_id, rollouts)
    return requested


def points_after(db: Database, run_id: int, cursor: int, limit: int = 20_000) -> tuple[list[Point], int]:
    """At most `limit` points written after `cursor`, in the order of writing, and the cursor for the next call.

    Start with 0. A point that is written again appears again, so replace by (metric, step). Costs what is
    new, whatever the length of the run. When it returns `limit` points there may be more.
    """
    query = (
        select(metric.c.name, point.c.step, point.c.seconds, point.c.value, point.c.sequence)
        .join(metric, metric.c.id == point.c.metric_id)
        .where(point.c.run_id == run_id, point.c.sequence > cursor)
        .order_by(point.c.sequence)
        .limit(limit)
    )
    with db.read() as connection:
        rows = connection.execute(query).all()
    return [Point(*row[:4]) for row in rows], rows[-1].sequence if rows else cursor


def values_by_step(
    db: Database, run_id: int, metric_names: Collection[str], first_step: int = 0
) -> list[tuple[int, dict[str, float | None]]]:
    """`[(step, {metric: value}), ...]` of some metrics from `first_step` on, in the order of steps."""
    query = (
        select(point.c.step, metric.c.name, point.c.value)
        .join(metric, metric.c.id == point.c.metric_id)
        .where(point.c.run_id == run_id, metric.c.name.in_(metric_names), point.c.step >= first_step)
        .order_by(point.c.step)
    )
    found: dict[int, dict[str, float | None]] = {}
    with db.read() as connection:
        for step, name, value in connection.execute(query):
            found.setdefault(step, {})[name] = value
    return list(found.items())


def newest_cursor(db: Database, run_id: int) -> int:
    """The cursor behind everything written so far: `points_after` from there gives only what is new."""
    with db.read() as connection:
        return connection.scalar(select(func.max(point.c.sequence)).where(point.c.run_id == run_id)) or 0


def series(
    db: Database, run_id: int, metric_name: str, low: int | None = None, high: int | None = None, buckets: int = 1000
) -> list[Bucket]:
    """The curve between the steps `low` and `high` (inclusive, None for open) in at most `buckets` buckets.

    Buckets are equally wide in steps and keep minimum and maximum, so no spike is lost; empty ones are left out.
    """
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, not {buckets}")
    wanted = [point.c.run_id == run_id, point.c.metric_id == _metric_id(metric_name)]
    wanted += [point.c.step >= low] if low is not None else []
    wanted += [point.c.step <= high] if high is not None else []
    with db.read() as connection:
        first, last = connection.execute(_ends(wanted)).one()
        if first is None:
            return []
        width = -(-(last - first + 1) // buckets)
        rows = connection.execute(_bucketed((point.c.step - first) // width, wanted)).all()
    return [Bucket(row.step, row.seconds, row.minimum, row.maximum, row.value, row.count) for row in rows]


def latest(db: Database, run_ids: Sequence[int]) -> dict[int, dict[str, tuple[int, float | None]]]:
    """{run_id: {metric: (step, value)}} at each metric's highest step, in one query."""
    query = (
        select(latest_point.c.run_id, metric.c.name, latest_point.c.step, latest_point.c.value)
        .join(metric, metric.c.id == latest_point.c.metric_id)
        .where(latest_point.c.run_id.in_(run_ids))
        .order_by(latest_point.c.run_id, metric.c.name)
    )
    found: dict[int, dict[str, tuple[int, float | None]]] = {run_id: {} for run_id in run_ids}
    with db.read() as connection:
        for run_id, name, step, value in connection.execute(query):
            found[run_id][name] = (step, value)
    return found


def sparkline(
    db: Database, run_ids: Sequence[int], metric_name: str, points: int = 40
) -> dict[int, list[tuple[int, float | None]]]:
    """{run_id: [(step, value), ...]}: at most `points` of one metric per run, each the last of its bucket.

    One query for all runs; a run without the metric has an empty list.
    """
    if points < 1:
        raise ValueError(f"points must be at least 1, not {points}")
    wanted = [point.c.run_id.in_(run_ids), point.c.metric_id == _metric_id(metric_name)]
    ends = (
        select(point.c.run_id, func.min(point.c.step).label("first"), func.max(point.c.step).label("last"))
        .where(*wanted)
        .group_by(point.c.run_id)
        .subquery()
    )
    width = (ends.c.last - ends.c.first + points) // points
    number = (point.c.step - ends.c.first) // width
    found: dict[int, list[tuple[int, float | None]]] = {run_id: [] for run_id in run_ids}
    with db.read() as connection:
        for row in connection.execute(_bucketed(number, wanted, ends)):
            found[row.run_id].append((row.step, row.value))
    return found


def _beat(connection: Connection, run_id: int, count: int, progress: Progress | None) -> tuple[int, str | None]:
    """Updates the run's row; returns the last sequence number given out before and the request.

    On PostgreSQL this also locks the row, so sequence numbers are committed in the order they are given
    out: a reader's cursor can never pass a point that is not there yet.
    """
    values = {"heartbeat_at": time.time(), "point_sequence": run.c.point_sequence + count}
    values |= asdict(progress) if progress else {}
    beat = update(run).where(run.c.id == run_id).values(values).returning(run.c.point_sequence, run.c.requested)
    row = connection.execute(beat).one_or_none()
    if row is None:
        raise RunNotFound(run_id)
    return row.point_sequence - count, row.requested


def _write_points(connection: Connection, run_id: int, points: Sequence[Point], sequence: int) -> None:
    ids = _metric_ids(connection, {clean_text(p.metric) for p in points})
    rows = [
        {
            "run_id": run_id,
            "metric_id": ids[clean_text(p.metric)],
            "step": int(p.step),
            "seconds": float(p.seconds),
            "value": p.value,
            "sequence": sequence + number,
        }
        for number, p in enumerate(points, start=1)
    ]
    connection.execute(upsert(connection, point, ("run_id", "metric_id", "step")), rows)
    newest = {row["metric_id"]: row for row in sorted(rows, key=lambda row: row["step"])}
    columns = [column.name for column in latest_point.columns]
    insert = new_insert(connection, latest_point)
    # Points replayed after an outage may be older than what is there.
    replace = insert.on_conflict_do_update(
        index_elements=["run_id", "metric_id"],
        set_={"step": insert.excluded.step, "value": insert.excluded.value},
        where=insert.excluded.step >= latest_point.c.step,
    )
    connection.execute(replace, [{name: row[name] for name in columns} for row in newest.values()])


def _metric_ids(connection: Connection, names: set[str]) -> dict[str, int]:
    """Ids of the metrics, made for new names. Not cached: an id of a rolled-back transaction would stay."""
    query = select(metric.c.name, metric.c.id).where(metric.c.name.in_(names))
    ids = {name: id for name, id in connection.execute(query)}
    missing = sorted(names - ids.keys())  # sorted: two writers that add the same names cannot deadlock
    if missing:
        connection.execute(
            new_insert(connection, metric).on_conflict_do_nothing(index_elements=["name"]),
            [{"name": name} for name in missing],
        )
        ids = {name: id for name, id in connection.execute(query)}
    return ids


def _metric_id(name: str):
    return select(metric.c.id).where(metric.c.name == name).scalar_subquery()


def _ends(wanted: Sequence) -> Select:
    return select(func.min(point.c.step), func.max(point.c.step)).where(*wanted)


def _bucketed(number, wanted: Sequence, beside=None) -> Select:
    """Points grouped per run by the bucket `number`, an expression over `point` and, per run, `beside`.

    `value`, `step` and `seconds` are those of the bucket's last point that has a value.
    """
    last_with_value = func.max(case((point.c.value.is_not(None), point.c.step)))
    source = point if beside is None else point.join(beside, beside.c.run_id == point.c.run_id)
    groups = (
        select(
            point.c.run_id,
            point.c.metric_id,
            func.coalesce(last_with_value, func.max(point.c.step)).label("step"),
            func.min(point.c.value).label("minimum"),
            func.max(point.c.value).label("maximum"),
            func.count(point.c.value).label("count"),
        )
        .select_from(source)
        .where(*wanted)
        .group_by(point.c.run_id, point.c.metric_id, number)
        .subquery()
    )
    same = [point.c[name] == groups.c[name] for name in ("run_id", "metric_id", "step")]
    columns = (groups.c.minimum, groups.c.maximum, groups.c.count)
    query = select(point.c.run_id, point.c.step, point.c.seconds, point.c.value, *columns)
    return query.join_from(groups, point, same[0] & same[1] & same[2]).order_by(point.c.run_id, point.c.step)
