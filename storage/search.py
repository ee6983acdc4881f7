"""Text in the completions of a run: any part of them, whatever the case of its letters, newest first.

SQLite answers from an index of every three letters (FTS5), PostgreSQL from pg_trgm where that extension may be
installed. A shorter text has no three letters to look up, so the run's completions are read until enough is found.
"""

from __future__ import annotations

from sqlalchemy import Select, column, literal_column, select, table

from storage.database import Database
from storage.rollouts import Rollout, rollout_of, run_range, select_rollouts
from storage.tables import clean_text, rollout

LONGEST = 500  # characters of a text to look for
INDEX = "rollout_text"  # made by the migrations beside the tables of `metadata`, with tables of its own on SQLite


def is_index(name: str | None) -> bool:
    """Whether a table or an index of this name belongs to the search."""
    return (name or "").startswith(INDEX)


def search_rollouts(
    db: Database, run_id: int | None, looked_for: str, *, before: int | None = None, limit: int = 50
) -> tuple[list[Rollout], int | None]:
    """The newest `limit` rollouts whose completion holds the text, and where to go on; None when that was all.

    Args:
        run_id: one run, or None for all.
        looked_for: taken letter by letter: no character has a meaning. Nothing is found for an empty one.

    Raises:
        ValueError: for a text longer than LONGEST.
    """
    if len(looked_for) > LONGEST:
        raise ValueError(f"The text to look for has {len(looked_for)} characters; give at most {LONGEST}.")
    looked_for = clean_text(looked_for)
    if not looked_for:
        return [], None
    low, high = run_range(run_id) if run_id is not None else (0, 2**63 - 1)
    high = high if before is None else min(high, before - 1)
    find = _indexed if db.path is not None and len(looked_for) > 2 else _one_by_one
    with db.read() as connection:
        ids = find(looked_for, low, high).limit(limit + 1).scalar_subquery()
        query = select_rollouts(rollout.c.id).where(rollout.c.id.in_(ids)).order_by(rollout.c.id.desc())
        rows = connection.execute(query).all()
    return [rollout_of(row) for row in rows[:limit]], rows[limit - 1].id if len(rows) > limit else None


def _indexed(looked_for: str, low: int, high: int) -> Select:
    index = table(INDEX, column("rowid"))
    # in quotes, with quotes doubled, FTS5 reads a string and not its query language
    phrase = '"' + looked_for.replace('"', '""') + '"'
    matches = literal_column(INDEX).op("MATCH")(phrase)
    # the run is a range of numbers, which the index reads backwards and only as far as it has to
    return select(index.c.rowid).where(matches, index.c.rowid.between(low, high)).order_by(index.c.rowid.desc())


def _one_by_one(looked_for: str, low: int, high: int) -> Select:
    literal = looked_for.replace("/", "//").replace("%", "/%").replace("_", "/_")
    return select(rollout.c.id).where(
        rollout.c.id.between(low, high), rollout.c.completion.ilike(f"%{literal}%", escape="/")
    ).order_by(rollout.c.id.desc())
