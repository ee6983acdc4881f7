"""Text in the completions of a run: any part of them, whatever the case of its letters, newest first.

SQLite answers from an index of every three letters (FTS5), PostgreSQL from pg_trgm where that extension may be
installed. A shorter text has no three letters to look up, so the run's completions are read until enough is found.
"""

from __future__ import annotations

from sqlalchemy import ColumnElement, Integer, Select, bindparam, column, literal_column, select, table

from storage.database import Database, Prepared
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
    query, text = _BY_READING, _pattern(looked_for)
    if db.path is not None and len(looked_for) > 2:
        query, text = _BY_INDEX, _phrase(looked_for)
    rows = db.rows(query, text=text, low=low, high=high, most=limit + 1)
    return [rollout_of(row) for row in rows[:limit]], rows[limit - 1][-1] if len(rows) > limit else None


def _phrase(looked_for: str) -> str:
    # in quotes, with quotes doubled, FTS5 reads a string and not its query language
    return '"' + looked_for.replace('"', '""') + '"'


def _pattern(looked_for: str) -> str:
    return "%" + looked_for.replace("/", "//").replace("%", "/%").replace("_", "/_") + "%"


def _rollouts_of(ids: Select, number: ColumnElement[int]) -> Prepared:
    """The rollouts with the highest numbers that `ids` finds, as many as `most`."""
    # the run is a range of numbers, which the index reads backwards and only as far as it has to
    newest = ids.where(number.between(bindparam("low"), bindparam("high"))).order_by(number.desc())
    found = newest.limit(bindparam("most", type_=Integer)).scalar_subquery()
    return Prepared(select_rollouts(rollout.c.id).where(rollout.c.id.in_(found)).order_by(rollout.c.id.desc()))


_index = table(INDEX, column("rowid"))
_BY_INDEX = _rollouts_of(
    select(_index.c.rowid).where(literal_column(INDEX).op("MATCH")(bindparam("text"))), _index.c.rowid
)
_BY_READING = _rollouts_of(
    select(rollout.c.id).where(rollout.c.completion.ilike(bindparam("text"), escape="/")), rollout.c.id
)
