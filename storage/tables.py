"""The tables, and the column types that make hostile values harmless once, on the way in.

    run          one training: config, status, who runs it, how far it is
    run_event    every change of a run's status: when, who, from, to, why
    metric       names of metrics, so that a point holds a number
    point        one value of one metric at one step of one run
    rollup       buckets of many points, so that a long curve is read without reading all of it
    latest       the point with the highest step of each metric of a run, and its extremes; saves list pages from
                 reading curves
    sparkline    the curve of each metric of a run in a few points, for lists
    completion   shown held-out problems: what the model wrote at a step, and how it was denoised
    rollout_group, rollout   kept groups of training steps: the problem and its rewards; each completion
    checkpoint   folders that hold weights
    setting      what a person has set for the whole app: CPU slots, a paused queue
    sweep        runs that were launched as a group: which knobs, which values
    lease        which run has which device; the primary key is what keeps two runs off one
    alert        when a run's metrics began to say that something goes wrong, and what to do, in words
    run_tag      tags that people put on a run
    run_note     what people write about a run, and whether they have put it away
    saved_view   addresses of the pages that people keep under a name
    vote         which of two checkpoints' answers to a prompt a person found better

Times are UTC seconds since the epoch (a float behaves the same on SQLite and PostgreSQL, a DateTime does not).
A change here needs a new file in `migrations/versions/`; a test compares the two.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    literal_column,
)

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """`text` with NULs and lone surrogates replaced: byte-level tokenizers write both, databases refuse them."""
    if text.isascii() and "\x00" not in text:
        return text
    # The round trip joins surrogate pairs into the character they stand for and replaces the rest.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return joined.replace("\x00", REPLACEMENT)


class CleanText(TypeDecorator[str]):
    """Text that any database can store."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else clean_text(value)


def finite(value: Any) -> float | None:
    """Anything that `float()` takes, None for what is no finite number."""
    if value is None:
        return None
    number = float(value)
    return number if math.isfinite(number) else None


class FiniteFloat(TypeDecorator[float]):
    """A float, or NULL for NaN and infinities: a gap in a plot, the same on every database.

    Takes anything that `float()` takes; numpy scalars would otherwise be stored as bytes by SQLite.
    """

    impl = Double
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> float | None:
        return finite(value)


class PackedText(TypeDecorator[str]):
    """Text that is only ever read whole, compressed: a trace shrinks to a fifth."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:
        return None if value is None else zlib.compress(clean_text(value).encode(), 6)

    def process_result_value(self, value: bytes | None, dialect: Any) -> str | None:
        return None if value is None else zlib.decompress(value).decode()


# Wide enough for a `storage.rollouts.rollout_id` everywhere; on SQLite the row's own number, so it costs nothing.
PackedId = BigInteger().with_variant(Integer, "sqlite")

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
    Column("parent_step", Integer),  # of the checkpoint of `parent_id` that a fork began with
    Column("sweep_id", Integer, ForeignKey("sweep.id", ondelete="SET NULL")),
    # the queue: highest priority first, then by hand
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("position", Double, nullable=False, server_default="0"),
    Column("start_at", Double),  # not before
    Column("after_id", Integer, ForeignKey("run.id", ondelete="SET NULL")),  # not before that run has ended
    Column("device_kind", CleanText, nullable=False, server_default="auto"),
    Column("devices", Integer, nullable=False, server_default="1"),
    Column("epoch", Integer, nullable=False, server_default="0"),  # counts claims
    # what became of it
    Column("retries", Integer, nullable=False, server_default="0"),  # by themselves, since a person queued it
    Column("retry_step", Integer),  # of the newest checkpoint at the last of them
    Column("failure_kind", CleanText, nullable=False, server_default=""),
    Column("progress_at", Double),
    Column("stall_after", Double),  # seconds without progress that are too many
    Column("stalled_at", Double),
    # Counts what has changed of the row, its alerts and its labels, so that a list need not read it again. By itself
    # with every UPDATE.
    Column("changes", Integer, nullable=False, server_default="0", onupdate=literal_column("changes + 1")),
    Index(None, "status", "queued_at"),
    Index(None, "id", "changes"),  # what a list asks for every second, in a few pages instead of every row's own
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

setting = Table(
    "setting",
    metadata,
    Column("name", CleanText, primary_key=True),
    Column("value", CleanText, nullable=False),
)

sweep = Table(
    "sweep",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", CleanText, nullable=False),
    Column("plan_json", CleanText, nullable=False),
    Column("created_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

lease = Table(
    "lease",
    metadata,
    Column("device", CleanText, primary_key=True),
    _of_run(index=True),
    Column("epoch", Integer, nullable=False),  # the run's, when it took the device
    Column("taken_at", Double, nullable=False),
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

rollup = Table(
    "rollup",
    metadata,
    _of_run(primary_key=True),
    Column("metric_id", Integer, ForeignKey("metric.id"), primary_key=True),
    Column("level", Integer, primary_key=True),  # see `storage.rollups`
    Column("bucket", Integer, primary_key=True),
    Column("step", Integer, nullable=False),  # of the bucket's last point that has a value
    Column("seconds", Double, nullable=False),
    Column("minimum", FiniteFloat),
    Column("maximum", FiniteFloat),
    Column("last", FiniteFloat),
    Column("count", Integer, nullable=False),
    sqlite_with_rowid=False,
)

latest = Table(
    "latest",
    metadata,
    _of_run(primary_key=True),
    Column("metric_id", Integer, ForeignKey("metric.id"), primary_key=True),
    Column("step", Integer, nullable=False),
    Column("value", FiniteFloat),
    Column("minimum", FiniteFloat),
    Column("maximum", FiniteFloat),
    sqlite_with_rowid=False,
)

sparkline = Table(
    "sparkline",
    metadata,
    _of_run(primary_key=True),
    Column("metric_id", Integer, ForeignKey("metric.id"), primary_key=True),
    Column("pairs", LargeBinary, nullable=False),  # see `storage.sparklines`
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
    Column("solved", Boolean),  # NULL in rows of earlier versions
)

rollout_group = Table(
    "rollout_group",
    metadata,
    Column("id", PackedId, primary_key=True, autoincrement=False),
    _of_run(),
    Column("step", Integer, nullable=False),
    Column("problem_index", Integer, nullable=False),
    Column("prompt", CleanText, nullable=False),
    Column("prompt_key", BigInteger, nullable=False),  # a hash of the prompt, to find it again at other steps
    Column("expected", CleanText, nullable=False),
    Column("completions", Integer, nullable=False),
    Column("worst", FiniteFloat),
    Column("mean", FiniteFloat),
    Column("best", FiniteFloat),
    Column("solved", Integer, nullable=False, server_default="0"),  # completions whose answer is right
    Column("disagreeing", Integer, nullable=False),  # completions of which one part of the reward is paid, another not
    Index(None, "run_id", "prompt_key", "step"),
)

rollout = Table(
    "rollout",
    metadata,
    Column("id", PackedId, primary_key=True, autoincrement=False),
    _of_run(),
    Column("step", Integer, nullable=False),
    Column("problem_index", Integer, nullable=False),
    Column("completion_index", Integer, nullable=False),
    Column("completion", CleanText, nullable=False),
    Column("reward", FiniteFloat),
    Column("advantage", FiniteFloat),
    Column("tokens", Integer, nullable=False),
    Column("reason", CleanText, nullable=False),
    Column("parts", CleanText, nullable=False),  # JSON: {name: number or null}
    Column("disagrees", Integer, nullable=False),  # 1 or 0
    Column("trace", PackedText, nullable=False),
    Column("solved", Boolean, nullable=False, server_default=false()),  # the task's verdict, whatever the reward pays
    Index(None, "run_id", "step", "reward"),
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
    Column("pinned", Integer, nullable=False, server_default="0"),  # 1 or 0
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

vote = Table(
    "vote",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("checkpoint_a", Integer, nullable=False),  # no foreign keys: a vote outlives the checkpoints
    Column("checkpoint_b", Integer, nullable=False),
    Column("prompt", CleanText, nullable=False),
    Column("answer_a", CleanText, nullable=False),
    Column("answer_b", CleanText, nullable=False),
    Column("settings", CleanText, nullable=False),  # JSON: the sampler's
    Column("choice", CleanText, nullable=False),  # a, b, tie or both_wrong
    Column("time", Double, nullable=False),
    Index(None, "checkpoint_a", "checkpoint_b"),
)
