"""What the bars are measured on: databases with long runs, many runs and many completions."""

from __future__ import annotations

import json
import random
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bare_sqlite import fill_sparklines
from bgpo.presets import PRESETS
from storage.database import Database
from storage.metrics import Point, flush
from storage.rollouts import Rollout, write_rollouts
from storage.rollups import WIDTHS
from storage.runs import Run, create_run, transition

SIX = ("reward/mean", "grad/norm", "lr", "bound/gap", "completion/tokens", "time/likelihood_s")  # one chart each
TOKENS, FRAMES = 512, 128  # of the completion that is replayed


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything; `small` is for a quick look at whether the measurements work."""

    long: int = 1_000_000  # steps
    middle: int = 100_000
    runs: int = 500
    compared: int = 20
    compared_steps: int = 1000
    completions: int = 100_000
    positions: int = 100  # of the outlier
    ticks: int = 60  # of the figures that are a percentile
    seconds: float = 1.0  # between two of them


SMALL = Sizes(20_000, 5000, 12, 4, 200, 256, 4, 6, 0.3)


@dataclass(frozen=True)
class Filled:
    """Ids of the runs in the database."""

    long: int
    middle: int
    compared: tuple[int, ...]
    rollouts: int
    writing: int  # empty; for the writer


def new_run(db: Database, folder: Path, name: str, steps: int = 60, **values: object) -> Run:
    """A run that nobody works on."""
    config = PRESETS["adder"].config().with_values(retries=0, **values)
    return create_run(db, name=name, config_json=config.to_json(), train_steps=steps, runs_folder=folder,
                      status="stopped")


def fill(db: Database, folder: Path, sizes: Sizes, needs: Collection[str]) -> Filled:
    """Every run there is to be; the list is long, most of it short runs. What takes long only where it is needed:
    "curves" of the long runs, "completions"."""
    for k in range(max(0, sizes.runs - sizes.compared - 4)):
        run = new_run(db, folder, f"run {k}", seed=k)
        flush(db, run.id, [Point("reward/heldout_greedy", step, step, random.random()) for step in range(0, 60, 5)])
        transition(db, run.id, ("stopped",), "finished")
    long, middle = new_run(db, folder, "long", sizes.long), new_run(db, folder, "middle", sizes.middle)
    if "curves" in needs:
        write_curves(db, long.id, sizes.long)
        write_curves(db, middle.id, sizes.middle)
    compared = [new_run(db, folder, f"compared {k}", sizes.compared_steps, seed=k, learning_rate=1e-4 * (1 + k % 5))
                for k in range(sizes.compared)]
    for run in compared:
        write_compared(db, run.id, sizes.compared_steps)
        transition(db, run.id, ("stopped",), "finished")
    kept = new_run(db, folder, "rollouts")
    if "completions" in needs:
        write_completions(db, kept.id, sizes.completions)
    writing = new_run(db, folder, "writing", 10**6)
    return Filled(long.id, middle.id, tuple(run.id for run in compared), kept.id, writing.id)


def write_compared(db: Database, run_id: int, steps: int) -> None:
    points = [Point(name, step, step * 0.9, random.random()) for step in range(steps) for name in SIX]
    for start in range(0, len(points), 6000):
        flush(db, run_id, points[start : start + 6000])


def write_curves(db: Database, run_id: int, steps: int) -> None:
    """Six metrics of a run between 0 and 0.999, and the pyramid over them, in SQL: how they came is not measured."""
    with db.write() as connection:
        connection.exec_driver_sql(
            "INSERT OR IGNORE INTO metric (name) VALUES " + ", ".join("(?)" for _ in SIX), SIX)
        marks = ", ".join("?" for _ in SIX)
        known = connection.exec_driver_sql(f"SELECT name, id FROM metric WHERE name IN ({marks})", SIX).fetchall()
        for place, (_, id) in enumerate(known):
            connection.exec_driver_sql(
                "WITH RECURSIVE s(step) AS (SELECT 0 UNION ALL SELECT step + 1 FROM s WHERE step < ?) INSERT INTO point"
                " (run_id, metric_id, step, seconds, value, sequence)"
                " SELECT ?, ?, step, step * 0.5, (step * 7919 % 1000) / 1000.0, step * ? + ? FROM s",
                (steps - 1, run_id, id, len(SIX), place + 1),
            )
        for level, width in enumerate(WIDTHS):
            connection.exec_driver_sql(
                "INSERT INTO rollup (run_id, metric_id, level, bucket, step, seconds, minimum, maximum, last, count)"
                " SELECT run_id, metric_id, ?, step / ?, max(step), seconds, min(value), max(value), value,"
                " count(value) FROM point WHERE run_id = ? AND step / ? < ? GROUP BY run_id, metric_id, step / ?",
                (level, width, run_id, width, (steps - 1) // width, width),
            )
        connection.exec_driver_sql(
            "INSERT INTO latest (run_id, metric_id, step, value, minimum, maximum) SELECT run_id, metric_id, max(step),"
            " value, 0, 0.999 FROM point WHERE run_id = ? GROUP BY metric_id", (run_id,)
        )
        fill_sparklines(connection, run_id, run_id)
        connection.exec_driver_sql("UPDATE run SET point_sequence = ?, step = ?, changes = changes + 1 WHERE id = ?",
                                   (steps * len(SIX) + 10, steps - 1, run_id))


def write_completions(db: Database, run_id: int, count: int, group: int = 8, per_step: int = 128) -> None:
    """Groups of eight over many steps; the first of all has a trace of 512 tokens in 128 frames."""
    words = [f"{a}{b}{c}" for a in "bcdfgklmnprst" for b in "aeiou" for c in ("n", "r", "s", "ll", "tion", "ck")]
    chance = random.Random(3)
    long_trace = trace(chance, words)
    for step in range(-(-count // per_step)):
        rows = [
            Rollout(step, row // group, row % group, f"prompt {row // group} of {step}",
                    " ".join(chance.choices(words, k=40)) + (" needle" if chance.random() < 2e-4 else ""), "42",
                    float(row % 2), 0.5, 60, "wrong", {"correct": float(row % 2)}, "[]" if step or row else long_trace)
            for row in range(min(per_step, count - step * per_step))
        ]
        with db.write() as connection:
            write_rollouts(connection, run_id, rows)


def trace(chance: random.Random, words: list[str]) -> str:
    """A denoising of 512 tokens in 128 steps, four at a time, in an order like that of confidence."""
    places = list(range(TOKENS))
    chance.shuffle(places)
    each = TOKENS // FRAMES
    return json.dumps([[1 + k // each, place, chance.choice(words), round(chance.uniform(0.4, 1), 3)]
                       for k, place in enumerate(places)], separators=(",", ":"))
