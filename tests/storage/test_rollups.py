"""A curve read through the pyramid equals its points, however they were written; no outlier is ever lost."""

import math
import random

import pytest
from sqlalchemy import select

from storage.metrics import Point, flush, series
from storage.rollups import WIDTHS, Bucket, covering, merged
from storage.run_list import bests, latest, sparkline
from storage.sparklines import POINTS
from storage.tables import metric, point, rollup


def write(db, run_id, values, metric="m", batch=2000):
    """`values` {step: value}, in batches."""
    items = list(values.items())
    for start in range(0, len(items), batch):
        flush(db, run_id, [Point(metric, step, step * 0.5, value) for step, value in items[start : start + batch]])


def expected(values, number):
    """Buckets of `values`, by definition."""
    finite = {step: v for step, v in values.items() if v is not None and math.isfinite(v)}
    found = []
    for key in sorted({number(step) for step in values}):
        inside = {step: v for step, v in finite.items() if number(step) == key}
        step = max(inside or [step for step in values if number(step) == key])
        low, high = min(inside.values(), default=None), max(inside.values(), default=None)
        found.append(Bucket(step, step * 0.5, low, high, inside.get(step), len(inside)))
    return found


def read(db, run_id, first, end, level, name="m"):
    with db.read() as connection:
        metric_id = connection.scalar(select(metric.c.id).where(metric.c.name == name))
        return covering(connection, run_id, metric_id, first, end, latest(db, [run_id])[run_id][name][0], level)


def assert_sound(db, run_id, values, name="m"):
    """Every stored bucket, the curve and the extremes, against the values themselves."""
    newest = max(values)
    with db.read() as connection:
        metric_id = connection.scalar(select(metric.c.id).where(metric.c.name == name))
        columns = [rollup.c[n] for n in ("step", "seconds", "minimum", "maximum", "last", "count")]
        for level, width in enumerate(WIDTHS):
            of_level = (rollup.c.run_id == run_id, rollup.c.metric_id == metric_id, rollup.c.level == level)
            query = select(*columns).where(*of_level).order_by(rollup.c.bucket)
            stored = [Bucket(*row) for row in connection.execute(query)]
            passed = {step: v for step, v in values.items() if step // width < newest // width}
            assert stored == expected(passed, lambda step, width=width: step // width), f"level {level}"
    for first, end in ((0, newest + 1), (31, 32), (700, 9_001), (newest - 40, newest + 1)):
        inside = {step: v for step, v in values.items() if first <= step < end}
        parts = read(db, run_id, first, end, len(WIDTHS) - 1, name)
        assert merged(parts, lambda step: 0) == (expected(inside, lambda step: 0) if inside else [])
    best = max(v for v in values.values() if v is not None and math.isfinite(v))
    assert bests(db, [run_id], name)[run_id] == best
    assert sparkline(db, [run_id], name)[run_id] == small(values)


def small(values):
    """The small curve of `values`, by definition: each bucket's last point with a value, and the newest point."""
    newest = max(values)
    width = next(1 << n for n in range(30) if newest // (1 << n) < POINTS)
    ends = {step // width: step for step in sorted(values) if values[step] is not None and math.isfinite(values[step])}
    pairs = {step: values[step] for step in ends.values()}
    last = values[newest]
    return sorted((pairs | {newest: last if last is not None and math.isfinite(last) else None}).items())


@pytest.mark.parametrize("every", [1, 7])
def test_stored_buckets_equal_the_points(db, new_run, every):
    id, random_ = new_run().id, random.Random(every)
    some = [*(random_.gauss(0, 1) for _ in range(50)), math.nan]
    values = {step: random_.choice(some) for step in range(3, 9_500, every)}
    write(db, id, values)
    assert_sound(db, id, values)


def test_buckets_of_many_metrics_do_not_mix(db, new_run):
    ids = [new_run().id, new_run().id]
    for id in ids:
        for step in range(0, 1100, 50):
            steps = range(step, step + 50)
            flush(db, id, [Point(f"m{k}", s, s * 0.5, float(s * k + id)) for k in range(3) for s in steps])
    for id in ids:
        for k in range(3):
            assert_sound(db, id, {s: float(s * k + id) for s in range(1100)}, f"m{k}")


def test_a_resumed_run_that_writes_again_leaves_no_trace_of_the_old_values(db, new_run):
    id = new_run().id
    values = {step: float(step % 100) for step in range(1500)}
    values[640], values[829] = 1e6, -1e6  # spikes that the second time does not make
    write(db, id, values)
    assert bests(db, [id], "m") == {id: 1e6}
    again = {step: 0.5 for step in range(600, 900)}
    for step, value in again.items():  # step by step, as a run does
        flush(db, id, [Point("m", step, step * 0.5, value)])
    assert_sound(db, id, values | again)


def test_replay_in_any_order_and_batch(db, new_run):
    id, random_ = new_run().id, random.Random(1)
    values = {step: random_.random() for step in range(1700)}
    shuffled = list(values.items())
    random_.shuffle(shuffled)
    write(db, id, dict(shuffled), batch=97)
    write(db, id, dict(shuffled[:500]), batch=41)
    assert_sound(db, id, values)


LONG = 45_000


@pytest.fixture
def long_run(db, new_run):
    """A run of LONG steps of one metric, all 1.0, and a function that puts a value somewhere as a run would."""
    id = new_run().id
    flush(db, id, [Point("m", step, step * 0.5, 1.0) for step in range(LONG)])
    return id


def test_an_outlier_of_one_step_is_never_lost(db, long_run):
    random_ = random.Random(11)
    for position in [0, LONG - 1, *(random_.randrange(LONG) for _ in range(25))]:
        flush(db, long_run, [Point("m", position, position * 0.5, -77.0)])
        for buckets in (1, 40, 600, 1000):
            curve = series(db, long_run, "m", buckets=buckets)
            assert len(curve) <= buckets
            assert [b.minimum for b in curve].count(-77.0) == 1, (position, buckets)
            assert sum(b.count for b in curve) == LONG
        low, high = max(0, position - random_.randrange(20_000)), position + random_.randrange(20_000)
        zoomed = series(db, long_run, "m", low, high, 300)
        assert min(b.minimum for b in zoomed) == -77.0
        assert sum(b.count for b in zoomed) == min(high, LONG - 1) - low + 1
        flush(db, long_run, [Point("m", position, position * 0.5, 1.0)])
        assert min(b.minimum for b in series(db, long_run, "m")) == 1.0


def test_a_long_curve_reads_buckets_and_not_points(db, long_run):
    with db.write() as connection:  # points that only a reader of points would see
        connection.execute(point.update().where(point.c.step < LONG - 10_000).values(value=5.0))
    assert {b.maximum for b in series(db, long_run, "m", high=LONG - 10_001)[1:-1]} == {1.0}


def test_sparklines_of_long_and_short_runs(db, new_run, long_run):
    short, empty, gaps = new_run().id, new_run().id, new_run().id
    write(db, short, {step: float(step) for step in range(5, 300, 5)})
    write(db, gaps, {step: math.nan for step in range(3)})
    flush(db, long_run, [Point("m", LONG + 3, 0.0, 9.0)])
    lines = sparkline(db, [short, long_run, empty, gaps], "m")
    assert lines[empty] == []
    assert lines[gaps] == [(2, None)]
    assert lines[short][-1] == (295, 295.0) and 20 <= len(lines[short]) <= 40
    assert lines[long_run][-1] == (LONG + 3, 9.0) and 20 <= len(lines[long_run]) <= 40
    for line in lines.values():
        assert line == sorted(line)
