"""What a person can do with the queue: move a run, plan its start. Sentences where that cannot be."""

from __future__ import annotations

from bgpo.jobs.control import NOT_PLANNABLE, ControlError
from bgpo.jobs.times import plannable
from storage import queue
from storage.database import Database, StorageError
from storage.runs import HIGH, LOW, NORMAL, Run, get_run

PRIORITIES = {"low": LOW, "normal": NORMAL, "high": HIGH}


def move_to(db: Database, id: int, place: int) -> Run:
    """Puts a queued run at a place of the queue, 1 being the next. Raises ControlError."""
    return _still_queued(db, id, queue.move(db, id, place))


def plan_start(db: Database, id: int, **wishes: object) -> Run:
    """Changes a queued run's `priority`, `start_at` (epoch seconds) or `after_id`. Raises ControlError."""
    priority, start = wishes.get("priority", NORMAL), wishes.get("start_at")
    if priority not in PRIORITIES.values():
        raise ControlError(f"priority = {priority} is not known; give {LOW} (low), {NORMAL} or {HIGH} (high).")
    if start is not None and not plannable(start):
        raise ControlError(NOT_PLANNABLE)
    try:
        return _still_queued(db, id, queue.plan(db, id, **wishes)) if wishes else get_run(db, id)
    except (StorageError, ValueError) as error:
        raise ControlError(str(error)) from error


def _still_queued(db: Database, id: int, done: bool) -> Run:
    try:
        run = get_run(db, id)
    except StorageError as error:
        raise ControlError(str(error)) from error
    if not done:
        raise ControlError(f"Run {id} is {run.status}, so it has no place in the queue any more.")
    return run
