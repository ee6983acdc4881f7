"""Points: replay is harmless, odd values become gaps, deltas miss nothing, buckets keep spikes."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.completions import Completion, completions_of
from storage.metrics import Point, Progress, flush, newest_cursor, points_after, series
from storage.rollups import Bucket
from storage.run_list import bests, latest, sparkline
from storage.runs import get_run
from tests.statements import selects, statements_to


def curve(values, metric="reward/mean", start=0):
    return [Point(metric, step, float(step), value) for step, value in enumerate(values, start)]


def test_what_is_flushed_is_read_back(db, new_run):
    id = new_run(status="running").id
    points = [*curve([0.25, 0.5]), *curve([3.0], "lr")]
    shown = Completion(1, "held_out", 0, "1+1=", "3", "2", 0.0, "wrong digit", "[[1, 0, 5, 0.9]]")
    flush(db, id, points, [shown], Progress("training", 2, 60, 1.5, 2, 1.25))
    assert points_after(db, id, 0) == (points, 3)
    assert completions_of(db, id) == [shown]
    run = get_run(db, id)
    assert (run.phase, run.phase_done, run.phase_total, run.phase_rate) == ("training", 2, 60, 1.5)
    assert (run.step, run.seconds) == (2, 1.25)
    assert run.heartbeat_at >= run.created_at


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float32("nan"), None])
def test_values_that_are_no_number_become_gaps(db, new_run, value):
    id = new_run().id
    flush(db, id, curve([1.0, value, 3.0]), [], Progress("training", 0, 1, math.inf, 1, 0.0))
    assert [point.value for point in points_after(db, id, 0)[0]] == [1.0, None, 3.0]
    assert [bucket.last for bucket in series(db, id, "reward/mean")] == [1.0, None, 3.0]
    assert get_run(db, id).phase_rate is None


def test_numpy_scalars_are_stored_as_numbers(db, new_run):
    id = new_run().id
    flush(db, id, [Point("lr", np.int64(3), np.float32(0.5), np.float32(0.25))])
    assert points_after(db, id, 0)[0] == [Point("lr", 3, 0.5, 0.25)]


def test_replay_changes_nothing_but_the_cursor(db, new_run):
    id = new_run().id
    points, shown = curve([1.0, 2.0]), [Completion(0, "held_out", 0, "p", "c", "e", 1.0, "", "[]")]
    for _ in range(3):
        flush(db, id, points, shown)
    assert points_after(db, id, 4) == (points, 6)
    assert points_after(db, id, 0) == (points, 6)  # each once, although written three times
    assert completions_of(db, id) == shown


def test_a_metric_twice_in_one_flush_keeps_the_last(db, new_run):
    id = new_run().id
    flush(db, id, [Point("lr", 1, 0.0, 1.0), Point("lr", 1, 0.0, 2.0)])
    assert [point.value for point in points_after(db, id, 0)[0]] == [2.0]


def test_a_cursor_sees_each_point_once_in_order(db, new_run):
    id, other = new_run().id, new_run().id
    flush(db, id, curve([0.0, 1.0, 2.0]))
    flush(db, other, curve([9.0]))
    first, cursor = points_after(db, id, 0)
    assert len(first) == 3
    assert points_after(db, id, cursor) == ([], cursor)
    flush(db, id, curve([3.0], start=3))
    assert points_after(db, id, cursor)[0] == curve([3.0], start=3)


def test_newest_cursor_is_behind_everything(db, new_run):
    id = new_run().id
    assert newest_cursor(db, id) == 0
    flush(db, id, curve([0.0, 1.0]))
    flush(db, id, curve([5.0]))  # written again
    assert newest_cursor(db, id) == points_after(db, id, 0)[1] == 3


def test_a_limited_delta_goes_on_where_it_stopped(db, new_run):
    id = new_run().id
    points = curve([float(i) for i in range(10)])
    flush(db, id, points)
    seen, cursor = [], 0
    while True:
        part, cursor = points_after(db, id, cursor, limit=3)
        if not part:
            break
        assert len(part) <= 3
        seen += part
    assert seen == points


def test_a_resumed_run_that_writes_steps_again_is_seen(db, new_run):
    id = new_run().id
    flush(db, id, curve([0.0, 0.1, 0.2, 0.3]))
    cursor = points_after(db, id, 0)[1]
    again = curve([7.0, 8.0], start=2)
    flush(db, id, again)
    assert points_after(db, id, cursor)[0] == again
    assert [bucket.last for bucket in series(db, id, "reward/mean")] == [0.0, 0.1, 7.0, 8.0]


batches = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 5), st.floats(-9, 9)), max_size=6)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps=st.lists(st.tuples(batches, st.booleans(), st.integers(1, 4)), max_size=8))
def test_a_reader_that_follows_ends_with_what_is_stored(db, new_run, steps):
    id, cursor, copy, truth = new_run().id, 0, {}, {}
    for batch, polls, limit in [*steps, ([], True, 100)]:
        flush(db, id, [Point(metric, step, 0.0, value) for metric, step, value in batch])
        truth |= {(metric, step): value for metric, step, value in batch}
        if polls:
            part, cursor = points_after(db, id, cursor, limit)
            copy |= {(point.metric, point.step): point.value for point in part}
    assert copy == truth


def test_buckets_keep_minimum_maximum_and_last(db, new_run):
    id = new_run().id
    values = [math.sin(step / 50) for step in range(1000)]
    values[333], values[777], values[999] = 50.0, -50.0, math.nan
    flush(db, id, curve(values))
    buckets = series(db, id, "reward/mean", buckets=10)
    assert len(buckets) == 10
    assert [b.step for b in buckets] == [99, 199, 299, 399, 499, 599, 699, 799, 899, 998]
    assert [b.count for b in buckets] == [100] * 9 + [99]
    assert (buckets[3].maximum, buckets[7].minimum) == (50.0, -50.0)
    assert buckets[0] == Bucket(99, 99.0, min(values[:100]), max(values[:100]), values[99], 100)
    assert buckets[9].last == values[998]


def test_a_zoom_reads_only_its_steps(db, new_run):
    id = new_run().id
    flush(db, id, [*curve([float(step) for step in range(100)]), *curve([-1.0] * 100, "lr")])
    assert [b.last for b in series(db, id, "reward/mean", 40, 44, 100)] == [40.0, 41.0, 42.0, 43.0, 44.0]
    assert [b.last for b in series(db, id, "reward/mean", low=97)] == [97.0, 98.0, 99.0]
    assert [b.last for b in series(db, id, "reward/mean", high=1)] == [0.0, 1.0]
    assert series(db, id, "reward/mean", 200, 300) == []
    assert series(db, id, "never/logged") == []
    with pytest.raises(ValueError, match="buckets must be at least 1, not 0"):
        series(db, id, "lr", buckets=0)


@pytest.mark.parametrize("count", [1, 2, 39, 40, 41, 81, 1000])
def test_a_sparkline_has_at_most_its_points_and_ends_with_the_last(db, new_run, count):
    id, empty = new_run().id, new_run().id
    flush(db, id, curve([float(step) for step in range(count)]))
    line = sparkline(db, [id, empty], "reward/mean")
    assert line[empty] == []
    assert min(count, 20) <= len(line[id]) <= 40
    assert line[id] == sorted(line[id])
    assert line[id][-1] == (count - 1, float(count - 1))


def test_latest_is_the_highest_step_whatever_came_last(db, new_run):
    id, other = new_run().id, new_run().id
    flush(db, id, [*curve([1.0, 2.0, 3.0]), *curve([math.nan], "lr")])
    flush(db, id, curve([9.0], start=1))  # replayed after an outage
    assert latest(db, [id, other]) == {id: {"reward/mean": (2, 3.0), "lr": (0, None)}, other: {}}
    flush(db, id, curve([4.0], start=2))
    assert latest(db, [id])[id]["reward/mean"] == (2, 4.0)


def test_list_pages_cost_a_few_queries_for_all_runs(db, new_run):
    ids = [new_run().id for _ in range(20)]
    for id in ids:
        flush(db, id, curve([1.0, 2.0]))
    with statements_to(db) as statements:
        assert latest(db, ids) == {id: {"reward/mean": (1, 2.0)} for id in ids}
        assert len(sparkline(db, ids, "reward/mean")) == 20
        assert bests(db, ids, "reward/mean") == dict.fromkeys(ids, 2.0)
    assert 3 <= len(selects(statements)) <= 4


def test_a_failed_flush_leaves_nothing_behind(db, new_run):
    id = new_run().id
    broken = Completion(1, "held_out", 0, None, "c", "e", 1.0, "", "[]")
    with pytest.raises(Exception, match=r"NOT NULL|not-null"):
        flush(db, id, curve([1.0]), [broken], Progress("training", 1, 60, None, 1, 1.0))
    assert points_after(db, id, 0) == ([], 0)
    assert get_run(db, id).step == 0
