"""What a person has set for the whole app, by name. In the database, so that every app on it agrees."""

from __future__ import annotations

from typing import Any

from sqlalchemy import or_, select

from storage.database import Database, Prepared, upsert
from storage.tables import setting

CPU_SLOTS, QUEUE_PAUSED, QUEUE_NOTE, APP_SEEN = "cpu_slots", "queue_paused", "queue_note", "app_seen"


def get_setting(db: Database, name: str, default: str = "") -> str:
    """What was set last, or `default`."""
    with db.read() as connection:
        return connection.execute(select(setting.c.value).where(setting.c.name == name)).scalar_one_or_none() or default


def set_setting(db: Database, name: str, value: str) -> None:
    _set(db, {name: value})


def _set(db: Database, values: dict[str, str]) -> None:
    rows = [{"name": name, "value": value} for name, value in sorted(values.items())]
    with db.write() as connection:
        connection.execute(upsert(connection, setting, ["name"]), rows)


def queue_paused(db: Database) -> bool:
    """Whether nothing is to be started for now."""
    return get_setting(db, QUEUE_PAUSED) == "yes"


def pause_queue(db: Database, paused: bool, why: str = "") -> None:
    """Pauses the queue or lets it go on. `why` is a sentence for people who did not do it themselves."""
    _set(db, {QUEUE_PAUSED: "yes" if paused else "no", QUEUE_NOTE: why})


def queue_state(db: Database) -> dict[str, Any]:
    """Whether the queue is `paused`, `why` ("" if a person did it), and CPU `slots`: in one query, for every poll."""
    found = dict(db.rows(_QUEUE_STATE))
    paused = found.get(QUEUE_PAUSED) == "yes"
    why = found.get(QUEUE_NOTE, "") if paused else ""
    return {"paused": paused, "why": why, "slots": int(found.get(CPU_SLOTS, "1"))}


_QUEUE_STATE = Prepared(
    select(setting.c.name, setting.c.value)
    .where(or_(*(setting.c.name == name for name in (QUEUE_PAUSED, QUEUE_NOTE, CPU_SLOTS))))
)


def cpu_slots(db: Database) -> int:
    """How many runs may compute on the CPU of one machine at once; 1 unless somebody says otherwise."""
    return int(get_setting(db, CPU_SLOTS, "1"))


def set_cpu_slots(db: Database, slots: int) -> None:
    """Raises ValueError for a number that makes no sense."""
    if not 1 <= slots <= 1024:
        raise ValueError(f"CPU slots = {slots} is not possible; give a whole number from 1 to 1024.")
    set_setting(db, CPU_SLOTS, str(slots))


def app_seen(db: Database) -> float:
    """When an app was last at work on this database, in epoch seconds; 0 if none ever was."""
    return float(get_setting(db, APP_SEEN, "0"))


def note_app(db: Database, now: float) -> None:
    """An app's sign of life; 0 when it ends in an orderly way."""
    set_setting(db, APP_SEEN, str(now))
