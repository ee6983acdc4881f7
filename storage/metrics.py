"""Points of a run's curves: written in one short transaction per flush, read as deltas, buckets and latest values."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    select,
    update,
)

from storage import sparklines
from storage.alerts import Alert, write_alerts
from storage.completions import Completion, write_completions
from storage.database import Database, Prepared, new_insert, upsert_plain
from storage.rollouts import Rollout, write_rollouts
from storage.rollups import WIDTHS, Bucket, covering, keep_up, level_for, merged, overview
from storage.runs import RunNotFound
from storage.tables import clean_text, finite, metric, point, run
from storage.tables import latest as latest_point

_SHORT = 8_192  # steps; a curve up to here is read point by point


class Point(NamedTuple):
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
    points = list({(p.metric, int(p.step)): p for p in points}.values())  # the last of twins counts
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
    rows = db.rows(_AFTER, of_run=run_id, cursor=cursor, most=limit)
    points = [Point(name, step, seconds, value) for name, step, seconds, value, _ in rows]
    return points, rows[-1][4] if rows else cursor


_AFTER = Prepared(
    select(metric.c.name, point.c.step, point.c.seconds, point.c.value, point.c.sequence)
    .join(metric, metric.c.id == point.c.metric_id)
    .where(point.c.run_id == bindparam("of_run"), point.c.sequence > bindparam("cursor"))
    .order_by(point.c.sequence)
    .limit(bindparam("most", type_=Integer))
)


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
    Costs the buckets, not the points: a long curve is read from its rollups.
    """
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, not {buckets}")
    low, high = 0 if low is None else low, 2**31 - 1 if high is None else high
    with db.read() as connection:
        found = _CURVE.rows(connection, of_run=run_id, name=clean_text(metric_name), low=low, high=high)
        if not found or found[0][2] is None:
            return []
        metric_id, newest, first, last = found[0]
        width = -(-(last - first + 1) // buckets)
        if level_for(width) < 0 or last - first < _SHORT:
            of_curve = {"of_run": run_id, "of_metric": metric_id}
            rows = _BUCKETED.rows(connection, **of_curve, first=first, last=last, width=width)
            return list(map(Bucket._make, rows))
        return overview(connection, run_id, metric_id, first, last, newest, buckets)


def _beat(connection: Connection, run_id: int, count: int, progress: Progress | None) -> tuple[int, str | None]:
    """Updates the run's row; returns the last sequence number given out before and the request.

    On PostgreSQL this also locks the row, so sequence numbers are committed in the order they are given
    out: a reader's cursor can never pass a point that is not there yet.
    """
    values = {"of_run": run_id, "now": time.time(), "count": count}
    if progress is None:
        rows = _BEAT.rows(connection, **values)
    else:
        values |= vars(progress) | {"phase": clean_text(progress.phase), "phase_rate": finite(progress.phase_rate)}
        rows = _PROGRESS.rows(connection, **values)
    if not rows:
        raise RunNotFound(run_id)
    ((sequence, requested),) = rows
    return sequence - count, requested


_beats = (
    update(run)
    .where(run.c.id == bindparam("of_run"))
    .values(heartbeat_at=bindparam("now"), point_sequence=run.c.point_sequence + bindparam("count"))
    .returning(run.c.point_sequence, run.c.requested)
)
_BEAT = Prepared(_beats)
_PROGRESS = Prepared(_beats.values({field.name: bindparam(field.name) for field in fields(Progress)}))


@lru_cache(256)
def _known_of(count: int) -> Prepared:
    """What there is of so many metrics, `name0` and so on, in one run."""
    of_run = (latest_point.c.metric_id == metric.c.id) & (latest_point.c.run_id == bindparam("of_run"))
    columns = [latest_point.c[name] for name in ("step", "value", "minimum", "maximum")]
    query = select(metric.c.name, metric.c.id, *columns).outerjoin_from(metric, latest_point, of_run)
    return Prepared(query.where(metric.c.name.in_([bindparam(f"name{number}") for number in range(count)])))


def _write_points(connection: Connection, run_id: int, points: Sequence[Point], sequence: int) -> None:
    names = {name: clean_text(name) for name in {p.metric for p in points}}
    known = _known_metrics(connection, run_id, set(names.values()))
    ids = {name: known[kept].id for name, kept in names.items()}
    rows, written = [], defaultdict(dict)
    for number, (name, step, seconds, value) in enumerate(points, start=sequence + 1):
        id, step, value = ids[name], int(step), finite(value)
        written[id][step] = value
        rows.append((run_id, id, step, float(seconds), value, number))
    upsert_plain(connection, point, ("run_id", "metric_id", "step"), rows)
    before = {seen.id: (seen.step, seen.value) for seen in known.values() if seen.step is not None}
    keep_up(connection, run_id, written, {id: step for id, (step, _) in before.items()})
    sparklines.keep_up(connection, run_id, written, before)
    upsert_plain(
        connection, latest_point, ("run_id", "metric_id"),
        [_latest_row(connection, run_id, seen, written[seen.id]) for seen in known.values()],
    )


class _Known(NamedTuple):
    """What the database has of a metric: its id, and what `latest` says of it in a run, all None where it is new."""

    id: int
    step: int | None
    value: float | None
    minimum: float | None
    maximum: float | None


def _latest_row(connection: Connection, run_id: int, seen: _Known, written: dict[int, float | None]) -> tuple:
    """What `latest` says of a metric after `written`, {step: value}: a row of that table."""
    id, step, value, low, high = seen
    newest = max(written)
    if step is None or step < min(written):
        for new in written.values():
            if new is not None:
                low, high = new if low is None or new < low else low, new if high is None or new > high else high
    else:  # written again: it may have been the extreme itself
        parts = covering(connection, run_id, id, 0, max(newest, step) + 1, max(newest, step), len(WIDTHS) - 1)
        whole = merged(parts, lambda step: 0)[0]
        low, high = whole.minimum, whole.maximum
    if step is None or step <= newest:
        step, value = newest, written[newest]
    return run_id, id, step, value, low, high


def _known_metrics(connection: Connection, run_id: int, names: set[str]) -> dict[str, _Known]:
    """What there is of each name. Ids are made for new ones.

    Not cached: an id of a rolled-back transaction would stay, or one of a file that was repaired since.
    """
    wanted = {"of_run": run_id, **{f"name{number}": name for number, name in enumerate(sorted(names))}}
    query = _known_of(len(names))
    found = {name: _Known(*known) for name, *known in query.rows(connection, **wanted)}
    missing = sorted(names - found.keys())  # sorted: two writers that add the same names cannot deadlock
    if missing:
        connection.execute(
            new_insert(connection, metric).on_conflict_do_nothing(index_elements=["name"]),
            [{"name": name} for name in missing],
        )
        found = {name: _Known(*known) for name, *known in query.rows(connection, **wanted)}
    return found


def _end(*order: ColumnElement[int]) -> ScalarSelect[int]:
    """A step at one end of a curve: one look at the key, where min and max together would read every point."""
    same = point.c.run_id == bindparam("of_run"), point.c.metric_id == latest_point.c.metric_id
    inside = point.c.step.between(bindparam("low"), bindparam("high"))
    return select(point.c.step).where(*same, inside).order_by(*order).limit(1).scalar_subquery()


# a metric's id, its highest step in the run, and the lowest and highest between two steps
_CURVE = Prepared(
    select(latest_point.c.metric_id, latest_point.c.step, _end(point.c.step), _end(point.c.step.desc()))
    .join(metric, metric.c.id == latest_point.c.metric_id)
    .where(latest_point.c.run_id == bindparam("of_run"), metric.c.name == bindparam("name"))
)


def _bucketed() -> Select:
    """The points of one metric of one run between two steps, in buckets that are `width` steps wide, as `Bucket`s.

    `last`, `step` and `seconds` are those of the bucket's last point that has a value.
    """
    c = point.c
    key, wanted = (c.run_id, c.metric_id), (c.run_id == bindparam("of_run"), c.metric_id == bindparam("of_metric"))
    last_with_value = func.max(case((c.value.is_not(None), c.step)))
    groups = (
        select(
            *key, func.coalesce(last_with_value, func.max(c.step)).label("step"), func.min(c.value).label("minimum"),
            func.max(c.value).label("maximum"), func.count(c.value).label("count"),
        )
        .where(*wanted, c.step.between(bindparam("first"), bindparam("last")))
        .group_by(*key, (c.step - bindparam("first")) // bindparam("width", type_=Integer))
        .subquery()
    )
    # the whole key from the groups: SQLite then looks a point up per group, and not a group per point
    same = [column == groups.c[column.name] for column in (*key, c.step)]
    columns = c.step, c.seconds, groups.c.minimum, groups.c.maximum, c.value, groups.c.count
    return select(*columns).join_from(groups, point, and_(*same)).order_by(c.step)


_BUCKETED = Prepared(_bucketed())
