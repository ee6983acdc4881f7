"""Rows from elsewhere: events with their own times, the last word on an imported run, runs found on the disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from types import NoneType
from typing import Any, get_args, get_type_hints

from sqlalchemy import update

from storage.database import Database
from storage.labels import plain_line
from storage.runs import ENDED, FAILURE_KINDS, LATEST, Run, RunEvent, get_run_in, record
from storage.tables import run, run_event

# What an imported run keeps of its row. The rest (process, queue, devices, lineage) means nothing here.
KEPT = ("created_at", "started_at", "finished_at", "step", "seconds", "reason", "failure_kind")
LONGEST_LINE = 2000  # characters of a sentence that is shown in lists and terminals
_LONGEST_METRIC = 200  # characters
_LARGEST = 1e300  # the sum of many is a number, too
_LONGEST_TRACE = 2**16  # steps and positions: a page draws every one of them


def row_of(kind: type, given: Any) -> Any:
    """A `kind` (Point, Rollout, Alert, ...) made of what an archive's line says, with its lines in one line.

    Raises ValueError that says which value cannot be one, and what may stand there.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"{given!r:.60} is no object")
    values = _checked(kind, _hints(kind), given)
    for name in _LINES & values.keys():
        values[name] = _line(values[name])
    try:
        return kind(**values)
    except TypeError:  # no value and no default
        missing = next(name for name in _hints(kind) if name not in values)
        raise ValueError(f"{missing} is missing") from None


def kept_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the row of a run from elsewhere. Raises ValueError as `row_of` does."""
    missing = [name for name in KEPT if name not in given]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    values = _checked(Run, KEPT, given)
    return values | {"reason": _line(values["reason"])}


def add_events(db: Database, run_id: int, events: Sequence[RunEvent]) -> None:
    """Adds the past of a run, with the times and the words that it had."""
    if events:
        with db.write() as connection:
            connection.execute(run_event.insert(), [{"run_id": run_id, **vars(event)} for event in events])


def complete_import(db: Database, run_id: int, status: str, values: Mapping[str, Any]) -> None:
    """Makes the run what it was; raises ValueError for a status that only a process of this machine can have."""
    if status not in ENDED:
        raise ValueError(f"an imported run cannot be {status!r}; available: {', '.join(ENDED)}")
    kept = {name: values[name] for name in KEPT if name in values}
    with db.write() as connection:
        connection.execute(update(run).where(run.c.id == run_id).values(status=status, phase="", **kept))


def adopt_run(
    db: Database, id: int | None, folder: str, *, name: str, config_json: str, train_steps: int, status: str, why: str,
    **values: Any,
) -> Run:
    """A row for a run that has a folder and no row, under its old number, or a new one where that is None.

    `values` are those of `KEPT`. Raises ValueError for a status that a run without a process cannot have.
    """
    if status not in (*ENDED, "paused"):
        raise ValueError(f"a run that is found cannot be {status!r}; available: {', '.join(ENDED)}, paused")
    now = time.time()
    row = {
        "name": name, "config_json": config_json, "folder": folder, "train_steps": train_steps, "status": status,
        "phase": "", "created_at": now, "queued_at": now, "step": 0, "seconds": 0.0, "reason": "", "phase_done": 0,
        "phase_total": 0, "point_sequence": 0,
    } | {key: values[key] for key in KEPT if key in values}
    with db.write() as connection:
        new = connection.execute(run.insert().values(row | ({} if id is None else {"id": id})).returning(run.c.id))
        number = new.scalar_one()
        record(connection, number, "repair", "", status, why)
        return get_run_in(connection, number)


# ---- what a value from elsewhere may be

def _checked(kind: type, names: Iterable[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that are there; raises ValueError for one that the pages could not show."""
    values = {name: given[name] for name in names if name in given}
    for name, value in values.items():
        fits, allowed, may_lack = _rule(kind, name)
        if not (may_lack if value is None else fits(value)):
            raise ValueError(f"{name} = {value!r:.60} is not {allowed}")
    return values


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _rule(kind: type, name: str) -> tuple[Callable[[Any], bool], str, bool]:
    """Whether a value fits the field, what is allowed, and whether null is."""
    hint = _hints(kind)[name]
    may_lack = NoneType in get_args(hint)
    (plain,) = set(get_args(hint)) - {NoneType} if may_lack else {hint}
    return *(_NAMED.get(name) or _OF_TYPE[plain]), may_lack


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST  # false for nan, too


def _is_whole(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**31


def _is_moment(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= LATEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_parts(value: Any) -> bool:
    """As json.loads gives a dict, its names are texts."""
    return isinstance(value, dict) and all(part is None or _is_number(part) for part in value.values())


def _is_metric(value: Any) -> bool:
    return _is_text(value) and 0 < len(value) <= _LONGEST_METRIC and value == plain_line(value)


def _is_trace(value: Any) -> bool:
    """What pages read: nothing, or rows of a step, a position, a token and how sure the model was."""
    try:
        rows = json.loads(value or "[]") if _is_text(value) else None
    except (ValueError, RecursionError):
        return False
    return isinstance(rows, list) and all(isinstance(row, list) and len(row) == 4 and _is_fill(*row) for row in rows)


def _is_fill(step: Any, position: Any, token: Any, sure: Any) -> bool:
    places = all(type(place) is int and 0 <= place < _LONGEST_TRACE for place in (step, position))
    return places and _is_text(token) and (sure is None or _is_number(sure))


def _line(text: str) -> str:
    return plain_line(text)[:LONGEST_LINE]


_MOMENT = (_is_moment, "a number of seconds from 0 to those of the year 2100")
_NAMED = {
    **dict.fromkeys(("time", "seconds", "created_at", "started_at", "finished_at"), _MOMENT),
    "metric": (_is_metric, f"a name of 1 to {_LONGEST_METRIC} characters in one line"),
    "trace": (_is_trace, "the trace of a completion: a list of [step, position, token, probability] as text"),
    "failure_kind": (lambda value: value in ("", *FAILURE_KINDS), f"empty or one of {', '.join(FAILURE_KINDS)}"),
}
_OF_TYPE = {
    int: (_is_whole, "a whole number from 0 to 2147483647"),
    float: (_is_number, "a finite number"),
    str: (_is_text, "a text"),
    bool: (lambda value: isinstance(value, bool), "true or false"),
    dict[str, float | None]: (_are_parts, "an object of finite numbers"),
}
_LINES = {"who", "from_status", "to_status", "why", "name", "message"}  # of events and alerts
