"""What a list of many runs shows of their curves, in a few queries for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from sqlalchemy import Select, and_, bindparam, select

from storage.database import Database, PreparedForIds
from storage.rollups import metric_id_of
from storage.sparklines import last_with_value, unpacked, width_of
from storage.tables import latest as latest_point
from storage.tables import metric
from storage.tables import sparkline as small_curve


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


def sparkline(db: Database, run_ids: Sequence[int], metric_name: str) -> dict[int, list[tuple[int, float | None]]]:
    """{run_id: [(step, value), ...]}: at most `POINTS` of one metric per run, each the last of its bucket.

    One query for all runs; a run without the metric has an empty list. Gaps are left out, but for the newest point.
    """
    found: dict[int, list[tuple[int, float | None]]] = {run_id: [] for run_id in run_ids}
    broken = []
    for run_id, metric_id, step, value, pairs in _SPARKLINES.rows(db, run_ids, name=metric_name):
        found[run_id] = [*unpacked(pairs), (step, value)]
        if value is None and (width := width_of(step)) > 1:
            broken.append((run_id, metric_id, step // width, width))
    if broken:  # the newest bucket ends with a gap: what there is before it
        with db.read() as connection:
            for curve in broken:
                if end := last_with_value(connection, *curve):
                    found[curve[0]].insert(-1, end)
    return found


def _sparklines(ids: Select) -> Select:
    c = latest_point.c
    query = select(c.run_id, c.metric_id, c.step, c.value, small_curve.c.pairs).outerjoin_from(
        latest_point, small_curve, and_(small_curve.c.run_id == c.run_id, small_curve.c.metric_id == c.metric_id)
    )
    return query.where(c.run_id.in_(ids), c.metric_id == metric_id_of(bindparam("name")))


_SPARKLINES = PreparedForIds(_sparklines)
