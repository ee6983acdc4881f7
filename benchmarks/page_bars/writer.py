"""A synthetic training process: it holds its run's lock and writes through `storage` as a trainer's reporter does.

    python -m benchmarks.page_bars.writer DATABASE RUN_ID --every 1 --steps 1 --count 60 --log times.jsonl

Every line of the log is a step and when the transaction that wrote it was over, in seconds since the epoch.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

from benchmarks.page_bars.data import SIX
from bgpo.jobs import runner
from bgpo.training.metrics import METRICS
from storage.database import Database
from storage.metrics import Point, Progress, flush
from storage.runs import get_run, transition

# what a run of RL writes at every step
WRITTEN = [name for name in METRICS if name.split("/")[0] in
           ("reward", "bound", "elbo", "grad", "lr", "groups", "completion", "time", "memory", "log_ratio", "ratio")]


def names(count: int) -> list[str]:
    """Twenty metrics, or as many as asked for: first those of the charts that are looked at."""
    return [*SIX, *(name for name in WRITTEN if name not in SIX)][:count]


def point(name: str, step: int) -> Point:
    return Point(name, step, step * 1.1, round(0.5 + 0.4 * math.sin(step / 7 + len(name)), 6))


def write(db: Database, run_id: int, options: argparse.Namespace) -> None:
    step, wanted = options.first, names(options.metrics)
    due = time.monotonic()
    with open(options.log, "a", buffering=1) as log:
        for _ in range(options.count):
            steps = range(step, step + options.steps)
            step += options.steps
            progress = Progress("training", step - 1, 10**7, 1 / options.every, step - 1, step * 1.1)
            flush(db, run_id, [point(name, at) for at in steps for name in wanted], progress=progress)
            log.write(json.dumps([step - 1, time.time()]) + "\n")
            due += options.every
            time.sleep(max(0.0, due - time.monotonic()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("run_id", type=int)
    parser.add_argument("--first", type=int, default=0, help="first step (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=1, help="per transaction (default: %(default)s)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two (default: %(default)s)")
    parser.add_argument("--count", type=int, default=60, help="transactions (default: %(default)s)")
    parser.add_argument("--metrics", type=int, default=20, help="default: %(default)s")
    parser.add_argument("--log", type=Path, required=True)
    options = parser.parse_args()
    db = Database(options.database)
    run = get_run(db, options.run_id)
    lock = runner.acquire_lock(Path(run.folder))
    if lock is None:
        raise SystemExit(f"Another process works on run {run.id}.")
    transition(db, run.id, ("launching", "stopped", "finished", "failed"), "running", who="writer")
    write(db, run.id, options)
    transition(db, run.id, ("running",), "finished", who="writer")
    lock.close()
    db.close()


if __name__ == "__main__":
    main()
