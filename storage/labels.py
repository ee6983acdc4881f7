"""What people write on runs: tags, notes, archived or not; and views of the pages that they keep under a name.

None of it is read by a training process, so it stands in tables of its own.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from storage.database import Database, PreparedForIds, new_insert, upsert
from storage.runs import RunNotFound, count_change
from storage.tables import run, run_note, run_tag, saved_view

TAG_LIMIT = 40  # characters
TAGS_LIMIT = 20  # per run
NOTES_LIMIT = 20_000  # characters
VIEW_NAME_LIMIT = 80
VIEW_LIMIT = 4_000  # characters of an address
_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # embeddings, overrides, isolates


class LabelError(ValueError):
    """A tag, note or view that is not kept; the message is a sentence for a person."""


@dataclass(frozen=True)
class Labels:
    """What is written on one run."""

    tags: tuple[str, ...] = ()
    notes: str = ""
    archived: bool = False


@dataclass(frozen=True)
class SavedView:
    """An address of the pages without its "?", kept under a name."""

    id: int
    name: str
    query: str
    created_at: float


def labels_of(db: Database, run_ids: Collection[int]) -> dict[int, Labels]:
    """{run_id: labels} of those runs that have any, in two queries."""
    notes = {id: (text, bool(archived)) for id, text, archived in _NOTES.rows(db, run_ids)}
    tags: dict[int, list[str]] = {}
    for run_id, tag in _TAGS.rows(db, run_ids):
        tags.setdefault(run_id, []).append(tag)
    return {id: Labels(tuple(tags.get(id, ())), *notes.get(id, ("", False))) for id in notes.keys() | tags.keys()}


_NOTES = PreparedForIds(
    lambda ids: select(run_note.c.run_id, run_note.c.notes, run_note.c.archived).where(run_note.c.run_id.in_(ids))
)
_TAGS = PreparedForIds(
    lambda ids: select(run_tag.c.run_id, run_tag.c.tag).where(run_tag.c.run_id.in_(ids)).order_by(run_tag.c.tag)
)


def set_tags(db: Database, run_id: int, tags: Collection[str]) -> tuple[str, ...]:
    """Puts these tags in place of the run's own; returns them as kept. Raises LabelError, RunNotFound."""
    kept = sorted({tag_of(tag) for tag in tags})
    if len(kept) > TAGS_LIMIT:
        raise LabelError(f"That are {len(kept)} tags; a run takes at most {TAGS_LIMIT}.")
    with db.write() as connection:
        _count(connection, run_id)
        connection.execute(delete(run_tag).where(run_tag.c.run_id == run_id))
        if kept:
            connection.execute(run_tag.insert(), [{"run_id": run_id, "tag": tag} for tag in kept])
    return tuple(kept)


def plain_line(text: str) -> str:
    """`text` in one line, without control characters and without those that turn the direction of what follows."""
    return " ".join("".join(" " if c in _CONTROLS or unicodedata.category(c) == "Cc" else c for c in text).split())


def tag_of(text: str) -> str:
    """A tag as it is kept: one word in lower case, without the # that people type before it. Raises LabelError."""
    tag = "-".join(plain_line(text).lstrip("#").lower().split())
    if not tag:
        raise LabelError("A tag needs at least one character that is not a space or #.")
    if len(tag) > TAG_LIMIT:
        raise LabelError(f"The tag {tag[:20]}... has {len(tag)} characters; use at most {TAG_LIMIT}.")
    return tag


def set_notes(db: Database, run_id: int, notes: str) -> None:
    """Keeps the notes of a run. Raises LabelError, RunNotFound."""
    if len(notes) > NOTES_LIMIT:
        raise LabelError(f"The notes have {len(notes)} characters; {NOTES_LIMIT} are kept at most. Shorten them.")
    with db.write() as connection:
        _count(connection, run_id)
        before = _note(connection, run_id)
        row = {"run_id": run_id, "notes": notes, "archived": bool(before and before.archived)}
        connection.execute(upsert(connection, run_note, ("run_id",)), row)


def set_archived(db: Database, run_ids: Sequence[int], archived: bool) -> None:
    """Puts runs away, or brings them back. Raises RunNotFound before any is changed."""
    with db.write() as connection:
        for run_id in run_ids:
            _count(connection, run_id)
            before = _note(connection, run_id)
            row = {"run_id": run_id, "notes": before.notes if before else "", "archived": archived}
            connection.execute(upsert(connection, run_note, ("run_id",)), row)


def list_views(db: Database) -> list[SavedView]:
    """Every kept view, by name."""
    columns = (saved_view.c.id, saved_view.c.name, saved_view.c.query, saved_view.c.created_at)
    with db.read() as connection:
        return [SavedView(*row) for row in connection.execute(select(*columns).order_by(saved_view.c.name))]


def save_view(db: Database, name: str, query: str) -> SavedView:
    """Keeps an address under a name, in place of the view that has it. Raises LabelError."""
    name = plain_line(name)
    if not name or len(name) > VIEW_NAME_LIMIT:
        raise LabelError(f"A view's name has 1 to {VIEW_NAME_LIMIT} characters; this one has {len(name)}.")
    if len(query) > VIEW_LIMIT:
        raise LabelError(f"The view's address has {len(query)} characters; select fewer runs to keep it below "
                         f"{VIEW_LIMIT}.")
    row = {"name": name, "query": query.removeprefix("?"), "created_at": time.time()}
    with db.write() as connection:
        insert = new_insert(connection, saved_view)
        changed = {column: insert.excluded[column] for column in ("query", "created_at")}
        connection.execute(insert.on_conflict_do_update(index_elements=["name"], set_=changed), row)
    return next(view for view in list_views(db) if view.name == name)


def delete_view(db: Database, id: int) -> None:
    """Forgets a view; harmless when it is gone already."""
    with db.write() as connection:
        connection.execute(delete(saved_view).where(saved_view.c.id == id))


def _note(connection: Connection, run_id: int):
    return connection.execute(select(run_note).where(run_note.c.run_id == run_id)).one_or_none()


def _count(connection: Connection, run_id: int) -> None:
    if not count_change(connection, run.c.id == run_id):
        raise RunNotFound(run_id)
