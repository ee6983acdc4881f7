"""The tables, and the column types that make hostile values harmless once, on the way in.

    run          one training: config, status, who runs it, how far it is
    run_event    every change of a run's status: when, who, from, to, why
    metric       names of metrics, so that a point holds a number
    point        one value of one metric at one step of one run
    latest       the point with the highest step of each metric of a run; saves list pages from reading curves
    completion   shown held-out problems: what the model wrote at a step, and how it was denoised
    checkpoint   folders that hold weights
    alert        when a run's metrics began to say that something goes wrong, and what to do, in words
    run_tag      tags that people put on a run
    run_note     what people write about a run, and whether they have put it away
    saved_view   addresses of the pages that people keep under a name

Times are UTC seconds since the epoch (a float behaves the same on SQLite and PostgreSQL, a DateTime does not).
A change here needs a new file in `migrations/versions/`; a test compares the two.
"""

from __future__ import annotations

import math
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """`text` with NULs and lone surrogates replaced: byte-level tokenizers write both, databases refuse them."""
    # The round trip joins surrogate pairs into the character they stand for and replaces the rest.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", REPLACEMENT)


class CleanText(TypeDecorator[str]):
    """Text that any database can store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else clean_text(value)


class FiniteFloat(TypeDecorator[float]):
    """A float, or NULL for NaN and infinities: a gap in a plot, the same on every database.

    Takes anything that `float()` takes; numpy scalars would otherwise be stored as bytes by SQLite.
    """

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> float | None:
        if value is None:
            return None
        number = float(value)
        return number if math.isfinite(number) else None


# Names for every constraint: a later migration on SQLite has to be able to name what it drops.
metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _of_run(**more: Any) -> Column[int]:
    return Column("run_id", Integer, ForeignKey("run.id", ondelete="CASCADE"), nullable=False, **more)


run = Table(
    "run",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", CleanText, nullable=False),
    Column("status", CleanText, nullable=False),
    Column("phase", CleanText, nullable=False),
    Column("config_json", CleanText, nullable=False),
    Column("folder", CleanText, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("queued_at", Double, nullable=False),  # a resumed run goes to the end of the queue
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("heartbeat_at", Double),
    Column("step", Integer, nullable=False),
    Column("train_steps", Integer, nullable=False),
    Column("phase_done", Integer, nullable=False),
    Column("phase_total", Integer, nullable=False),
    Column("phase_rate", FiniteFloat),
    Column("seconds", Double, nullable=False),
    Column("requested", CleanText),
    Column("pid", Integer),
    Column("process_started", BigInteger),
    Column("boot_id", CleanText),
    Column("reason", CleanText, nullable=False),
    Column("parent_id", Integer, ForeignKey("run.id", ondelete="SET NULL")),
    Column("point_sequence", BigInteger, nullable=False),  # the highest `point.sequence` given out
    Index(None, "status", "queued_at"),
    # Without it SQLite gives a deleted run's id, so its addresses and caches, to the next one.
    sqlite_autoincrement=True,
)

run_event = Table(
    "run_event",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_run(index=True),
    Column("time", Double, nullable=False),
    Column("who", CleanText, nullable=False),
    Column("from_status", CleanText, nullable=False),
    Column("to_status", CleanText, nullable=False),
    Column("why", CleanText, nullable=False),
    Column("step", Integer),  # the run's last finished step then; NULL in rows of the first versions
)

metric = Table(
    "metric",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", CleanText, nullable=False, unique=True),
)

point = Table(
    "point",
    metadata,
    _of_run(primary_key=True),
    Column("metric_id", Integer, ForeignKey("metric.id"), primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("seconds", Double, nullable=False),
    Column("value", FiniteFloat),
    # Counts up per run and write, so that "what is new" also holds points that a resumed run wrote again.
    Column("sequence", BigInteger, nullable=False),
    Index(None, "run_id", "sequence"),
    sqlite_with_rowid=False,
)

latest = Table(
    "latest",
    metadata,
    _of_run(primary_key=True),
    Column("metric_id", Integer, ForeignKey("metric.id"), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("value", FiniteFloat),
    sqlite_with_rowid=False,
)

completion = Table(
    "completion",
    metadata,
    _of_run(primary_key=True),
    Column("kind", CleanText, primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("problem_index", Integer, primary_key=True),
    Column("prompt", CleanText, nullable=False),
    Column("completion", CleanText, nullable=False),
    Column("expected", CleanText, nullable=False),
    Column("reward", FiniteFloat),
    Column("reason", CleanText, nullable=False),
    Column("trace", CleanText, nullable=False),
)

checkpoint = Table(
    "checkpoint",
    metadata,
    Column("id", Integer, primary_key=True),
    _of_run(),
    Column("step", Integer, nullable=False),
    Column("kind", CleanText, nullable=False),
    Column("folder", CleanText, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("reward", FiniteFloat),
    UniqueConstraint("run_id", "step"),
    sqlite_autoincrement=True,
)

alert = Table(
    "alert",
    metadata,
    _of_run(primary_key=True),
    Column("step", Integer, primary_key=True),
    Column("name", CleanText, primary_key=True),
    Column("severity", CleanText, nullable=False),
    Column("message", CleanText, nullable=False),
    Column("time", Double, nullable=False),
)

run_tag = Table(
    "run_tag",
    metadata,
    _of_run(primary_key=True),
    Column("tag", CleanText, primary_key=True),
)

run_note = Table(
    "run_note",
    metadata,
    _of_run(primary_key=True, autoincrement=False),
    Column("notes", CleanText, nullable=False),
    Column("archived", Boolean, nullable=False),
)

saved_view = Table(
    "saved_view",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", CleanText, nullable=False, unique=True),
    Column("query", CleanText, nullable=False),
    Column("created_at", Double, nullable=False),
)
