"""What a list of many runs shows of their curves, in a few queries for all of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from itertools import groupby

from sqlalchemy import Select, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import distinct_on

from storage.database import Database, PreparedForIds
from storage.rollups import level_for, metric_id_of
from storage.tables import latest as latest_point
from storage.tables import metric, point, rollup


def bests(db: Database, run_ids: Sequence[int], metric_name: str) -> dict[int, float]:
    """{run_id: the metric's highest value so far}, in one query; runs without any are left out."""
    return dict(_BESTS.rows(db, run_ids, name=metric_name))


_BESTS = PreparedForIds(lambda ids: select(latest_point.c.run_id, latest_point.c.maximum).where(
    latest_point.c.run_id.in_(ids), latest_point.c.metric_id == metric_id_of(bindparam("name")),
    latest_point.c.maximum.is_not(None),
))  # fmt: skip


def latest(
    db: Database, run_ids: Sequence[int], names: Sequence[str] | None = None
) -> dict[int, dict[str, tuple[int, float | None]]]:
    """{run_id: {metric: (step, value)}} at each metric's highest step, of some metrics or of all, in one query."""
    found: dict[int, dict[str, tuple[int, float | None]]] = {run_id: {} for run_id in run_ids}
    named = {f"name{number}": name for number, name in enumerate(names or ())}
    for run_id, name, step, value in _latest_of(names and len(names)).rows(db, run_ids, **named):
        found[run_id][name] = (step, value)
    return found


@cache
def _latest_of(names: int | None) -> PreparedForIds:
    """Newest values of some runs: of so many metrics, or of all."""
    query = select(latest_point.c.run_id, metric.c.name, latest_point.c.step, latest_point.c.value)
    query = query.join(metric, metric.c.id == latest_point.c.metric_id).order_by(latest_point.c.run_id, metric.c.name)
    if names is not None:
        query = query.where(metric.c.name.in_([bindparam(f"name{number}") for number in range(names)]))
    return PreparedForIds(lambda ids: query.where(latest_point.c.run_id.in_(ids)))


def sparkline(
    db: Database, run_ids: Sequence[int], metric_name: str, points: int = 40
) -> dict[int, list[tuple[int, float | None]]]:
    """{run_id: [(step, value), ...]}: at most `points` of one metric per run, each the last of its bucket.

    A few queries for all runs; a run without the metric has an empty list. Gaps are left out, but for the newest point.
    Values are those of a drawing: 15 digits of them.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, not {points}")
    ends = select(latest_point).where(
        latest_point.c.run_id.in_(run_ids), latest_point.c.metric_id == metric_id_of(metric_name)
    )
    found: dict[int, list[tuple[int, float | None]]] = {run_id: [] for run_id in run_ids}
    with db.read() as connection:
        newest = {row.run_id: row for row in connection.execute(ends).all()}
        levels = {run_id: level_for(row.step // (points - 1) + 1) for run_id, row in newest.items()}
        for level, group in groupby(sorted(newest, key=levels.get), levels.get):
            query = _curves(connection.dialect.name, level, points).where(
                latest_point.c.run_id.in_(list(group)), latest_point.c.metric_id == metric_id_of(metric_name)
            )
            for run_id, curve in connection.execute(query).all():
                found[run_id] = sorted((step, value) for step, value in json.loads(curve or "[]"))
    for run_id, row in newest.items():  # what comes after the last stored bucket
        if not found[run_id] or found[run_id][-1][0] < row.step:
            width, line = row.step // (points - 1) + 1, found[run_id]
            if line and line[-1][0] // width == row.step // width and row.value is not None:
                line.pop()
            line.append((row.step, row.value))
    return found


@cache
def _curves(dialect_name: str, level: int, points: int) -> Select:
    """(run_id, curve): per row of `latest` the last point with a value of each of `points` equally wide buckets.

    A curve is one text, [[step, value], ...] in JSON: twenty thousand rows would take longer to fetch than to find.
    """
    source, value = (point, point.c.value) if level < 0 else (rollup, rollup.c.last)
    wanted = [source.c[name] == latest_point.c[name] for name in ("run_id", "metric_id")]
    wanted += [value.is_not(None)] + ([rollup.c.level == level] if level >= 0 else [])
    bucket = source.c.step // (latest_point.c.step // (points - 1) + 1)
    if dialect_name == "sqlite":  # where a maximum brings the rest of its row along
        last = select(func.max(source.c.step).label("step"), value.label("value")).group_by(bucket)
        pair, together = func.json_array, func.json_group_array
    else:
        last = select(source.c.step.label("step"), value.label("value"))
        last = last.ext(distinct_on(bucket)).order_by(bucket, source.c.step.desc())
        pair, together = func.json_build_array, func.json_agg
    of_run = last.where(*wanted).correlate(latest_point).subquery()
    curve = select(cast(together(pair(of_run.c.step, of_run.c.value)), Text)).scalar_subquery()
    return select(latest_point.c.run_id, curve)
