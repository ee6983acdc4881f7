"""The small curve of each metric of a run, kept while its points are written, so that a list of runs reads no points.

A bucket is as many steps wide as the least power of two that lets the newest step fall into the first POINTS of them.
Of each bucket that the metric has passed, the last point with a value is kept, in the order of steps, as pairs of a
step and a value. The newest bucket is not: its end is what `latest` says. A bucket whose points are written again, by a
replay or by a resumed run, is looked up anew, so the small curve always equals the points.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from functools import lru_cache

from sqlalchemy import Connection, bindparam, select

from storage.database import Prepared, upsert_plain
from storage.tables import point, sparkline

POINTS = 40
Pairs = list[tuple[int, float]]  # (step, value)
_PAIR = struct.Struct("<id")


def width_of(newest: int) -> int:
    """Steps of a bucket of a curve that has come to step `newest`."""
    return 1 << (newest // POINTS).bit_length()


def packed(pairs: Iterable[tuple[int, float]]) -> bytes:
    return b"".join([_PAIR.pack(step, value) for step, value in pairs])


def unpacked(pairs: bytes | None) -> Pairs:
    """What `packed` made; nothing for None."""
    return list(_PAIR.iter_unpack(pairs)) if pairs else []


def keep_up(
    connection: Connection,
    run_id: int,
    written: Mapping[int, Mapping[int, float | None]],
    before: Mapping[int, tuple[int, float | None]],
) -> None:
    """Brings the small curves up to date after points were written.

    Most steps pass no bucket of a long curve, and cost nothing here.

    Args:
        written: {metric_id: {step: value}}.
        before: each metric's highest step and its value before that; a new metric is not in it.
    """
    passed = {id: found for id, new in written.items() if (found := _passed(new, before.get(id)))}
    if not passed:
        return
    stored = dict(_stored_of(len(passed)).rows(
        connection, of_run=run_id, **{f"metric{number}": id for number, id in enumerate(passed)}
    ))  # fmt: skip
    rows = []
    for id, buckets in passed.items():
        width = width_of(_newest(written[id], before.get(id)))
        kept = {step // width: (step, value) for step, value in unpacked(stored.get(id))}  # the last of each counts
        known = _ends(written[id], before.get(id), width)
        for bucket in buckets:
            found = known[bucket] if bucket in known else last_with_value(connection, run_id, id, bucket, width)
            if found:
                kept[bucket] = found
            else:
                kept.pop(bucket, None)
        rows.append((run_id, id, packed(kept[bucket] for bucket in sorted(kept))))
    upsert_plain(connection, sparkline, ("run_id", "metric_id"), rows)


def last_with_value(
    connection: Connection, run_id: int, metric_id: int, bucket: int, width: int
) -> tuple[int, float] | None:
    """A look from the bucket's end back: it costs the gaps there, however wide the bucket."""
    rows = _LAST.rows(connection, of_run=run_id, of_metric=metric_id, low=bucket * width, end=(bucket + 1) * width)
    return rows[0] if rows else None


def _newest(new: Mapping[int, float | None], before: tuple[int, float | None] | None) -> int:
    return max(new) if before is None else max(before[0], *new)


def _passed(new: Mapping[int, float | None], before: tuple[int, float | None] | None) -> set[int]:
    """Buckets of which points were written, or which held the newest, and that are now complete."""
    newest = _newest(new, before)
    width = width_of(newest)
    touched = {step // width for step in new} | ({before[0] // width} if before else set())
    return touched - {newest // width}


def _ends(
    new: Mapping[int, float | None], before: tuple[int, float | None] | None, width: int
) -> dict[int, tuple[int, float]]:
    """Each bucket's last point with a value, where what was written says so: where nothing was written again."""
    if before and min(new) <= before[0]:
        return {}
    ends = {before[0] // width: before} if before and before[1] is not None else {}
    return ends | {step // width: (step, new[step]) for step in sorted(new) if new[step] is not None}


@lru_cache(256)
def _stored_of(count: int) -> Prepared:
    """The small curves of so many metrics, `metric0` and so on, of one run."""
    ids = [bindparam(f"metric{number}") for number in range(count)]
    query = select(sparkline.c.metric_id, sparkline.c.pairs)
    return Prepared(query.where(sparkline.c.run_id == bindparam("of_run"), sparkline.c.metric_id.in_(ids)))


_LAST = Prepared(
    select(point.c.step, point.c.value)
    .where(point.c.run_id == bindparam("of_run"), point.c.metric_id == bindparam("of_metric"))
    .where(point.c.step >= bindparam("low"), point.c.step < bindparam("end"), point.c.value.is_not(None))
    .order_by(point.c.step.desc())
    .limit(1)
)
