"""The small curve of a list equals the points, however they were written, and costs no look at them."""

import math
import random

import pytest

from storage import sparklines
from storage.metrics import Point, flush
from storage.run_list import sparkline
from storage.sparklines import POINTS, width_of
from storage.tables import point
from tests.storage.test_rollups import small


def test_the_newest_step_is_in_one_of_the_buckets_and_they_are_not_too_wide():
    for newest in [*range(2000), 10**6, 2**31 - 1]:
        width = width_of(newest)
        assert newest // width < POINTS
        assert width == 1 or newest // (width // 2) >= POINTS


@pytest.mark.parametrize("seed", range(6))
def test_small_curves_equal_the_points_at_every_moment(db, new_run, seed):
    """Steps forward and back, gaps, several at once in any order, two metrics in step and one that lags."""
    chance, id = random.Random(seed), new_run().id
    values: dict[str, dict[int, float]] = {"a": {}, "b": {}}
    step = chance.randrange(50)
    for _ in range(60):
        step = max(0, step + chance.choice((1, 1, 1, 2, 7, 60, -1, -30)))
        steps = {step, *(max(0, step - chance.randrange(12)) for _ in range(chance.randrange(4)))}
        new = {(name, s): chance.choice((chance.gauss(0, 1), chance.gauss(0, 1), math.nan))
               for name in ("a", "b")[: 1 + (step % 3 > 0)] for s in steps}  # fmt: skip
        for (name, s), value in new.items():
            values[name][s] = value
        flush(db, id, [Point(name, s, 0.0, value) for (name, s), value in new.items()])
        for name, known in values.items():
            if known:
                assert sparkline(db, [id], name)[id] == small(known)


def test_a_gap_that_fills_a_bucket_leaves_nothing_of_the_value_it_replaces(db, new_run):
    id = new_run().id
    flush(db, id, [Point("m", step, 0.0, float(step)) for step in range(100)])  # 25 buckets of 4
    flush(db, id, [Point("m", step, 0.0, math.nan) for step in range(40, 44)])
    assert [step for step, _ in sparkline(db, [id], "m")[id]] == [*range(3, 40, 4), *range(47, 100, 4)]


def test_a_list_of_small_curves_reads_no_point(db, new_run):
    ids = [new_run().id for _ in range(3)]
    for id in ids:
        flush(db, id, [Point("m", step, 0.0, 1.0) for step in range(100)])
    with db.write() as connection:  # points that only a reader of points would see
        connection.execute(point.update().values(value=5.0))
    assert {value for line in sparkline(db, ids, "m").values() for _, value in line} == {1.0}


def test_only_the_end_of_a_bucket_writes_a_small_curve(db, new_run, monkeypatch):
    id, written = new_run().id, []
    flush(db, id, [Point("m", step, 0.0, 1.0) for step in range(5_000)])
    monkeypatch.setattr(sparklines, "upsert_plain", lambda *row: written.append(row))
    for step in range(5_090, 5_120):  # buckets are 128 wide
        flush(db, id, [Point("m", step, 0.0, 1.0)])
    assert written == []
    flush(db, id, [Point("m", 5_120, 0.0, 1.0)])
    assert len(written) == 1
