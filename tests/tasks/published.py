"""A few made-up rows in the columns of the published data sets, written as files that the tasks read."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bgpo.tasks.base import Task
from bgpo.tasks.registry import open_task

GSM8K = [
    {"question": f"Tom has {n} apples and buys {n + 1} more. How many has he?",
     "answer": f"Tom has {n} + {n + 1} = <<{n}+{n + 1}={2 * n + 1}>>{2 * n + 1} apples.\n#### {2 * n + 1:,}"}
    for n in range(600, 700)
]
MATH = [
    {"problem": f"Simplify $\\frac{{{n}}}{{{2 * n}}} + {n}$.", "level": "Level 1", "type": "Algebra",
     "solution": f"We have $\\boxed{{\\frac{{1}}{{2}}}}$ and add {n}: $\\boxed{{\\frac{{{2 * n + 1}}}{{2}}}}$."}
    for n in range(1, 41)
]
MATH_500 = [
    {"problem": f"What is ${n}^2$?", "solution": f"It is $\\boxed{{{n * n}}}$.", "answer": str(n * n),
     "subject": "Algebra", "level": 1, "unique_id": f"test/algebra/{n}.json"}
    for n in range(2, 12)
]
COUNTDOWN = [{"target": a + b - c, "nums": [a, b, c]} for a in range(20, 40) for b in (3, 5) for c in (2, 7)]
COUNTDOWN_TEST = [{"input": "30,100,93", "output": "23"}, {"input": "20,3,2", "output": "21"}]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    """Rows as .jsonl, .csv or .parquet."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        import pandas

        frame = pandas.DataFrame(rows)
        frame.to_csv(file, index=False) if file.suffix == ".csv" else frame.to_parquet(file)
    return file


def opened(task: str, data: object = "", **knobs: Any) -> Task:
    """A task as a config with these knobs would open it."""
    usual = {"protocol": "auto", "task_file": "", "checker": "exact"}
    return open_task(SimpleNamespace(task=task, data=str(data), **(usual | knobs)))
