"""Rollouts of training steps: the groups that a run keeps, completion by completion.

Read as they are looked at: a step by reward, one prompt through training, groups without a signal, one trace.
A rollout's number is made of its place, (run, step, problem, completion), so writing it again replaces it and the
order of numbers is the order of training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from sqlalchemy import Column, ColumnElement, Connection, Row, Select, bindparam, delete, func, select, update

from storage.database import Database, upsert
from storage.tables import clean_text, finite, rollout, rollout_group

_COMPLETION_BITS, _PROBLEM_BITS, _STEP_BITS, _RUN_BITS = 10, 12, 20, 21
_DELETED_AT_ONCE = 2_000  # rows; a search index forgets slowly, and other writers wait meanwhile

_G = rollout_group.c
# right is what the task calls solved: a reward may pay for more, or for the form of a wrong answer
GROUP_KINDS = {
    "any": (),
    "right": (_G.solved == _G.completions,),
    "mixed": (_G.solved > 0, _G.solved < _G.completions),
    "wrong": (_G.solved == 0,),
    "flat": (_G.worst == _G.best,),
    "disagree": (_G.disagreeing > 0,),
}
ORDERS = {
    "reward": (rollout.c.reward.desc().nullslast(), rollout.c.id),
    "group": (rollout.c.id,),
}


@dataclass(frozen=True)
class Rollout:
    """One completion of one problem at one training step."""

    step: int
    problem_index: int  # which of the step's problems
    completion_index: int  # which of its group
    prompt: str
    completion: str
    expected: str
    reward: float | None  # None when it was not finite
    advantage: float | None
    tokens: int  # written, up to and including the end token
    reason: str
    parts: dict[str, float | None]
    trace: str  # JSON: how it was denoised; "" where a list leaves it out, see `trace_of`
    # Whether the task calls it right. None: the writer kept no verdict, as earlier versions did, so what is stored is
    # whether part `correct`, or without that part the reward, is 1.
    solved: bool | None = None


@dataclass(frozen=True)
class Group:
    """The completions of one problem at one step, summed up."""

    step: int
    problem_index: int
    prompt: str
    expected: str
    completions: int
    worst: float | None
    mean: float | None
    best: float | None
    solved: int  # completions whose answer is right
    disagreeing: int  # completions of which one part of the reward is paid and another is not


@dataclass(frozen=True)
class StepOfGroups:
    """A step that has rollouts: how many groups, and in how many of them all completions are right, or none is."""

    step: int
    groups: int
    right: int
    wrong: int
    mean: float | None


_GROUP_COLUMNS = [rollout_group.c[field.name] for field in fields(Group)]


def rollout_id(run_id: int, step: int = 0, problem_index: int = 0, completion_index: int = 0) -> int:
    """The number of a rollout; with less given, the first possible one of the run, the step or the group.

    Raises ValueError for a place that does not fit in 63 bits.
    """
    number, place = 0, (run_id, step, problem_index, completion_index)
    for value, bits in zip(place, (_RUN_BITS, _STEP_BITS, _PROBLEM_BITS, _COMPLETION_BITS)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"run, step, problem, completion = {place}: {value} is not below {1 << bits}")
        number = number << bits | int(value)
    return number


def run_range(run_id: int) -> tuple[int, int]:
    """First number of the run's rollouts, and the last one."""
    first = rollout_id(run_id)
    return first, first + (1 << _STEP_BITS + _PROBLEM_BITS + _COMPLETION_BITS) - 1


def write_rollouts(connection: Connection, run_id: int, rollouts: Sequence[Rollout]) -> None:
    """Upserts inside the caller's transaction; writing the same ones again changes nothing."""
    if not rollouts:
        return
    groups = {rollout_id(run_id, r.step, r.problem_index): r for r in rollouts}
    connection.execute(
        upsert(connection, rollout_group, ("id",)),
        [_group_row(run_id, id, item) for id, item in sorted(groups.items())],
    )
    connection.execute(upsert(connection, rollout, ("id",)), [_row(run_id, item) for item in rollouts])
    # from the table, not from `rollouts`: a group may be written in two batches
    connection.execute(_sum_up(), [{"group": id, "last": id + (1 << _COMPLETION_BITS) - 1} for id in sorted(groups)])


def rollouts_of_step(
    db: Database, run_id: int, step: int, *, order: str = "reward", kind: str = "any"
) -> list[Rollout]:
    """The step's rollouts without their traces, best first or by group, of the groups of one kind.

    Raises ValueError for an unknown order or kind.
    """
    query = select_rollouts().where(rollout.c.run_id == run_id, rollout.c.step == step, *_kind(kind))
    with db.read() as connection:
        return _read(connection, query.order_by(*_choice(ORDERS, "order", order)))


def groups_of(
    db: Database, run_id: int, *, kind: str = "any", before_step: int | None = None, limit: int = 100
) -> list[Group]:
    """The newest groups of one kind; those of whole steps, so that `before_step` goes on without a gap."""
    newest = select(rollout_group.c.step).where(rollout_group.c.run_id == run_id, *_kind(kind))
    if before_step is not None:
        newest = newest.where(rollout_group.c.id < rollout_id(run_id, _bounded(before_step)))
    query = select(*_GROUP_COLUMNS).where(rollout_group.c.run_id == run_id, *_kind(kind))
    with db.read() as connection:
        steps = connection.scalars(newest.order_by(rollout_group.c.id.desc()).limit(limit)).all()
        if not steps:
            return []
        low, high = rollout_id(run_id, steps[-1]), rollout_id(run_id, steps[0] + 1)
        query = query.where(rollout_group.c.id >= low, rollout_group.c.id < high)
        return [Group(*row) for row in connection.execute(query.order_by(rollout_group.c.id.desc()))]


def group_of(db: Database, run_id: int, step: int, problem_index: int) -> list[Rollout]:
    """The completions of one group, in the order they were drawn."""
    first = rollout_id(run_id, step, problem_index)
    with db.read() as connection:
        return _read(connection, select_rollouts().where(
            rollout.c.id >= first, rollout.c.id < first + (1 << _COMPLETION_BITS)
        ).order_by(rollout.c.id))


def prompt_through_training(db: Database, run_id: int, prompt: str, limit: int = 500) -> list[Group]:
    """The groups of one prompt at every step that drew it, oldest first."""
    prompt = clean_text(prompt)
    query = select(*_GROUP_COLUMNS).where(
        rollout_group.c.run_id == run_id, rollout_group.c.prompt_key == prompt_key(prompt),
        rollout_group.c.prompt == prompt,
    )
    with db.read() as connection:
        return [Group(*row) for row in connection.execute(query.order_by(rollout_group.c.step).limit(limit))]


def rollout_steps(db: Database, run_id: int, after_step: int = -1, limit: int = 5_000) -> list[StepOfGroups]:
    """The steps that have rollouts, oldest first."""
    def count(kind: str) -> ColumnElement[int]:
        return func.count().filter(*GROUP_KINDS[kind])

    first, last = rollout_id(run_id, _bounded(after_step + 1)), run_range(run_id)[1]
    query = select(_G.step, func.count(), count("right"), count("wrong"), func.avg(_G.mean))
    query = query.where(_G.id.between(first, last))
    with db.read() as connection:
        rows = connection.execute(query.group_by(_G.step).order_by(_G.step).limit(limit))
        return [StepOfGroups(*row) for row in rows]


def last_rollout_step(db: Database, run_id: int) -> int | None:
    with db.read() as connection:
        return connection.scalar(select(func.max(rollout.c.step)).where(rollout.c.run_id == run_id))


def trace_of(db: Database, run_id: int, step: int, problem_index: int, completion_index: int) -> str | None:
    """How one stored rollout was denoised, as JSON; None when it is not stored."""
    number = rollout_id(run_id, step, problem_index, completion_index)
    with db.read() as connection:
        return connection.scalar(select(rollout.c.trace).where(rollout.c.id == number))


def traces_of_group(db: Database, run_id: int, step: int, problem_index: int) -> dict[int, str]:
    """{completion index: trace as JSON} of one group."""
    first = rollout_id(run_id, step, problem_index)
    query = select(rollout.c.completion_index, rollout.c.trace)
    query = query.where(rollout.c.id >= first, rollout.c.id < first + (1 << _COMPLETION_BITS))
    with db.read() as connection:
        return dict(connection.execute(query.order_by(rollout.c.id)).all())


def whole_rollouts(db: Database, run_id: int, after: int = -1, limit: int = 500) -> tuple[list[Rollout], int]:
    """At most `limit` rollouts with their traces, in the order of training, and the number to go on from."""
    low, high = run_range(run_id)
    query = select_rollouts(rollout.c.trace, rollout.c.id)
    query = query.where(rollout.c.id.between(max(after + 1, low), high))
    with db.read() as connection:
        rows = connection.execute(query.order_by(rollout.c.id).limit(limit)).all()
    return [rollout_of(row, row.trace) for row in rows], rows[-1].id if rows else after


def judge_again(db: Database, run_id: int) -> None:
    """Gives rollouts that were written without a verdict the one that `Rollout.solved` says, in short transactions."""
    found, after = whole_rollouts(db, run_id)
    while found:
        with db.write() as connection:
            write_rollouts(connection, run_id, [replace(item, solved=None) for item in found])
        found, after = whole_rollouts(db, run_id, after)


def delete_rollouts(db: Database, run_id: int) -> None:
    """Deletes all of the run's rollouts, in short transactions."""
    low, high = run_range(run_id)
    some = select(rollout.c.id).where(rollout.c.id.between(low, high)).limit(_DELETED_AT_ONCE).scalar_subquery()
    while True:
        with db.write() as connection:
            if connection.execute(delete(rollout).where(rollout.c.id.in_(some))).rowcount < _DELETED_AT_ONCE:
                connection.execute(delete(rollout_group).where(rollout_group.c.id.between(low, high)))
                return


def prompt_key(prompt: str) -> int:
    """63 bits of the prompt, the same in every process."""
    return int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") >> 1


def select_rollouts(*more: Column) -> Select:
    """Rollouts with the prompt of their group, in the order of `Rollout`'s fields; without traces unless asked."""
    r, g = rollout.c, rollout_group.c
    columns = (r.step, r.problem_index, r.completion_index, g.prompt, r.completion, g.expected, r.reward, r.advantage,
               r.tokens, r.reason, r.parts, r.solved)  # fmt: skip
    # the group's own number, without the completion's bits
    same = g.id == r.id - r.completion_index
    return select(*columns, *more).join_from(rollout, rollout_group, same)


def _read(connection: Connection, query: Select) -> list[Rollout]:
    return [rollout_of(row) for row in connection.execute(query)]


def rollout_of(row: Row, trace: str = "") -> Rollout:
    """A row of `select_rollouts`."""
    return Rollout(*row[:10], json.loads(row[10]), trace, bool(row[11]))


def _kind(kind: str) -> tuple:
    return _choice(GROUP_KINDS, "kind of group", kind)


def _choice(table: dict[str, tuple], what: str, name: str) -> tuple:
    if name not in table:
        raise ValueError(f"unknown {what} {name!r}; available: {', '.join(table)}")
    return table[name]


def _bounded(step: int) -> int:
    return min(max(step, 0), (1 << _STEP_BITS) - 1)


def _group_row(run_id: int, id: int, item: Rollout) -> dict[str, object]:
    prompt = clean_text(item.prompt)
    return {
        "id": id, "run_id": run_id, "step": int(item.step), "problem_index": int(item.problem_index),
        "prompt": prompt, "prompt_key": prompt_key(prompt), "expected": item.expected, "completions": 0,
        "worst": None, "mean": None, "best": None, "solved": 0, "disagreeing": 0,
    }  # fmt: skip


def _row(run_id: int, item: Rollout) -> dict[str, object]:
    parts = {clean_text(name): finite(value) for name, value in item.parts.items()}
    paid = {value > 0 for value in parts.values() if value is not None}
    return {
        "id": rollout_id(run_id, item.step, item.problem_index, item.completion_index), "run_id": run_id,
        "step": int(item.step), "problem_index": int(item.problem_index),
        "completion_index": int(item.completion_index), "completion": item.completion, "reward": item.reward,
        "advantage": item.advantage, "tokens": int(item.tokens), "reason": item.reason,
        "parts": json.dumps(parts, allow_nan=False), "disagrees": int(len(paid) > 1), "trace": item.trace,
        "solved": (parts.get("correct", item.reward) or 0) >= 1 if item.solved is None else item.solved,
    }  # fmt: skip


def _sum_up():
    """UPDATE of the group `:group` from its completions, whose numbers go up to `:last`."""
    r = rollout.c

    def over(value):
        return select(value).where(r.id.between(bindparam("group"), bindparam("last"))).scalar_subquery()

    return update(rollout_group).where(rollout_group.c.id == bindparam("group")).values(
        completions=over(func.count()), worst=over(func.min(r.reward)), mean=over(func.avg(r.reward)),
        best=over(func.max(r.reward)), solved=over(func.count().filter(r.solved)),
        disagreeing=over(func.coalesce(func.sum(r.disagrees), 0)),
    )  # fmt: skip
