"""The pyramid over a run's curves: buckets of 32, 512 and 8,192 steps that keep minimum, maximum, last and count.

A bucket is stored once its metric has passed it; what is newer is read from the points. Whenever a point of a
stored bucket is written again, by a replay or by a resumed run, the bucket and those above it are made anew from
what is there, so a curve read through the pyramid always equals the points.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    ScalarSelect,
    Select,
    and_,
    bindparam,
    case,
    func,
    literal,
    select,
    true,
)

from storage.database import Prepared, upsert_of
from storage.tables import metric, point, rollup

WIDTHS = (32, 512, 8192)  # steps of a bucket, by level
KEY = ("run_id", "metric_id", "level", "bucket")
_COLUMNS = ("step", "seconds", "minimum", "maximum", "last", "count")


class Bucket(NamedTuple):
    """A range of steps of a curve. All values are None in a bucket that holds only gaps."""

    step: int  # where `last` is
    seconds: float
    minimum: float | None
    maximum: float | None
    last: float | None
    count: int  # points with a value


def merged(buckets: Iterable[Bucket], number: Callable[[int], int]) -> list[Bucket]:
    """Neighbours with the same `number(step)` as one; `buckets` in the order of steps."""
    return [_one(list(group)) for _, group in groupby(buckets, lambda bucket: number(bucket.step))]


def level_for(width: int) -> int:
    """The coarsest level whose buckets are no wider than `width` steps; -1 for the points themselves."""
    return sum(size <= width for size in WIDTHS) - 1


def covering(connection: Connection, run_id: int, metric_id: int, first: int, end: int, newest: int, level: int
             ) -> list[Bucket]:
    """The curve from step `first` to before `end`, in buckets of `level` and, where they do not fit, of lower ones.

    Args:
        newest: the metric's highest step; the buckets that hold it are not stored.
    """
    if first >= end:
        return []
    of_curve = {"of_run": run_id, "of_metric": metric_id}
    if level < 0:
        return _read(connection, _POINTS, **of_curve, first=first, last=end - 1)
    width = WIDTHS[level]
    low, high = -(-first // width), min(end, newest) // width
    if low >= high:
        return covering(connection, run_id, metric_id, first, end, newest, level - 1)
    return [
        *covering(connection, run_id, metric_id, first, low * width, newest, level - 1),
        *_read(connection, _BUCKETS, **of_curve, of_level=level, low=low, high=high),
        *covering(connection, run_id, metric_id, high * width, end, newest, level - 1),
    ]


def overview(
    connection: Connection, run_id: int, metric_id: int, first: int, last: int, newest: int, buckets: int
) -> list[Bucket]:
    """The curve from step `first` to `last` in at most `buckets` buckets, which are wider than those of a level."""
    level = level_for(-(-(last - first + 1) // buckets))
    width = WIDTHS[level]
    start, end = first // width, last // width
    together = -(-(end - start + 1) // buckets)

    def number(step: int) -> int:
        return (step // width - start) // together

    low, high = -(-first // width), max(-(-first // width), min(last + 1, newest) // width)
    middle = _read(
        connection, _GROUPED, of_run=run_id, of_metric=metric_id, of_level=level, low=low, high=high, start=start,
        together=together,
    )
    left = covering(connection, run_id, metric_id, first, min(low * width, last + 1), newest, level - 1)
    right = covering(connection, run_id, metric_id, max(high * width, first), last + 1, newest, level - 1)
    if len(middle) < 2:
        return merged([*left, *middle, *right], number)
    # only at the two seams can neighbours belong together
    return [*merged([*left, middle[0]], number), *middle[1:-1], *merged([middle[-1], *right], number)]


def keep_up(connection: Connection, run_id: int, steps: dict[int, set[int]], before: dict[int, int]) -> None:
    """Stores the buckets that were passed, and makes those anew whose points were written again.

    Args:
        steps: steps that have just been written, by metric id.
        before: each metric's highest step before that.
    """
    alike: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)  # (step before, steps) -> metrics
    for metric_id, written in steps.items():
        alike[before.get(metric_id, -1), tuple(written)].append(metric_id)
    work: dict[tuple[int, tuple[int, ...]], list[int]] = defaultdict(list)  # (level, buckets) -> metrics
    for (old, written), metric_ids in alike.items():
        newest = max(old, *written)
        touched = {*written, old} if old >= 0 else set(written)
        for level, width in enumerate(WIDTHS):
            passed = {step // width for step in touched if step // width < newest // width}
            if not passed:
                break  # nor is there one of the wider ones
            work[level, tuple(sorted(passed))] += metric_ids
    for (level, buckets), metric_ids in sorted(work.items()):  # level by level: each is made of the one below
        for low, high in _stretches(buckets):
            _make(connection, run_id, metric_ids, level, low, high)


def _make(connection: Connection, run_id: int, metric_ids: list[int], level: int, low: int, high: int) -> None:
    """Buckets `low` to `high` of a level, from the points or the level below."""
    ids = {f"metric{number}": id for number, id in enumerate(metric_ids)}
    first, last = low * _together(level), (high + 1) * _together(level) - 1
    query = _made(connection.dialect.name, level, len(metric_ids), single=low == high)
    query.execute(connection, of_run=run_id, first=first, last=last, **ids)


def _together(level: int) -> int:
    """How many points, or buckets of the level below, are in a bucket of a level."""
    return WIDTHS[level] // WIDTHS[level - 1] if level else WIDTHS[0]


@lru_cache(256)
def _made(dialect_name: str, level: int, metrics: int, single: bool) -> Prepared:
    """Puts buckets of a level, in place of those that there are, for so many metrics, `metric0` and so on.

    Made of the points from step `first` to `last`, or of these buckets of the level below, by the database itself:
    nothing of them has to come here and go back.

    Args:
        single: whether it is one bucket of each metric, as mostly; the rows then come in the order of their groups.
    """
    source, at = (rollup, rollup.c.bucket) if level else (point, point.c.step)
    c, width = source.c, _together(level)
    key, wanted = [c.run_id, c.metric_id], [c.run_id == bindparam("of_run")]
    wanted += [c.metric_id.in_([bindparam(f"metric{number}") for number in range(metrics)])]
    wanted += [at.between(bindparam("first"), bindparam("last"))]
    if level:
        key, wanted = [*key, c.level], [*wanted, c.level == level - 1]
        has, last, found = c.count > 0, c.last, (func.min(c.minimum), func.max(c.maximum), func.sum(c.count))
    else:
        has, last = c.value.is_not(None), c.value
        found = func.min(c.value), func.max(c.value), func.count(c.value)
    named = [column.label(name) for column, name in zip(found, ("minimum", "maximum", "count"))]
    # the one that ends a bucket: the last that has a value, if any has
    end = func.coalesce(func.max(case((has, at))), func.max(at)).label("end")
    groups = select(*key, end, *named).where(*wanted).group_by(*key, *([] if single else [at // width])).subquery()
    # the whole key from the groups: SQLite then looks a row up per group, and not a group per row
    same = [*(column == groups.c[column.name] for column in key), at == groups.c.end]
    rows = select(
        c.run_id, c.metric_id, literal(level, Integer), at // width, c.step, c.seconds, groups.c.minimum,
        groups.c.maximum, last, groups.c.count,
    ).join_from(groups, source, and_(*same)).where(true())  # without it SQLite reads ON CONFLICT as the join's
    return Prepared(upsert_of(dialect_name, rollup, KEY).from_select([*KEY, *_COLUMNS], rows, include_defaults=False))


def metric_id_of(name: str) -> ScalarSelect[int]:
    return select(metric.c.id).where(metric.c.name == name).scalar_subquery()


def _points() -> Select:
    c = point.c
    count = case((c.value.is_(None), literal(0)), else_=literal(1)).label("count")
    return select(c.step, c.seconds, c.value, c.value, c.value, count)


def _of_curve(source: FromClause) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return source.c.run_id == bindparam("of_run"), source.c.metric_id == bindparam("of_metric")


def _grouped() -> Select:
    """Stored buckets of a level from `low` to before `high`, several `together`, counted from `start`."""
    c = rollup.c
    key, wanted = (c.run_id, c.metric_id, c.level), (*_of_curve(rollup), c.level == bindparam("of_level"))
    # the one that ends a group: the last that has a value, if any has
    last = func.coalesce(func.max(case((c.count > 0, c.bucket))), func.max(c.bucket)).label("bucket")
    groups = (
        select(*key, last, func.min(c.minimum).label("minimum"), func.max(c.maximum).label("maximum"),
               func.sum(c.count).label("count"))
        .where(*wanted, c.bucket >= bindparam("low"), c.bucket < bindparam("high"))
        .group_by(*key, (c.bucket - bindparam("start")) // bindparam("together", type_=Integer))
        .subquery()
    )  # fmt: skip
    # the whole key from the groups: SQLite then looks a bucket up per group, and not a group per bucket
    same = [column == groups.c[column.name] for column in (*key, c.bucket)]
    columns = c.step, c.seconds, groups.c.minimum, groups.c.maximum, c.last, groups.c.count
    return select(*columns).join_from(groups, rollup, and_(*same)).order_by(c.bucket)


_POINTS = Prepared(
    _points().where(*_of_curve(point), point.c.step.between(bindparam("first"), bindparam("last")))
    .order_by(point.c.step)
)
_BUCKETS = Prepared(
    select(*(rollup.c[name] for name in _COLUMNS)).where(*_of_curve(rollup), rollup.c.level == bindparam("of_level"))
    .where(rollup.c.bucket >= bindparam("low"), rollup.c.bucket < bindparam("high"))
    .order_by(rollup.c.bucket)
)
_GROUPED = Prepared(_grouped())


def _read(connection: Connection, query: Prepared, **values: int) -> list[Bucket]:
    return list(map(Bucket._make, query.rows(connection, **values)))


def _one(buckets: Sequence[Bucket]) -> Bucket:
    full = [bucket for bucket in buckets if bucket.count]
    end = (full or buckets)[-1]
    return Bucket(
        end.step, end.seconds, min((b.minimum for b in full), default=None),
        max((b.maximum for b in full), default=None), end.last, sum(b.count for b in full),
    )


def _stretches(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Sorted numbers as (first, last) of each unbroken stretch."""
    found: list[tuple[int, int]] = []
    for number in numbers:
        if found and number == found[-1][1] + 1:
            found[-1] = found[-1][0], number
        else:
            found.append((number, number))
    return found
