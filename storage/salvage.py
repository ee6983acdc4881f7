"""Reads what can be read of a damaged SQLite file, row by row, and puts it into a new one.

SQLite stops at the first damaged page it meets. Rows are read in the order of their key, so after such a page reading
goes on behind it: the first key is looked for that can be reached again. Curves are written anew through
`storage.metrics`, which makes their buckets and newest values with them.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import Table, select

from storage.database import Database, sqlite_module
from storage.journal import read_alone
from storage.metrics import Point, flush
from storage.rollouts import judge_again
from storage.tables import metadata, run, sweep

_HIGHEST = 2**63 - 1
_BATCH = 5_000  # rows in one transaction
_MOST_METRICS = 1_000  # ids that are looked for where the table of names cannot be read
# leases are of processes that are gone; what is derived from points is made again with them
_NOT_COPIED = ("run", "lease", "metric", "point", "rollup", "latest", "sparkline")
_OTHERS = ("parent_id", "after_id", "sweep_id")  # of a run, which may be gone


def is_sound(path: Path, seconds: float | None = None) -> bool:
    """Whether SQLite finds no fault in the file; one that takes longer to look at than `seconds` passes for sound."""
    deadline = time.monotonic() + (seconds or float("inf"))
    try:
        with closing(sqlite_module.connect(path)) as connection:
            read_alone(connection, path)
            connection.set_progress_handler(lambda: time.monotonic() > deadline, 10_000)
            return connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
    except sqlite_module.OperationalError as error:
        return "interrupted" in str(error) or "locked" in str(error)
    except sqlite_module.DatabaseError:
        return False


class Wreck:
    """A damaged file, opened for reading; every method skips what cannot be read."""

    def __init__(self, path: Path):
        self._connection = sqlite_module.connect(path)
        read_alone(self._connection, path)
        self._connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        self.holes = 0  # places at which rows are missing

    def close(self) -> None:
        self._connection.close()

    def columns(self, table: str) -> list[str]:
        """The table's columns there, which may be those of an earlier version; none if it cannot be opened."""
        with suppress(sqlite_module.Error):
            return [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]
        return []

    def rows(self, table: Table) -> Iterator[dict[str, Any]]:
        """The rows of a table that has row numbers."""
        names = [name for name in self.columns(table.name) if name in table.columns]
        if names:
            query = f"SELECT rowid, {', '.join(names)} FROM {table.name} NOT INDEXED WHERE rowid >= ? AND rowid <= ?"
            for row in self._walk(f"{query} ORDER BY rowid", (), 0):
                yield dict(zip(names, row[1:]))

    def curve(self, run_id: int, metric_id: int, name: str) -> Iterator[Point]:
        """The points of one metric of one run."""
        query = "SELECT step, seconds, value FROM point WHERE run_id = ? AND metric_id = ? AND step >= ? AND step <= ?"
        for step, seconds, value in self._walk(f"{query} ORDER BY step", (run_id, metric_id), 0):
            yield Point(name, step, seconds, value)

    def metrics(self) -> dict[int, str]:
        """Names of metrics by id, which their index holds a second time.

        Where both have a hole, a name that says so for whatever id there may be.
        """
        before = self.holes
        names = {row["id"]: row["name"] for row in self.rows(metadata.tables["metric"])}
        if self.holes > before or not names:
            unknown = {id: f"recovered/metric_{id}" for id in range(1, _MOST_METRICS)}
            names = (self._metrics_of_index() or unknown) | names
        return names if self.columns("point") else {}

    def _metrics_of_index(self) -> dict[int, str]:
        """All of them, or none where the index cannot be read either."""
        try:
            return dict(self._connection.execute("SELECT id, name FROM metric INDEXED BY sqlite_autoindex_metric_1"))
        except sqlite_module.Error:
            return {}

    def _walk(self, query: str, prefix: tuple[int, ...], low: int) -> Iterator[tuple[Any, ...]]:
        """Rows by rising key, the first column; `query` ends with the key's bounds."""
        while True:
            stride = 1
            try:
                for row in self._connection.execute(query, (*prefix, low, _HIGHEST)):
                    yield row
                    stride, low = max(1, row[0] + 1 - low), row[0] + 1
                return
            except sqlite_module.Error:
                self.holes += 1
                found = self._behind(query, prefix, low, stride)
                if found is None:
                    return
                low = found

    def _behind(self, query: str, prefix: tuple[int, ...], bad: int, stride: int) -> int | None:
        """The first key behind the hole at `bad` that can be read again: strides that double, then halves."""

        def readable(key: int) -> bool:
            try:
                self._connection.execute(query, (*prefix, key, _HIGHEST)).fetchone()
            except sqlite_module.Error:
                return False
            return True

        while bad + stride <= _HIGHEST and not readable(bad + stride):
            bad, stride = bad + stride, 2 * stride
        good = bad + stride
        if good > _HIGHEST:
            return None
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if readable(middle) else (middle, good)
        return good


def salvage_runs(wreck: Wreck, db: Database) -> dict[int, dict[str, Any]]:
    """Puts the runs that can be read into the new, empty database; their rows by number."""
    runs = {row["id"]: row for row in wreck.rows(run)}
    _insert(db, run, (_alone(row) for row in runs.values()))
    return runs


def salvage_rest(wreck: Wreck, db: Database, runs: dict[int, dict[str, Any]], others: Collection[int] = ()
                 ) -> dict[str, int]:
    """Puts every other row that can be read beside the runs; how many there are, by table.

    Args:
        runs: what `salvage_runs` has read; others: runs that have got their row again by other means.
    """
    counts = {"run": len(runs)}
    for table in metadata.sorted_tables:
        if table.name not in _NOT_COPIED:
            rows = (row for row in wreck.rows(table) if row.get("run_id") in (None, *runs, *others))
            counts[table.name] = _insert(db, table, rows)
    _link(db, runs)
    if "solved" not in wreck.columns("rollout"):  # a file of an earlier version
        for run_id in (*runs, *others):
            judge_again(db, run_id)
    names = wreck.metrics()
    counts["point"] = sum(_curves(wreck, db, run_id, names) for run_id in (*runs, *others))
    with db.write() as connection:  # writing points was a sign of life, and there was none
        for run_id in (*runs, *others):
            beat = runs.get(run_id, {}).get("heartbeat_at")
            connection.execute(run.update().where(run.c.id == run_id).values(heartbeat_at=beat))
    return counts


def _alone(row: dict[str, Any]) -> dict[str, Any]:
    return row | {name: None for name in _OTHERS if name in row} | {"point_sequence": 0}


def _link(db: Database, runs: dict[int, dict[str, Any]]) -> None:
    """Puts back which runs and sweeps a run belongs to, now that those that are left are there."""
    with db.write() as connection:
        sweeps = set(connection.scalars(select(sweep.c.id)))
        for row in runs.values():
            there = {name: sweeps if name == "sweep_id" else runs for name in _OTHERS}
            links = {name: row[name] for name in _OTHERS if row.get(name) in there[name]}
            if links:
                connection.execute(run.update().where(run.c.id == row["id"]).values(links))


def _insert(db: Database, table: Table, rows: Iterator[dict[str, Any]]) -> int:
    """Rows as they are stored, without the types' conversions; those that the table would refuse are left out."""
    count = 0
    while batch := list(islice(rows, _BATCH)):
        names = list(batch[0])
        places = ", ".join("?" * len(names))
        statement = f"INSERT OR IGNORE INTO {table.name} ({', '.join(names)}) VALUES ({places})"
        with db.write() as connection:
            for row in batch:
                count += connection.exec_driver_sql(statement, tuple(row.values())).rowcount
    return count


def _curves(wreck: Wreck, db: Database, run_id: int, names: dict[int, str]) -> int:
    count = 0
    points = (point for metric_id, name in names.items() for point in wreck.curve(run_id, metric_id, name))
    while batch := list(islice(points, _BATCH)):
        flush(db, run_id, batch)
        count += len(batch)
    return count
