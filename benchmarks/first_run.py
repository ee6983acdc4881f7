"""The promise of the first five minutes: each preset, seeds 0 to 2, from careless to right within four minutes.

    python -m benchmarks.first_run                     the built-in presets, fresh data folders, one run after the other
    python -m benchmarks.first_run --presets adder --seeds 0 --json
    python -m benchmarks.first_run --data-dir demo     keeps runs and database there, to look at with app.py

Every run is the shipped command `python -m bgpo.jobs.worker --preset NAME --seed N`, warm start included. "First
point" is the time from the start of the command to the first stored point.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bgpo.presets import PRESETS
from storage.database import open_database, sqlite_url
from storage.metrics import points_after
from storage.runs import get_run

SEEDS = (0, 1, 2)
START_AT_MOST, END_AT_LEAST, FIRST_POINT_AT_MOST = 0.4, 0.8, 20
SECONDS_AT_MOST = {"countdown": 360}  # all others 240
BUILT_IN = [
    name for name, preset in PRESETS.items() if (preset.config().model, preset.config().job) == ("tiny", "train")
]


def train(preset: str, seed: int, data_dir: Path) -> dict[str, Any]:
    """One run in a process of its own; its figures."""
    url = sqlite_url(data_dir / "bgpo.db")
    command = [
        sys.executable, "-m", "bgpo.jobs.worker", "--preset", preset, "--seed", str(seed), "--database", url, "--json",
    ]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout.splitlines()[-1])
    db = open_database(url)
    points, _ = points_after(db, result["run_id"], 0)
    run = get_run(db, result["run_id"])
    db.close()
    # `seconds` of a point counts from the worker's start; what came before is the interpreter's own start
    first_point = min(point.seconds for point in points) + max(0.0, (run.started_at or 0) - run.created_at)
    holds = (
        result["first"] <= START_AT_MOST
        and result["last"] >= END_AT_LEAST
        and result["seconds"] <= SECONDS_AT_MOST.get(preset, 240)
        and first_point <= FIRST_POINT_AT_MOST
    )
    return result | {"preset": preset, "seed": seed, "first_point_s": round(first_point, 1), "holds": holds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=BUILT_IN, choices=BUILT_IN)
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--data-dir", type=Path, help="keep the runs there (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = (arguments.data_dir or Path(temporary)).absolute()
        results = []
        print(f"{os.cpu_count()} cores\n{'preset':>16} seed | first  last | seconds  first point | holds")
        for preset in arguments.presets:
            for seed in arguments.seeds:
                r = train(preset, seed, data_dir)
                results.append(r)
                print(f"{preset:>16} {seed:>4} | {r['first']:>5.2f} {r['last']:>5.2f} | {r['seconds']:>7.0f}  "
                      f"{r['first_point_s']:>9.1f} s | {'yes' if r['holds'] else 'NO'}", flush=True)
    if arguments.json:
        print(json.dumps({"cores": os.cpu_count(), "runs": results}))


if __name__ == "__main__":
    main()
