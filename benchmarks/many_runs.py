"""Very many runs and a very long one: what the app takes for their list and their curves, and how much it sends.

    python -m benchmarks.many_runs            10,000 runs, one of 1,000,000 steps x 20 metrics; some minutes
    python -m benchmarks.many_runs --json --runs 2000 --steps 100000

The app is a process of its own, asked as a browser asks; times are from the request to the last byte of its answer.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

from benchmarks.bare_sqlite import fill_sparklines
from benchmarks.page_bars.bench import ms, p95
from benchmarks.page_bars.studio import Answer, Client, Studio
from benchmarks.storage import write_curves
from bgpo.presets import PRESETS
from storage.database import Database
from storage.metrics import Point, flush
from storage.runs import create_run
from storage.tables import run as table

RUNS, STEPS, METRICS = 10_000, 1_000_000, 20
LIST_MS, CURVE_MS, KB = 300.0, 200.0, 300.0
SHOWN, REWARD = "reward/heldout_greedy", "reward/mean"  # metrics of the list
REPEAT = 20


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=RUNS, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the long run (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        studio = Studio(Path(folder))
        db = studio.open_database()
        long_run = fill(db, Path(folder) / "runs", options.runs, options.steps)
        db.close()
        studio.start()
        try:
            targets = measure(studio, long_run, options.steps)
        finally:
            studio.stop()
    report = {"runs": options.runs, "steps": options.steps, "metrics": METRICS, "cores": len(os.sched_getaffinity(0)),
              "targets": targets}  # fmt: skip
    print(json.dumps(report) if options.json else shown(report))


def shown(report: dict) -> str:
    sizes = f"{report['runs']:,} runs, {report['steps']:,} steps x {report['metrics']} metrics"
    lines = [f"{sizes}; {report['cores']} cores", "", "| target | limit | figure | holds |", "|---|--:|--:|---|"]
    lines += [f"| {t['name']} | {t['limit']:g} | {t['figure']:g} | {'yes' if t['holds'] else 'NO'} |"
              for t in report["targets"]]  # fmt: skip
    return "\n".join(lines)


# ---- what is measured on

def fill(db: Database, folder: Path, runs: int, steps: int) -> int:
    """All runs, the oldest of them long; returns its id."""
    config = PRESETS["adder"].config().with_values(retries=0)
    first = create_run(db, name="run 1", config_json=config.to_json(), train_steps=60, runs_folder=folder,
                       status="finished").id  # fmt: skip
    names = [SHOWN, REWARD, *(f"m{k}" for k in range(METRICS - 2))]
    flush(db, first, [Point(name, 0, 0.0, 0.5) for name in names])  # so that each has a number
    copy_run(db, first, runs)
    with db.write() as connection:
        for kept in ("point", "latest", "rollup", "sparkline"):
            connection.exec_driver_sql(f"DELETE FROM {kept} WHERE run_id = ?", (first,))
    write_curves(db, first, steps, METRICS)
    return first


def copy_run(db: Database, id: int, runs: int) -> None:
    """As many runs as there are to be, in SQL: like one, but for the seed, and each tenth failed; with short curves."""
    own = {"id": "k", "name": "'run ' || k", "folder": "folder || '-' || k",
           "config_json": """replace(config_json, '"seed":0', '"seed":' || k)""",
           "status": "CASE k % 10 WHEN 0 THEN 'failed' ELSE 'finished' END",
           "failure_kind": "CASE k % 10 WHEN 0 THEN 'killed' ELSE '' END",
           "reason": "CASE k % 10 WHEN 0 THEN 'The process was killed.' ELSE '' END"}  # fmt: skip
    names = [column.name for column in table.columns]
    numbers = "WITH RECURSIVE n(k) AS (SELECT ? UNION ALL SELECT k + 1 FROM n WHERE k < ?)"
    chance = "abs(random() % 1000000) / 1000000.0"
    with db.write() as connection:
        def run(sql: str, *values: object) -> None:
            connection.exec_driver_sql(sql, values)

        run(f"{numbers} INSERT INTO run ({', '.join(names)}) SELECT {', '.join(own.get(name, name) for name in names)}"
            " FROM run, n WHERE id = ?", id + 1, id + runs - 1, id)
        ids = connection.exec_driver_sql("SELECT id FROM metric WHERE name IN (?, ?)", (SHOWN, REWARD)).scalars().all()
        for metric_id in ids:
            run(f"{numbers}, s(step) AS (SELECT 0 UNION ALL SELECT step + 5 FROM s WHERE step < 55) INSERT INTO point"
                f" SELECT k, ?, step, step, {chance}, step * 2 + 1 FROM n, s", id + 1, id + runs - 1, metric_id)
            run("INSERT INTO latest SELECT run_id, metric_id, max(step), value, min(value), max(value) FROM point"
                " WHERE run_id > ? AND metric_id = ? GROUP BY run_id", id, metric_id)
        fill_sparklines(connection, id + 1, id + runs - 1)


# ---- the measures

def measure(studio: Studio, long_run: int, steps: int) -> list[dict]:
    client, known = studio.client(), f"/api/live?runs={long_run}:{10**17}:0"
    first = client.get("/api/live")  # since the app started nobody has looked at the list
    again = repeated(client, "/api/live")
    opened = repeated(client, f"/api/live?runs={long_run}")  # as a link to the long run opens it
    curve = repeated(client, f"/api/range?run={long_run}&metric={REWARD}&low=0&high={steps}&buckets=600")
    ticks = []
    db, seen = studio.open_database(), client.get(known).content["seen"]
    for step in range(REPEAT):
        flush(db, long_run + 1, [Point(REWARD, 100 + step, 100.0, 0.5)])
        ticks.append(client.get(f"{known}&seen={seen}"))
        seen = ticks[-1].content["seen"]
    db.close()
    older = whole(client)
    return [
        target("list_first_ms", LIST_MS, ms(first.seconds)),
        target("list_ms", LIST_MS, ms(p95([answer.seconds for answer in again]))),
        target("list_tick_ms", LIST_MS, ms(p95([answer.seconds for answer in ticks]))),
        target("list_older_ms", LIST_MS, ms(p95([answer.seconds for answer in older]))),
        target("curve_ms", CURVE_MS, ms(p95([answer.seconds for answer in curve]))),
        target("all_curves_ms", LIST_MS + CURVE_MS, ms(p95([answer.seconds for answer in opened]))),
        target("json_kb", KB, round(max(a.bytes for a in [first, *again, *opened, *curve, *ticks, *older]) / 1000, 1)),
    ]


def repeated(client: Client, path: str) -> list[Answer]:
    return [client.get(path) for _ in range(REPEAT)]


def whole(client: Client) -> list[Answer]:
    """The answers by which a page gets every run, as when somebody looks for a name."""
    answers = [client.get("/api/live")]
    while answers[-1].content["older"]:
        answers.append(client.get(f"/api/live?newest={10**9}&seen={answers[-1].content['seen']}"))
    return answers[1:] or answers


def target(name: str, limit: float, figure: float) -> dict:
    return {"name": name, "limit": limit, "figure": figure, "holds": figure <= limit}


if __name__ == "__main__":
    main()
