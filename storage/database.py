"""One `Database` per process: SQLite in WAL mode by default, PostgreSQL by URL.

`open_database` is the way in: it creates the folder, brings the schema up to date and turns everything
that can be wrong with a database file into a `StorageError` of one sentence.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Connection,
    Dialect,
    Engine,
    Select,
    Table,
    Text,
    Update,
    bindparam,
    cast,
    create_engine,
    event,
    func,
    make_url,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import URL
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DataError,
    DBAPIError,
    IntegrityError,
    NoSuchModuleError,
    ProgrammingError,
)
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert

try:  # the wheel brings a newer SQLite than most systems; see `storage.journal.wal_is_safe`
    import pysqlite3.dbapi2 as sqlite_module
except ImportError:
    import sqlite3 as sqlite_module

from storage.journal import begin_journal, journal_of

BUSY_TIMEOUT = 30.0  # seconds that a writer waits for another one
_DAMAGE = ("not a database", "malformed")  # SQLite's words for a file that is no whole database
_REPAIR = "`python -m bgpo.jobs repair` keeps the file and brings back what can be read."
_NOT_THERE = ("42P01", "42703")  # PostgreSQL's words for a table or a column that there is not


class StorageError(Exception):
    """Something about the database that a person can put right; the message is a sentence for them."""


class Damaged(StorageError):
    """The file is no database, or not a whole one: `python -m bgpo.jobs repair` saves what can be read."""


class OutOfRange(StorageError, ValueError):
    """A number or text that no column can hold: the caller's fault, not the database's."""

    def __init__(self) -> None:
        super().__init__("A number is too large for the database; give whole numbers below 2,147,483,648.")


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever characters its path holds. Raises StorageError for a name in no encoding."""
    if not _is_text(str(path.absolute())):
        raise StorageError(
            f"The name {str(path.parent)!a} is not text in UTF-8, which SQLite needs; choose a folder of another name."
        )
    return URL.create("sqlite", database=str(path.absolute())).render_as_string(hide_password=False)


class Database:
    """Connections to one database. Nothing is opened until the first `read` or `write`."""

    def __init__(self, url: str):
        """Raises StorageError for a URL that can never work; use `open_database` to create or upgrade."""
        parsed = parse_url(url)
        self.url = parsed.render_as_string(hide_password=False)
        self.shown_url = parsed.render_as_string(hide_password=True)
        self.path = Path(parsed.database) if parsed.get_backend_name() == "sqlite" else None
        self.engine = make_engine(parsed)
        self._writer = self.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")

    @property
    def name(self) -> str:
        """What to call this database in a sentence: the file, or the URL without its password."""
        return str(self.path) if self.path else self.shown_url

    @property
    def warning(self) -> str:
        """What a person should know of where the file lies or of this SQLite, a sentence; nothing if all is well."""
        return journal_of(self.path, sqlite_module.sqlite_version_info).warning if self.path else ""

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A short transaction that only reads. Never waits for a writer. Raises StorageError."""
        with sentences(self.name), self.engine.begin() as connection:
            yield connection

    def rows(self, query: Prepared, **values: object) -> list[tuple[Any, ...]]:
        """All rows of one query, which is of one moment without a transaction around it. Raises StorageError.

        Straight from the driver: as quick as it can be, for what pages ask all the time.
        """
        dialect = self.engine.dialect
        with sentences(self.name):
            connection = self.engine.raw_connection()
            try:
                return query.rows_of(connection, dialect, values)
            finally:
                connection.close()

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A short transaction that writes: committed at the end, rolled back on any error. Raises StorageError.

        Takes SQLite's write lock at once. A transaction that starts as a reader and then writes fails at
        once with "database is locked" when another writer came first, whatever the timeout.
        """
        with sentences(self.name), self._writer.begin() as connection:
            yield connection

    def close(self) -> None:
        self.engine.dispose()


def open_database(url: str) -> Database:
    """The database at `url`, created or brought up to this version's schema.

    A relative SQLite path is taken from the current folder and made absolute, so that `Database.url` means
    the same file to a worker that starts elsewhere. Raises StorageError.
    """
    # alembic is slow to import and only this function needs it
    from storage.upgrade import upgrade

    database = Database(url)
    if database.path:
        _prepare_folder(database.path)
    try:
        upgrade(database)
    except BaseException:
        database.close()
        raise
    return database


def parse_url(url: str) -> URL:
    """The parsed URL with an absolute path. Raises StorageError with what was given and what is allowed."""
    allowed = "sqlite:///folder/file.db or postgresql://user:password@host/name"
    if not _is_text(url):
        raise StorageError(f"The database URL is not text in UTF-8; give {allowed}.")
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # not shown back when it could hold a password
        given = "That" if "@" in url else repr(url)
        raise StorageError(f"{given} is not a database URL; give {allowed}.") from None
    if backend not in ("sqlite", "postgresql"):
        raise StorageError(f"{backend} is not a kind of database that is supported; give {allowed}.")
    if backend != "sqlite":
        return parsed
    if parsed.host:
        raise StorageError(
            f"{url!r} has two slashes where a file needs three; write sqlite:///{parsed.host}/... for a path from"
            " the current folder, four slashes for an absolute one."
        )
    if not parsed.database or ":memory:" in parsed.database or parsed.database.startswith("file:"):
        raise StorageError(
            f"{url!r} names no file, and runs are trained by other processes that must be able to open it;"
            " give a file, such as sqlite:///runs.db."
        )
    return parsed.set(database=os.path.abspath(os.path.expanduser(parsed.database)))


def _is_text(name: str) -> bool:
    """Whether a name from the command line, where any bytes may come, can be encoded."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def make_engine(url: URL, *, foreign_keys: bool = True) -> Engine:
    """An engine for `url`; `foreign_keys=False` is for migrations that rebuild a table.

    Raises StorageError when PostgreSQL's driver is not installed.
    """
    if url.get_backend_name() != "sqlite":
        try:
            return create_engine(url, pool_pre_ping=True)
        except (ModuleNotFoundError, NoSuchModuleError) as error:
            raise StorageError(
                f"The driver for {url.drivername} is not installed ({error}); install it with"
                " `pip install psycopg[binary]` or use a SQLite file, such as sqlite:///runs.db."
            ) from error
    # the connection that was used last is taken first: the others would read the same pages again
    engine = create_engine(url, module=sqlite_module, connect_args={"timeout": BUSY_TIMEOUT}, pool_use_lifo=True)
    path = Path(url.database)

    @event.listens_for(engine, "connect")
    def on_connect(connection, record):
        # Python's own transaction handling is switched off: `on_begin` says when and how one begins.
        connection.isolation_level = None
        begin_journal(connection, journal_of(path, sqlite_module.sqlite_version_info))
        connection.execute(f"PRAGMA foreign_keys={'ON' if foreign_keys else 'OFF'}")

    @event.listens_for(engine, "begin")
    def on_begin(connection):
        words = connection.get_execution_options().get("sqlite_begin", "BEGIN")
        with _driver(connection.dialect, words, ()):
            connection.connection.cursor().execute(words)

    return engine


class Prepared:
    """A statement that is put into words once for each kind of database: for what is asked all the time.

    Its values go to the driver as they are, so give plain numbers and clean text, and the driver's values come back:
    choose columns that need no conversion. Values come by name, those that never change from the statement itself.
    SQLAlchemy is not asked again, so its events do not hear of it.
    """

    def __init__(self, statement: Select | Update | Insert):
        self._statement = statement
        self._known: dict[str, tuple[SQLCompiler, dict[str, Any]]] = {}

    def rows(self, connection: Connection, **values: object) -> list[tuple[Any, ...]]:
        """All rows, in one round trip and in the connection's transaction."""
        return self.rows_of(connection.connection, connection.dialect, values)

    def execute(self, connection: Connection, **values: object) -> None:
        """For a statement that gives no rows."""
        words, given = self._words(connection.dialect, values)
        with _driver(connection.dialect, words, given):
            connection.connection.cursor().execute(words, given)

    def rows_of(self, connection: PoolProxiedConnection, dialect: Dialect, values: Mapping[str, object]
                ) -> list[tuple[Any, ...]]:
        """Like `rows`, of the driver's own connection."""
        words, given = self._words(dialect, values)
        with _driver(dialect, words, given):
            cursor = connection.cursor()
            cursor.execute(words, given)
            return cursor.fetchall()

    def _words(self, dialect: Dialect, values: Mapping[str, object]) -> tuple[str, Any]:
        """The statement as the driver takes it, and its values."""
        compiled, constants = self._known.get(dialect.name) or self._compile(dialect)
        given = {**constants, **values}
        if not compiled.positional:
            return compiled.string, given
        return compiled.string, tuple([given[name] for name in compiled.positiontup])

    def _compile(self, dialect: Dialect) -> tuple[SQLCompiler, dict[str, Any]]:
        compiled = self._statement.compile(dialect=dialect)
        self._known[dialect.name] = compiled, dict(compiled.params)
        return self._known[dialect.name]


class PreparedForIds:
    """A `Prepared` about a collection of ids, however many there are: they travel as one value, a JSON list.

    Args:
        build: makes the statement from the ids, which are for `column.in_()`.
    """

    def __init__(self, build: Callable[[Select], Select]):
        self._of = cache(lambda dialect_name: Prepared(build(_given_ids(dialect_name))))

    def rows(self, db: Database, ids: Collection[int], **values: object) -> list[tuple[Any, ...]]:
        """Like `Database.rows`; none for no ids."""
        if not ids:
            return []
        return db.rows(self._of(db.engine.dialect.name), given_ids=json.dumps([*ids]), **values)


def _given_ids(dialect_name: str) -> Select:
    """The ids of a JSON list, a row each."""
    given = bindparam("given_ids", type_=Text)
    if dialect_name == "sqlite":
        return select(func.json_each(given).table_valued("value").c.value)
    return select(cast(func.json_array_elements_text(cast(given, JSON)).table_valued("value").c.value, BigInteger))


def upsert(connection: Connection, table: Table, key: Sequence[str]) -> Insert:
    """INSERT ... ON CONFLICT (key) DO UPDATE of every other column; the rows given to `execute` must be whole."""
    return upsert_of(connection.dialect.name, table, tuple(key))


def upsert_plain(connection: Connection, table: Table, key: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Upserts rows of plain numbers that need no conversion: the write of every step, at a fraction of the cost.

    Args:
        rows: whole ones, their values in the order of the table's columns.
    """
    words, names = _upsert_words(connection.dialect, table, tuple(key))
    given = [dict(zip(names, row)) for row in rows] if names else rows
    with _driver(connection.dialect, words, given):
        connection.connection.cursor().executemany(words, given)


def new_insert(connection: Connection, table: Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that knows ON CONFLICT: both dialects have it under the same names."""
    return _new_insert(connection.dialect.name, table)


def _new_insert(dialect_name: str, table: Table) -> sqlite.Insert | postgresql.Insert:
    return (sqlite.insert if dialect_name == "sqlite" else postgresql.insert)(table)


@cache
def upsert_of(dialect_name: str, table: Table, key: tuple[str, ...]) -> Insert:
    """Like `upsert`, where there is no connection yet."""
    insert = _new_insert(dialect_name, table)
    others = [column.name for column in table.columns if column.name not in key]
    return insert.on_conflict_do_update(index_elements=key, set_={name: insert.excluded[name] for name in others})


@cache
def _upsert_words(dialect: Dialect, table: Table, key: tuple[str, ...]) -> tuple[str, Sequence[str]]:
    """An upsert as the driver takes it, and the names of its values where it takes them by name."""
    names = [column.name for column in table.columns]
    compiled = upsert_of(dialect.name, table, key).compile(dialect=dialect, column_keys=names)
    assert not compiled.positional or list(compiled.positiontup) == names
    return compiled.string, () if compiled.positional else names


@contextmanager
def _driver(dialect: Dialect, words: str, given: Any) -> Iterator[None]:
    """Turns an error of the driver about a statement into SQLAlchemy's."""
    try:
        yield
    except dialect.loaded_dbapi.Error as error:
        raise DBAPIError.instance(words, given, error, dialect.loaded_dbapi.Error, dialect=dialect) from error


def _prepare_folder(path: Path) -> None:
    if path.is_dir():
        raise StorageError(f"{path} is a folder, not a database file; give a file in it, such as {path / 'runs.db'}.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error) from error
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise unwritable(path, PermissionError("no permission to write there"))
    # SQLite would open it quietly for reading, and fail at the first write.
    if path.exists() and not os.access(path, os.W_OK):
        raise StorageError(_sentence(str(path), "readonly"))


def unwritable(path: Path, error: OSError) -> StorageError:
    """The sentence for a folder that cannot be written."""
    return StorageError(
        f"The folder {path.parent} cannot be written ({error.strerror or error}); choose one that you may write to"
        " with --data-dir or --database."
    )


@contextmanager
def sentences(name: str) -> Iterator[None]:
    """Turns a driver's error about the state of database `name` into a StorageError.

    Errors that only a wrong program can cause (bad SQL, a broken constraint) pass unchanged.
    """
    try:
        yield
    except IntegrityError:
        raise
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in _NOT_THERE:
            raise
        raise StorageError(_older(name, str(error.orig).splitlines()[0])) from error
    except (OverflowError, DataError) as error:
        raise OutOfRange from error
    except DatabaseError as error:
        message = str(error.orig)
        kind = Damaged if any(symptom in message for symptom in _DAMAGE) else StorageError
        raise kind(_sentence(name, message)) from error


def _older(name: str, message: str) -> str:
    return (
        f"{name} was not made by this version of BGPO Studio ({message}); restart the app, which brings an older one"
        " up to date."
    )


def _sentence(name: str, message: str) -> str:
    known = {
        "not a database": f"{name} is not a SQLite database; move that file away or give another with --database."
        f" If runs were kept in it, {_REPAIR}",
        "malformed": f"{name} is damaged ({message}); put back a copy or give another file with --database. {_REPAIR}",
        "readonly": f"{name} cannot be written; make the file and its folder writable or give another file with"
        " --database.",
        "unable to open": f"{name} cannot be opened; check that its folder exists and that you may write to it.",
        "locked": f"{name} is busy: another process has been writing to it for {BUSY_TIMEOUT:.0f} seconds; end that"
        " process or try again.",
        **dict.fromkeys(
            ("no such column", "no such table", "has no column named"), _older(name, message),
        ),
        "is full": f"The disk that holds {name} is full; free some space, nothing stored so far is lost.",
    }
    cause = " ".join(message.split())
    fallback = f"The database {name} did not answer as expected ({cause}); check that it can be reached."
    return next((sentence for symptom, sentence in known.items() if symptom in message), fallback)
