"""What `storage/` does at scale, by hand for one bare `sqlite3` connection: the reference of benchmarks.storage.

The SQL of somebody who knows the tables, prepared once by the driver's own cache, without transactions around single
reads. Each function gives what its counterpart in `storage/` gives, so both do the same work; the benchmark checks it.
"""

from __future__ import annotations

import json
import struct
import time
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from sqlalchemy import Connection

from storage.database import sqlite_module
from storage.metrics import Point
from storage.rollouts import Rollout, run_range
from storage.rollups import WIDTHS, Bucket, level_for, merged
from storage.runs import Run

# a bucket that has just been passed, of all metrics at once; `last` is that of the last point that has a value
FROM_POINTS = """
INSERT OR REPLACE INTO rollup
SELECT ?1, p.metric_id, ?2, p.step / ?3, p.step, p.seconds, g.low, g.high, p.value, g.points FROM (
    SELECT run_id, metric_id, coalesce(max(CASE WHEN value IS NOT NULL THEN step END), max(step)) AS step,
           min(value) AS low, max(value) AS high, count(value) AS points
    FROM point WHERE run_id = ?1 AND step BETWEEN ?4 AND ?5 AND metric_id IN ({marks}) GROUP BY run_id, metric_id
) g JOIN point p USING (run_id, metric_id, step)
"""
FROM_BUCKETS = """
INSERT OR REPLACE INTO rollup
SELECT ?1, r.metric_id, ?2, r.step / ?3, r.step, r.seconds, g.low, g.high, r.last, g.points FROM (
    SELECT run_id, metric_id, level, coalesce(max(CASE WHEN count > 0 THEN bucket END), max(bucket)) AS bucket,
           min(minimum) AS low, max(maximum) AS high, sum(count) AS points
    FROM rollup WHERE run_id = ?1 AND level = ?2 - 1 AND bucket BETWEEN ?4 / (?3 / 16) AND ?5 / (?3 / 16)
    AND metric_id IN ({marks}) GROUP BY run_id, metric_id, level
) g JOIN rollup r USING (run_id, metric_id, level, bucket)
"""
AFTER = """
SELECT name, step, seconds, value, sequence FROM point JOIN metric ON metric.id = metric_id
WHERE run_id = ? AND sequence > ? ORDER BY sequence LIMIT 20000
"""
GROUPED = """
SELECT r.step, r.seconds, g.low, g.high, r.last, g.points FROM (
    SELECT run_id, metric_id, level, coalesce(max(CASE WHEN count > 0 THEN bucket END), max(bucket)) AS bucket,
           min(minimum) AS low, max(maximum) AS high, sum(count) AS points
    FROM rollup WHERE run_id = ?1 AND metric_id = ?2 AND level = ?3 AND bucket < ?4
    GROUP BY run_id, metric_id, level, (bucket - ?5) / ?6
) g JOIN rollup r USING (run_id, metric_id, level, bucket) ORDER BY r.bucket
"""
BUCKETS = """
SELECT step, seconds, minimum, maximum, last, count FROM rollup
WHERE run_id = ? AND metric_id = ? AND level = ? AND bucket >= ? AND bucket < ? ORDER BY bucket
"""
POINTS = """
SELECT step, seconds, value, value, value, value IS NOT NULL FROM point
WHERE run_id = ? AND metric_id = ? AND step BETWEEN ? AND ? ORDER BY step
"""
ENDS = """
SELECT l.step, (SELECT step FROM point WHERE run_id = ?1 AND metric_id = ?2 ORDER BY step LIMIT 1),
       (SELECT step FROM point WHERE run_id = ?1 AND metric_id = ?2 ORDER BY step DESC LIMIT 1)
FROM latest l WHERE l.run_id = ?1 AND l.metric_id = ?2
"""
FOUND = """
SELECT r.step, r.problem_index, r.completion_index, g.prompt, r.completion, g.expected, r.reward, r.advantage, r.tokens,
       r.reason, r.parts, r.solved, r.id
FROM rollout r JOIN rollout_group g ON g.id = r.id - r.completion_index WHERE r.id IN ({ids}) ORDER BY r.id DESC
"""
BY_INDEX = FOUND.format(ids="SELECT rowid FROM rollout_text WHERE rollout_text MATCH ? AND rowid BETWEEN ? AND ?"
                            " ORDER BY rowid DESC LIMIT 51")  # fmt: skip
BY_READING = FOUND.format(ids="SELECT id FROM rollout WHERE completion LIKE ? AND id BETWEEN ? AND ?"
                              " ORDER BY id DESC LIMIT 51")  # fmt: skip

CURVES = """
SELECT l.run_id, l.step, l.value, s.pairs FROM latest l LEFT JOIN sparkline s ON s.run_id = l.run_id
AND s.metric_id = l.metric_id WHERE l.metric_id = ?
"""
LAST_OF_BUCKET = """
SELECT step, value FROM point WHERE run_id = ? AND metric_id = ? AND step >= ? AND step < ? AND value IS NOT NULL
ORDER BY step DESC LIMIT 1
"""
# of each bucket of the small curve of some runs, but for the newest, the last point with a value; ?1 to ?2 are the runs
ENDS_OF_BUCKETS = """
WITH RECURSIVE bucket (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM bucket WHERE number < 39),
curve AS (SELECT run_id, metric_id, step, {width} AS width FROM latest WHERE run_id BETWEEN ?1 AND ?2)
SELECT p.run_id, p.metric_id, p.step, p.value FROM (
    SELECT c.run_id, c.metric_id, (
        SELECT step FROM point q WHERE q.run_id = c.run_id AND q.metric_id = c.metric_id AND value IS NOT NULL
        AND step >= number * width AND step < (number + 1) * width ORDER BY step DESC LIMIT 1
    ) AS step FROM curve c JOIN bucket ON (number + 1) * width <= c.step
) CROSS JOIN point p USING (run_id, metric_id, step) ORDER BY p.run_id, p.metric_id, p.step
""".format(width="CASE " + " ".join(f"WHEN step < {40 << n} THEN {1 << n}" for n in range(26)) + " END")
PAIR = struct.Struct("<id")  # a step and its value


def fill_sparklines(connection: Connection, first: int, last: int) -> None:
    """The small curves of the runs `first` to `last`, whose points were written past the writer."""
    rows = connection.exec_driver_sql(ENDS_OF_BUCKETS, (first, last)).fetchall()
    made = [(*key, b"".join(PAIR.pack(*row[2:]) for row in curve))
            for key, curve in groupby(rows, lambda row: tuple(row[:2]))]  # fmt: skip
    connection.exec_driver_sql("INSERT OR REPLACE INTO sparkline VALUES (?, ?, ?)", made)


class BareSqlite:
    """One bare connection, set up like ours."""

    def __init__(self, path: Path):
        self.connection = sqlite_module.connect(path, timeout=30, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute("PRAGMA foreign_keys=ON")
        self.metrics = dict(self.all("SELECT name, id FROM metric"))

    def all(self, sql: str, *values: object) -> list[tuple]:
        return self.connection.execute(sql, values).fetchall()

    def write_step(self, run_id: int, step: int, seconds: float, values: dict[str, float], total: int) -> None:
        """As `flush` does it with a step's metrics and the run's progress."""
        execute, many = self.connection.execute, self.connection.executemany
        ids = [self.metrics[name] for name in values]
        marks = ",".join("?" * len(ids))
        execute("BEGIN IMMEDIATE")
        ((sequence, _),) = execute(
            "UPDATE run SET heartbeat_at = ?, step = ?, seconds = ?, phase = ?, phase_done = ?, phase_total = ?,"
            " phase_rate = ?, progress_at = ?, stall_after = ?, changes = changes + 1,"
            " point_sequence = point_sequence + ? WHERE id = ? RETURNING point_sequence, requested",
            (time.time(), step, seconds, "training", step, total, 1.0, None, None, len(ids), run_id),
        ).fetchall()
        new = dict(zip(ids, values.values()))
        many("INSERT INTO point VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, metric_id, step) DO UPDATE SET"
             " seconds = excluded.seconds, value = excluded.value, sequence = excluded.sequence",
             [(run_id, id, step, seconds, value, sequence - k) for k, (id, value) in enumerate(new.items())])
        known = execute("SELECT metric_id, step, value, minimum, maximum FROM latest WHERE run_id = ? AND metric_id IN"
                        f" ({marks})", (run_id, *ids)).fetchall()  # fmt: skip
        for level, width in enumerate(WIDTHS):
            if step % width:
                break
            source = FROM_BUCKETS if level else FROM_POINTS
            execute(source.format(marks=marks), (run_id, level, width, step - width, step - 1, *ids))
        many("INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, metric_id) DO UPDATE SET"
             " step = excluded.step, value = excluded.value, minimum = excluded.minimum, maximum = excluded.maximum",
             [(run_id, id, step, new[id], min(low, new[id]), max(high, new[id])) for id, _, _, low, high in known])
        width = 1 << (step // 40).bit_length()
        if step % width == 0:
            self.write_small_curves(run_id, ids, step, width)
        execute("COMMIT")

    def write_small_curves(self, run_id: int, ids: list[int], step: int, width: int) -> None:
        """Within the transaction: those of some metrics, which have just passed a bucket that is so wide."""
        for id in ids:
            stored = self.all("SELECT pairs FROM sparkline WHERE run_id = ? AND metric_id = ?", run_id, id)
            kept = {at // width: (at, value) for at, value in PAIR.iter_unpack(stored[0][0] if stored else b"")}
            for at, value in self.all(LAST_OF_BUCKET, run_id, id, step - width, step):
                kept[at // width] = at, value
            pairs = b"".join(PAIR.pack(*kept[bucket]) for bucket in sorted(kept))
            self.connection.execute("INSERT OR REPLACE INTO sparkline VALUES (?, ?, ?)", (run_id, id, pairs))

    def points_after(self, run_id: int, cursor: int) -> tuple[list[Point], int]:
        rows = self.all(AFTER, run_id, cursor)
        return [Point(name, step, seconds, value) for name, step, seconds, value, _ in rows], rows[-1][4]

    def series(self, run_id: int, name: str, buckets: int) -> list[Bucket]:
        """A whole long curve that begins at step 0: the level that is fine enough, grouped, and the rest."""
        metric_id = self.metrics[name]
        ((newest, first, last),) = self.all(ENDS, run_id, metric_id)
        level = level_for(-(-(last - first + 1) // buckets))
        width = WIDTHS[level]
        start = first // width
        together = -(-(last // width - start + 1) // buckets)
        whole = self.all(GROUPED, run_id, metric_id, level, newest // width, start, together)
        rest, begin = [], newest // width * width
        for lower in range(level - 1, -1, -1):
            low, high = begin // WIDTHS[lower], newest // WIDTHS[lower]
            rest += self.all(BUCKETS, run_id, metric_id, lower, low, high)
            begin = high * WIDTHS[lower]
        rest += self.all(POINTS, run_id, metric_id, begin, last)
        found = list(map(Bucket._make, whole[:-1]))
        seam = map(Bucket._make, [*whole[-1:], *rest])
        return found + merged(seam, lambda step: (step // width - start) // together)

    def search(self, run_id: int, text: str) -> tuple[list[Rollout], int | None]:
        """For texts that hold none of the characters that LIKE and FTS5 take for their own."""
        if len(text) > 2:
            rows = self.all(BY_INDEX, f'"{text}"', *run_range(run_id))
        else:
            rows = self.all(BY_READING, f"%{text}%", *run_range(run_id))
        found = [Rollout(*row[:10], json.loads(row[10]), "", bool(row[11])) for row in rows[:50]]
        return found, rows[49][12] if len(rows) > 50 else None

    def runs(self) -> list[Run]:
        columns = ", ".join(f"run.{field.name}" for field in fields(Run) if field.name != "queue_position")
        return [Run(*row) for row in self.all(
            f"SELECT {columns}, queue.place FROM run LEFT JOIN (SELECT id, row_number() OVER (ORDER BY priority DESC,"
            " position, id) AS place FROM run WHERE status = 'queued') queue ON queue.id = run.id ORDER BY run.id DESC"
        )]  # fmt: skip

    def listing(self, headline: str, second: str) -> tuple:
        """All runs, their newest values of two metrics, the best of the first and its curve in 40 points."""
        runs, metric_id = self.runs(), self.metrics[headline]
        newest: dict[int, dict] = {run.id: {} for run in runs}
        for run_id, name, step, value in self.all(
            "SELECT run_id, name, step, value FROM latest JOIN metric ON metric.id = metric_id WHERE name IN (?, ?)"
            " ORDER BY run_id, name", headline, second,
        ):
            newest[run_id][name] = (step, value)
        best = dict(self.all("SELECT run_id, maximum FROM latest WHERE metric_id = ?", metric_id))
        curves: dict[int, list] = {run.id: [] for run in runs}
        for run_id, step, value, pairs in self.all(CURVES, metric_id):
            curves[run_id] = [*PAIR.iter_unpack(pairs or b""), (step, value)]
        return runs, newest, best, curves
