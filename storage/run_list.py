"""What a list of many runs shows of their curves, in a few queries for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from sqlalchemy import Connection, Row, select

from storage.database import Database
from storage.rollups import level_for, metric_id_of
from storage.tables import latest as latest_point
from storage.tables import metric, point, rollup


def bests(db: Database, run_ids: Sequence[int], metric_name: str) -> dict[int, float]:
    """{run_id: the metric's highest value so far}, in one query; runs without any are left out."""
    query = select(latest_point.c.run_id, latest_point.c.maximum).where(
        latest_point.c.run_id.in_(run_ids), latest_point.c.metric_id == metric_id_of(metric_name),
        latest_point.c.maximum.is_not(None),
    )
    with db.read() as connection:
        return {run_id: best for run_id, best in connection.execute(query)}


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

    A few queries for all runs; a run without the metric has an empty list. Gaps are left out, but for the newest point.
    """
    if points < 2:
        raise ValueError(f"points must be at least 2, not {points}")
    ends = select(latest_point).where(
        latest_point.c.run_id.in_(run_ids), latest_point.c.metric_id == metric_id_of(metric_name)
    )
    found: dict[int, list[tuple[int, float | None]]] = {run_id: [] for run_id in run_ids}
    with db.read() as connection:
        newest = {row.run_id: row for row in connection.execute(ends)}
        width = {run_id: row.step // (points - 1) + 1 for run_id, row in newest.items()}
        levels = {run_id: level_for(width[run_id]) for run_id in newest}
        for level, group in groupby(sorted(newest, key=levels.get), levels.get):
            for run_id, step, value in _values(connection, [newest[id] for id in group], level):
                line = found[run_id]
                if line and line[-1][0] // width[run_id] == step // width[run_id]:
                    line.pop()
                line.append((step, value))
    for run_id, row in newest.items():  # what comes after the last stored bucket
        if not found[run_id] or found[run_id][-1][0] < row.step:
            found[run_id].append((row.step, row.value))
    return found


def _values(connection: Connection, newest: Sequence[Row], level: int) -> Iterable[Row]:
    """(run_id, step, value) of some runs by step: those of a level of the pyramid, or the points themselves."""
    source, value = (point, point.c.value) if level < 0 else (rollup, rollup.c.last)
    query = select(source.c.run_id, source.c.step, value).where(
        source.c.run_id.in_([row.run_id for row in newest]), source.c.metric_id == newest[0].metric_id,
        value.is_not(None),
    )
    if level >= 0:
        query = query.where(rollup.c.level == level)
    return connection.execute(query.order_by(source.c.run_id, source.c.step))

