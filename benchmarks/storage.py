"""Storage at scale, each figure beside bare `sqlite3` doing the same work on the same file.

    python -m benchmarks.storage            1,000,000 steps x 20 metrics, 500 runs, 100,000 completions; some minutes
    python -m benchmarks.storage --json --steps 100000

A multiple of 1 means that nothing is lost to the layers above SQLite. The reference is the hand-written SQL of an
expert for the same tables, its statements and rows prepared beforehand.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

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
HEADLINE = "m0"
LIMITS_MS = {"write_step_p95": 2.0, "newest_points": 5.0, "whole_series": 50.0, "search": 50.0, "list_runs": 50.0}


class Reference:
    """One bare connection, set up like ours."""

    def __init__(self, path: Path):
        self.connection = sqlite_module.connect(path, timeout=30, isolation_level=None)
        self.connection.execute("PRAGMA journal_mode=WAL")
        self.connection.execute("PRAGMA synchronous=NORMAL")
        self.connection.execute("PRAGMA foreign_keys=ON")

    def all(self, sql: str, *values: object) -> list[tuple]:
        return self.connection.execute(sql, values).fetchall()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000_000, help="of the long run (default: %(default)s)")
    parser.add_argument("--completions", type=int, default=COMPLETIONS, help="default: %(default)s")
    parser.add_argument("--repeat", type=int, default=40, help="times that each read is taken (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        db = open_database(sqlite_url(Path(folder) / "bgpo.db"))
        long_run = fill(db, Path(folder), options.steps, options.completions)
        found = measure(db, Reference(db.path), long_run, options.steps, options.repeat)
        size = sum(path.stat().st_size for path in Path(folder).glob("bgpo.db*"))
        db.close()
    report = {"steps": options.steps, "completions": options.completions, "file_mb": round(size / 1e6), "targets": found}
    print(json.dumps(report) if options.json else table(report))


def table(report: dict) -> str:
    lines = [f"{report['steps']:,} steps x {METRICS} metrics, {RUNS} runs, {report['completions']:,} completions, "
             f"{report['file_mb']:,} MB", "", "| target | limit ms | ms | bare sqlite3 ms | multiple |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {t['name']} | {t['limit_ms']:g} | {t['ms']:.2f} | {t['reference_ms']:.2f} | {t['multiple']:.2f} |"
        for t in report["targets"]
    ]
    return "\n".join(lines)


# ---- what is measured on

def fill(db: Database, folder: Path, steps: int, completions: int) -> int:
    """500 runs, one of them long; returns its id. The long one is written in SQL: the way it came is not measured."""
    runs = [create_run(db, name=f"run {k}", config_json=json.dumps({"seed": k, "pad": "x" * 1500}), train_steps=steps,
                       runs_folder=folder / "runs").id for k in range(RUNS)]  # fmt: skip
    long_run = runs[-1]
    for run_id in runs[:-1]:
        points = [Point(HEADLINE, step, step * 0.5, random.random()) for step in range(0, SHORT_STEPS, EVAL_EVERY)]
        flush(db, run_id, points + [Point(f"m{k}", SHORT_STEPS, 1.0, 0.5) for k in range(1, METRICS)])
    with db.write() as connection:
        ids = dict(connection.exec_driver_sql("SELECT name, id FROM metric").fetchall())
        for name in sorted(ids):
            connection.exec_driver_sql(
                "WITH RECURSIVE s(step) AS (SELECT 0 UNION ALL SELECT step + 1 FROM s WHERE step < ?) INSERT INTO point"
                " SELECT ?, ?, step, step * 0.5, (step * 7919 % 1000) / 1000.0, step * ? + ? FROM s",
                (steps - 1, long_run, ids[name], METRICS, ids[name]),
            )
    build_pyramid(db, long_run, steps)
    write_completions(db, long_run, completions)
    return long_run


def build_pyramid(db: Database, run_id: int, steps: int) -> None:
    """What the writer would have kept of the long run."""
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
        connection.exec_driver_sql("UPDATE run SET point_sequence = ? WHERE id = ?", (steps * METRICS + 50, run_id))


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

def measure(db: Database, bare: Reference, run_id: int, steps: int, repeat: int) -> list[dict]:
    def target(name: str, ours: float, reference: float) -> dict:
        return {"name": name, "limit_ms": LIMITS_MS[name], "ms": round(ours, 3), "reference_ms": round(reference, 3),
                "multiple": round(ours / reference, 2)}

    found = [target("write_step_p95", *writes(db, bare, run_id, steps))]
    reads = {
        "newest_points": (newest_points(db, run_id), bare_newest_points(bare, run_id)),
        "whole_series": (lambda: series(db, run_id, HEADLINE, buckets=1000), bare_series(bare, run_id, steps)),
        "search": (searches(db, run_id), bare_searches(bare)),
        "list_runs": (listing(db), bare_listing(bare)),
    }
    return found + [target(name, *alternating(ours, reference, repeat)) for name, (ours, reference) in reads.items()]


def alternating(ours: Callable[[], object], reference: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Median milliseconds of both, taken in turns so that a busy moment meets both."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        for kept, work in zip(times, (ours, reference)):
            start = time.perf_counter()
            work()
            kept.append((time.perf_counter() - start) * 1000)
    return statistics.median(times[0]), statistics.median(times[1])


def writes(db: Database, bare: Reference, run_id: int, steps: int, count: int = 600) -> tuple[float, float]:
    """95th percentile of writing one step, ours and bare, while a thread with its own connection keeps reading."""
    done = threading.Event()

    def reader() -> None:
        cursor = steps * METRICS
        while not done.is_set():
            _, cursor = points_after(db, run_id, cursor)
            time.sleep(0.02)

    thread = threading.Thread(target=reader)
    thread.start()
    ours, reference = [], []
    names = [f"m{k}" for k in range(METRICS)]
    ids = dict(bare.all("SELECT name, id FROM metric"))
    for step in range(steps, steps + 2 * count):
        kept, write = (ours, flush_step) if step % 2 else (reference, bare_step)
        start = time.perf_counter()
        write(db, bare, run_id, step, names, ids)
        kept.append((time.perf_counter() - start) * 1000)
    done.set()
    thread.join()
    return statistics.quantiles(ours, n=20)[-1], statistics.quantiles(reference, n=20)[-1]


def flush_step(db: Database, bare: Reference, run_id: int, step: int, names: list[str], ids: dict[str, int]) -> None:
    progress = Progress("training", step, 10**7, 1.0, step, step * 0.5)
    flush(db, run_id, [Point(name, step, step * 0.5, 0.5) for name in names], progress=progress)


def bare_step(db: Database, bare: Reference, run_id: int, step: int, names: list[str], ids: dict[str, int]) -> None:
    execute, many = bare.connection.execute, bare.connection.executemany
    execute("BEGIN IMMEDIATE")
    (sequence,), = execute(
        "UPDATE run SET heartbeat_at = ?, step = ?, seconds = ?, phase = ?, phase_done = ?, phase_total = ?, phase_rate = ?,"
        " point_sequence = point_sequence + ? WHERE id = ? RETURNING point_sequence",
        (time.time(), step, step * 0.5, "training", step, 10**7, 1.0, METRICS, run_id),
    ).fetchall()
    many("INSERT INTO point VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, metric_id, step) DO UPDATE SET"
         " seconds = excluded.seconds, value = excluded.value, sequence = excluded.sequence",
         [(run_id, ids[name], step, step * 0.5, 0.5, sequence - k) for k, name in enumerate(names)])
    known = execute(f"SELECT metric_id, step, minimum, maximum FROM latest WHERE run_id = ? AND metric_id IN"
                    f" ({','.join('?' * METRICS)})", (run_id, *ids.values())).fetchall()
    for level, width in enumerate(WIDTHS):
        if step % width:
            break
        execute("INSERT OR REPLACE INTO rollup SELECT run_id, metric_id, ?, step / ?, max(step), seconds, min(value),"
                f" max(value), value, count(value) FROM point WHERE run_id = ? AND metric_id IN ({','.join('?' * METRICS)})"
                " AND step BETWEEN ? AND ? GROUP BY metric_id", (level, width, run_id, *ids.values(), step - width, step - 1))
    many("INSERT INTO latest VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (run_id, metric_id) DO UPDATE SET step = excluded.step,"
         " value = excluded.value, minimum = excluded.minimum, maximum = excluded.maximum",
         [(run_id, id, step, 0.5, min(low, 0.5), max(high, 0.5)) for id, _, low, high in known])
    execute("COMMIT")


def newest_points(db: Database, run_id: int) -> Callable[[], object]:
    with db.read() as connection:
        last = connection.exec_driver_sql("SELECT point_sequence FROM run WHERE id = ?", (run_id,)).scalar()
    return lambda: points_after(db, run_id, last - 5 * METRICS)


def bare_newest_points(bare: Reference, run_id: int) -> Callable[[], object]:
    (last,), = bare.all("SELECT point_sequence FROM run WHERE id = ?", run_id)
    return lambda: bare.all(
        "SELECT name, step, seconds, value, sequence FROM point JOIN metric ON metric.id = metric_id WHERE run_id = ?"
        " AND sequence > ? ORDER BY sequence LIMIT 20000", run_id, last - 5 * METRICS,
    )


def bare_series(bare: Reference, run_id: int, steps: int) -> Callable[[], object]:
    """The overview from the same level of the same pyramid."""
    (metric_id,), = bare.all("SELECT id FROM metric WHERE name = ?", HEADLINE)
    level = max((n for n, width in enumerate(WIDTHS) if width <= steps / 1000), default=0)
    together = -(-steps // WIDTHS[level] // 1000)
    return lambda: bare.all(
        "SELECT max(step), seconds, min(minimum), max(maximum), last, sum(count) FROM rollup WHERE run_id = ? AND"
        " metric_id = ? AND level = ? GROUP BY bucket / ?", run_id, metric_id, level, together,
    )


TEXTS = ("needle", "lation bell", "notfound", "ten", "k")  # rare, some, none, very many, too short for the index


def searches(db: Database, run_id: int) -> Callable[[], object]:
    return lambda: [search_rollouts(db, run_id, text) for text in TEXTS]


def bare_searches(bare: Reference) -> Callable[[], object]:
    columns = ("r.step, r.problem_index, r.completion_index, g.prompt, r.completion, g.expected, r.reward, r.advantage,"
               " r.tokens, r.reason, r.parts")
    joined = f"SELECT {columns} FROM rollout r JOIN rollout_group g ON g.id = r.id - r.completion_index WHERE r.id IN"
    indexed = f"{joined} (SELECT rowid FROM rollout_text WHERE rollout_text MATCH ? ORDER BY rowid DESC LIMIT 51)"
    read = f"{joined} (SELECT id FROM rollout WHERE completion LIKE ? ORDER BY id DESC LIMIT 51)"
    return lambda: [bare.all(indexed, f'"{text}"') if len(text) > 2 else bare.all(read, f"%{text}%") for text in TEXTS]


def listing(db: Database) -> Callable[[], object]:
    def all_of_it() -> None:
        ids = [run.id for run in list_runs(db)]
        latest(db, ids), bests(db, ids, HEADLINE), sparkline(db, ids, HEADLINE)

    return all_of_it


def bare_listing(bare: Reference) -> Callable[[], object]:
    (metric_id,), = bare.all("SELECT id FROM metric WHERE name = ?", HEADLINE)

    def all_of_it() -> None:
        bare.all("SELECT * FROM run ORDER BY id DESC")
        bare.all("SELECT run_id, name, step, value FROM latest JOIN metric ON metric.id = metric_id ORDER BY run_id, name")
        bare.all("SELECT run_id, maximum FROM latest WHERE metric_id = ?", metric_id)
        short = bare.all("SELECT run_id FROM latest WHERE metric_id = ? AND step < ?", metric_id, 39 * WIDTHS[0])
        bare.all("SELECT p.run_id, max(p.step), p.value FROM latest l CROSS JOIN point p USING (run_id, metric_id) WHERE"
                 " l.metric_id = ? AND l.step < ? GROUP BY p.run_id, p.step / (l.step / 39 + 1)", metric_id, 39 * WIDTHS[0])
        if len(short) < RUNS:
            bare.all("SELECT run_id, max(step), last FROM rollup WHERE metric_id = ? AND level = 2 GROUP BY run_id, bucket / 4",
                     metric_id)

    return all_of_it


if __name__ == "__main__":
    main()
