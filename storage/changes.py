"""Whether anything was written since the last look, for the price of a look at one number."""

from __future__ import annotations

import threading

from sqlalchemy import Connection

from storage.database import Database, sentences

# SQLite counts, on each connection, what others have committed; PostgreSQL says which transactions can be seen
_MARK = {"sqlite": "PRAGMA data_version", "postgresql": "SELECT CAST(pg_current_snapshot() AS text)"}


class Changes:
    """Whether anything was committed since the last look. A look reads no row, whatever the database holds."""

    def __init__(self, db: Database):
        self._db = db
        self._lock = threading.Lock()
        self._connection: Connection | None = None  # one of its own, on which nothing is ever written

    def mark(self) -> str:
        """A text that stays the same for as long as nobody, this process included, commits anything.

        Take it before reading: what is committed while one reads is then seen at the next look. Raises StorageError.
        """
        with self._lock, sentences(self._db.name):
            connection = self._connection or self._db.engine.connect()
            self._connection = None  # should it be broken, the next look takes another one
            with connection.begin():
                found = str(connection.exec_driver_sql(_MARK[connection.dialect.name]).scalar_one())
            self._connection = connection
        return found
