"""Storage at scale, each figure beside bare `sqlite3` doing the same work on the same file (bare_sqlite.py).

    python -m benchmarks.storage            1,000,000 steps x 20 metrics, 500 runs, 100,000 completions; some minutes
    python -m benchmarks.storage --json --steps 100000

A multiple of 1 means that nothing is lost to the layers above SQLite. What both give is compared before it is timed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bare_sqlite import BareSqlite, fill_sparklines
from storage.database import Database, open_database, sqlite_module, sqlite_url
from storage.metrics import Point, Progress, flush, points_after, series
from storage.rollouts import Rollout, write_rollouts
from storage.rollups import WIDTHS
from storage.run_list import bests, latest, sparkline
from storage.runs import create_run, list_runs
from storage.search import search_rollouts

METRICS = 20
RUNS = 500
COMPLETIONS = 100_000
SHORT_STEPS, EVAL_EVERY = 600, 5  # of the other runs
HEADLINE, SECOND = "m0", "m1"
LIMITS_MS = {"write_step_p95": 2.0, "newest_points": 5.0, "whole_series": 50.0, "search": 50.0, "list_runs": 50.0}
TEXTS = ("needle", "lation bell", "notfound", "ten", "k")  # rare, some, none, very many, too short for the index


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the long run, at least 33,000 (default: %(default)s)")
    parser.add_argument("--metrics", type=int, default=METRICS, help="of each run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=RUNS, help="default: %(default)s")
    parser.add_argument("--completions", type=int, default=COMPLETIONS, help="default: %(default)s")
    parser.add_argument("--repeat", type=int, default=40, help="times that each read is taken (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(sqlite_url(Path(folder) / "bgpo.db"))
        long_run = fill(db, Path(folder), options)
        found = measure(db, BareSqlite(db.path), long_run, options.steps, options.repeat)
        size = sum(path.stat().st_size for path in Path(folder).glob("bgpo.db*"))
        db.close()
    report = {
        "steps": options.steps, "metrics": options.metrics, "runs": options.runs, "completions": options.completions,
        "file_mb": round(size / 1e6), "cores": len(os.sched_getaffinity(0)), "sqlite": sqlite_module.sqlite_version,
        "targets": found,
    }
    print(json.dumps(report) if options.json else table(report))


def table(report: dict) -> str:
    lines = [f"{report['steps']:,} steps x {report['metrics']} metrics, {report['runs']:,} runs, "
             f"{report['completions']:,} completions, {report['file_mb']:,} MB; {report['cores']} cores, SQLite {report['sqlite']}", "", "| target | limit ms | ms | bare sqlite3 ms | multiple |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {t['name']} | {t['limit_ms']:g} | {t['ms']:.2f} | {t['reference_ms']:.2f} | {t['multiple']:.2f} |"
        for t in report["targets"]
    ]
    return "\n".join(lines)


# ---- what is measured on

def fill(db: Database, folder: Path, options: argparse.Namespace) -> int:
    """All runs, one of them long; returns its id. The long one is written in SQL: the way it came is not measured."""
    steps = options.steps
    runs = [create_run(db, name=f"run {k}", config_json=json.dumps({"seed": k, "pad": "x" * 1500}), train_steps=steps,
                       runs_folder=folder / "runs").id for k in range(options.runs)]  # fmt: skip
    long_run = runs[-1]
    for run_id in runs[:-1]:
        points = [Point(HEADLINE, step, step * 0.5, random.random()) for step in range(0, SHORT_STEPS, EVAL_EVERY)]
        flush(db, run_id, points + [Point(f"m{k}", SHORT_STEPS, 1.0, 0.5) for k in range(1, options.metrics)])
    write_curves(db, long_run, steps, options.metrics)
    write_completions(db, long_run, options.completions)
    return long_run


def write_curves(db: Database, run_id: int, steps: int, metrics: int) -> None:
    """Every point of so many metrics, those with the lowest ids, and the pyramid over them."""
    with db.write() as connection:
        for (id,) in connection.exec_driver_sql("SELECT id FROM metric ORDER BY id LIMIT ?", (metrics,)).fetchall():
            connection.exec_driver_sql(
                "WITH RECURSIVE s(step) AS (SELECT 0 UNION ALL SELECT step + 1 FROM s WHERE step < ?) INSERT INTO point"
                " SELECT ?, ?, step, step * 0.5, (step * 7919 % 1000) / 1000.0, step * ? + ? FROM s",
                (steps - 1, run_id, id, metrics, id),
            )
    build_pyramid(db, run_id, steps, metrics)


def build_pyramid(db: Database, run_id: int, steps: int, metrics: int) -> None:
    """What the writer would have kept of the long run: buckets, newest values, small curves."""
    with db.write() as connection:
        for level, width in enumerate(WIDTHS):
            connection.exec_driver_sql(
                "INSERT INTO rollup SELECT run_id, metric_id, ?, step / ?, max(step), seconds, min(value), max(value), value,"
                " count(value) FROM point WHERE run_id = ? AND step / ? < ? GROUP BY run_id, metric_id, step / ?",
                (level, width, run_id, width, (steps - 1) // width, width),
            )
        connection.exec_driver_sql(
            "INSERT INTO latest SELECT run_id, metric_id, max(step), value, 0, 0.999 FROM point WHERE run_id = ?"
            " GROUP BY metric_id", (run_id,)
        )
        connection.exec_driver_sql("UPDATE run SET point_sequence = ? WHERE id = ?", (steps * metrics + 50, run_id))
        fill_sparklines(connection, run_id, run_id)


def write_completions(db: Database, run_id: int, count: int, group: int = 8, per_step: int = 128) -> None:
    words = [f"{a}{b}{c}" for a in "bcdfgklmnprst" for b in "aeiou" for c in ("n", "r", "s", "ll", "tion", "ck")]
    random_ = random.Random(3)
    for step in range(-(-count // per_step)):
        rows = [
            Rollout(step, row // group, row % group, f"prompt {row // group} of {step}",
                    " ".join(random_.choices(words, k=40)) + (" needle" if random_.random() < 2e-4 else ""),
                    "42", float(row % 2), 0.5, 60, "wrong", {"correct": float(row % 2)}, "[]")
            for row in range(min(per_step, count - step * per_step))
        ]  # fmt: skip
        with db.write() as connection:
            write_rollouts(connection, run_id, rows)


# ---- the measures

def measure(db: Database, bare: BareSqlite, run_id: int, steps: int, repeat: int) -> list[dict]:
    def target(name: str, ours: float, reference: float) -> dict:
        return {"name": name, "limit_ms": LIMITS_MS[name], "ms": round(ours, 3), "reference_ms": round(reference, 3),
                "multiple": round(ours / reference, 2)}

    found = [target("write_step_p95", *writes(db, bare, run_id, steps))]
    for name, (ours, reference) in reads(db, bare, run_id).items():
        if ours() != reference():
            raise SystemExit(f"{name}: storage and bare sqlite3 do not give the same, so they cannot be compared")
        found.append(target(name, *alternating(ours, reference, repeat)))
    return found


def reads(db: Database, bare: BareSqlite, run_id: int) -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Each read, ours and bare."""
    ((last,),) = bare.all("SELECT point_sequence FROM run WHERE id = ?", run_id)
    cursor = last - 5 * len(bare.metrics)
    return {
        "newest_points": (lambda: points_after(db, run_id, cursor), lambda: bare.points_after(run_id, cursor)),
        "whole_series": (lambda: series(db, run_id, HEADLINE, buckets=1000), lambda: bare.series(run_id, HEADLINE, 1000)),
        "search": (
            lambda: [search_rollouts(db, run_id, text) for text in TEXTS],
            lambda: [bare.search(run_id, text) for text in TEXTS],
        ),
        "list_runs": (lambda: listing(db), lambda: bare.listing(HEADLINE, SECOND)),
    }


def listing(db: Database) -> tuple:
    """What the list of runs shows: their rows, two newest values, the best and a small curve."""
    runs = list_runs(db)
    ids = [run.id for run in runs]
    return runs, latest(db, ids, (HEADLINE, SECOND)), bests(db, ids, HEADLINE), sparkline(db, ids, HEADLINE)


def alternating(ours: Callable[[], object], reference: Callable[[], object], repeat: int) -> tuple[float, float]:
    """The least milliseconds of both: whatever else the machine does only adds. Taken in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for kept, work in zip(times, (ours, reference)):
            start = time.perf_counter()
            work()
            kept.append((time.perf_counter() - start) * 1000)
    return min(times[0]), min(times[1])


def writes(db: Database, bare: BareSqlite, run_id: int, steps: int, count: int = 600) -> tuple[float, float]:
    """95th percentile of writing one step, ours and bare, while another process keeps reading what is new."""
    ours, reference = [], []
    names = list(bare.metrics)
    with reader(db, run_id, steps * len(names)):
        for step in range(steps, steps + 2 * count):
            start = time.perf_counter()
            if step // 32 % 2:  # in turns, each with its share of the steps that complete a bucket
                progress = Progress("training", step, 10**7, 1.0, step, step * 0.5)
                flush(db, run_id, [Point(name, step, step * 0.5, 0.5) for name in names], progress=progress)
            else:
                bare.write_step(run_id, step, step * 0.5, dict.fromkeys(names, 0.5), 10**7)
            (ours if step // 32 % 2 else reference).append((time.perf_counter() - start) * 1000)
    return statistics.quantiles(ours, n=20)[-1], statistics.quantiles(reference, n=20)[-1]


READER = """
import sys, time
from storage.database import Database
from storage.metrics import points_after
db, run_id, cursor = Database(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
while True:
    _, cursor = points_after(db, run_id, cursor)
    print(cursor, flush=True)
    time.sleep(0.02)
"""


@contextmanager
def reader(db: Database, run_id: int, cursor: int) -> Iterator[None]:
    """A page that looks fifty times a second."""
    command = [sys.executable, "-c", READER, db.url, str(run_id), str(cursor)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0) as process:
        try:
            process.stdout.readline()  # it has begun
            with open(os.devnull, "wb") as nowhere:
                drain = subprocess.Popen(["cat"], stdin=process.stdout, stdout=nowhere)
            yield
        finally:
            process.kill()
            drain.wait()


if __name__ == "__main__":
    main()
