"""The held-out problems that a run page shows: what the model wrote at each evaluation, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, select

from storage.database import Database, upsert
from storage.tables import completion

KEY = ("run_id", "kind", "step", "problem_index")


@dataclass(frozen=True)
class Completion:
    """One shown problem at one step."""

    step: int
    kind: str  # held_out
    index: int  # which of the shown problems
    prompt: str
    completion: str
    expected: str
    reward: float | None  # None when it was not finite
    reason: str
    trace: str  # JSON: [[step, position, token, confidence], ...] in the order of filling
    solved: bool | None = None  # whether the answer is right; None in rows of earlier versions, which kept no verdict


def completions_of(db: Database, run_id: int, after_step: int = -1) -> list[Completion]:
    """The run's completions of steps above `after_step`, by step, then kind, then index."""
    c = completion.c
    columns = (c.step, c.kind, c.problem_index, c.prompt, c.completion, c.expected, c.reward, c.reason, c.trace,
               c.solved)
    query = select(*columns).where(c.run_id == run_id, c.step > after_step)
    with db.read() as connection:
        rows = connection.execute(query.order_by(c.step, c.kind, c.problem_index))
        return [Completion(*row) for row in rows]


def write_completions(connection: Connection, run_id: int, completions: Sequence[Completion]) -> None:
    """Upserts inside the caller's transaction; writing the same ones again changes nothing."""
    if not completions:
        return
    rows = [
        {"run_id": run_id, **asdict(c), "step": int(c.step), "problem_index": int(c.index)}
        for c in completions
    ]
    for row in rows:
        del row["index"]  # a word of SQL, so the column has a longer name
    connection.execute(upsert(connection, completion, KEY), rows)
