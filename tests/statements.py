"""Which statements reach a database, and how much work they are to it, whoever sends them: SQLAlchemy or the driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from storage.database import Database


@contextmanager
def statements_to(db: Database) -> Iterator[list[str]]:
    """The statements of this process meanwhile, as they are sent; on SQLite as it runs them, with their values."""
    found: list[str] = []
    if db.path:
        with _on_each_connection(db, lambda connection: connection.set_trace_callback(found.append)):
            yield found
        return
    psycopg = pytest.importorskip("psycopg")

    def noting(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(cursor: Any, query: Any, *rest: Any, **more: Any) -> Any:
            found.append(str(query))
            return original(cursor, query, *rest, **more)
        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in ("execute", "executemany"):
            patch.setattr(psycopg.Cursor, name, noting(getattr(psycopg.Cursor, name)))
        yield found


@contextmanager
def work(db: Database, every: int = 100) -> Iterator[list[int]]:
    """Grows by one with each `every` instructions of SQLite's machine: work that no clock measures."""
    found: list[int] = []

    def count() -> int:
        found.append(every)
        return 0  # go on

    with _on_each_connection(db, lambda connection: connection.set_progress_handler(count, every)):
        yield found


@contextmanager
def _on_each_connection(db: Database, prepare: Callable[[Any], None]) -> Iterator[None]:
    def listen(connection: Any, record: Any) -> None:
        prepare(connection)

    event.listen(db.engine, "connect", listen)
    db.engine.dispose()  # those that were open already would say nothing
    try:
        yield
    finally:
        event.remove(db.engine, "connect", listen)
        db.engine.dispose()


def selects(statements: list[str]) -> list[str]:
    """Those that read."""
    return [statement for statement in statements if statement.lstrip().startswith(("SELECT", "WITH"))]
