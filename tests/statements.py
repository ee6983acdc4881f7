"""The statements that a database is given, those included that go straight to its driver."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from sqlalchemy import event

from storage.database import Database, Prepared


@contextmanager
def statements_to(db: Database) -> Iterator[list[str]]:
    """A list that grows with every statement."""
    given: list[str] = []

    def noted(connection, cursor, statement, *more) -> None:
        given.append(statement)

    straight = Database.rows

    def rows(self: Database, query: Prepared, **values: object):
        given.append(query.words(self.engine.dialect, values)[0])
        return straight(self, query, **values)

    event.listen(db.engine, "before_cursor_execute", noted)
    with mock.patch.object(Database, "rows", rows):
        yield given
    event.remove(db.engine, "before_cursor_execute", noted)
