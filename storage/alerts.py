"""Alerts of a run: at which step its metrics began to say that something goes wrong, and what to do, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

from sqlalchemy import Connection, func, select

from storage.database import Database, PreparedForIds, upsert
from storage.runs import RunNotFound, count_change
from storage.tables import alert, run

KEY = ("run_id", "step", "name")
SEVERITIES = ("warning", "serious")  # the worse one last


@dataclass(frozen=True)
class Alert:
    """One condition that began at `step`; `time` is when it was noticed, in UTC seconds since the epoch."""

    step: int
    name: str
    severity: str  # warning or serious
    message: str
    time: float


COLUMNS = [alert.c[field.name] for field in fields(Alert)]


def add_alerts(db: Database, run_id: int, alerts: Sequence[Alert]) -> None:
    """Upserts alerts; the same ones again change nothing.

    Raises RunNotFound, StorageError, and ValueError for an unknown severity.
    """
    with db.write() as connection:
        if not count_change(connection, run.c.id == run_id):
            raise RunNotFound(run_id)
        write_alerts(connection, run_id, alerts)


def write_alerts(connection: Connection, run_id: int, alerts: Sequence[Alert]) -> None:
    """Upserts inside the caller's transaction; raises ValueError for an unknown severity."""
    for item in alerts:
        if item.severity not in SEVERITIES:
            raise ValueError(f"unknown severity {item.severity!r}; available: {', '.join(SEVERITIES)}")
    if alerts:
        rows = [{"run_id": run_id, **asdict(item), "step": int(item.step)} for item in alerts]
        connection.execute(upsert(connection, alert, KEY), rows)


def alerts_of(db: Database, run_id: int) -> list[Alert]:
    """The run's alerts, by step."""
    query = select(*COLUMNS).where(alert.c.run_id == run_id).order_by(alert.c.step, alert.c.time, alert.c.name)
    with db.read() as connection:
        return [Alert(*row) for row in connection.execute(query)]


def alert_counts(db: Database, run_ids: Sequence[int]) -> dict[int, Counter[str]]:
    """{run_id: how many alerts of each severity}, in one query; runs without any have an empty count."""
    found: dict[int, Counter[str]] = {run_id: Counter() for run_id in run_ids}
    for run_id, severity, count in _COUNTS.rows(db, run_ids):
        found[run_id][severity] = count
    return found


_COUNTS = PreparedForIds(
    lambda ids: select(alert.c.run_id, alert.c.severity, func.count()).where(alert.c.run_id.in_(ids))
    .group_by(alert.c.run_id, alert.c.severity)
)
