"""Brings a database to the schema of this version of the code, in process and safely beside other processes."""

from __future__ import annotations

import glob
import os
import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine, inspect, text

from storage.database import Database, StorageError, make_engine, parse_url, sentences, sqlite_module, unwritable
from storage.tables import metadata

MIGRATIONS = Path(__file__).parent / "migrations"
LOCK_TIMEOUT = 120.0  # seconds to wait for another process that upgrades the same file
BACKUPS_KEPT = 3  # of earlier schemas, beside the file
POSTGRES_LOCK = 0x6267706F  # any constant, the same in every process


def upgrade(database: Database, migrations: Path = MIGRATIONS) -> None:
    """Creates or upgrades the schema; a no-op when it is current. Raises StorageError.

    One process at a time, in one transaction: a crash in the middle leaves the old schema. Before an
    existing schema is changed, a copy of the SQLite file is written beside it; the last three copies are kept.
    """
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    # Rebuilding a table with foreign keys on would cascade: altering `run` would delete every point.
    engine = make_engine(parse_url(database.url), foreign_keys=False)
    writer = engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
    try:
        # a look first: whoever only reads must not wait for a writer, nor for one that stands still
        with sentences(database.name):
            if _is_current(engine, database, scripts):
                return
        with sentences(database.name), _alone(database), writer.connect() as connection, connection.begin():
            _upgrade(connection, database, config, scripts)
    finally:
        engine.dispose()


def _is_current(engine: Engine, database: Database, scripts: ScriptDirectory) -> bool:
    if database.path and not database.path.exists():
        return False  # to look would make the file
    with engine.connect() as connection:
        revision = MigrationContext.configure(connection).get_current_revision()
    return revision == scripts.get_current_head()


def _upgrade(connection: Connection, database: Database, config: Config, scripts: ScriptDirectory) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRES_LOCK})
    current, head = _current(connection, database, scripts), scripts.get_current_head()
    if current == head:
        return
    if current and database.path:
        _back_up(database.path, current)
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    _check_foreign_keys(connection, database)


def _current(connection: Connection, database: Database, scripts: ScriptDirectory) -> str | None:
    """The schema's revision, None for an empty database; refuses what this code did not make."""
    current = MigrationContext.configure(connection).get_current_revision()
    known = [script.revision for script in scripts.walk_revisions()]
    if current and current not in known:
        raise StorageError(
            f"{database.name} was made by a newer version of BGPO Studio (its schema is {current}, this version knows"
            f" up to {known[0]}); update BGPO Studio or give another database with --database."
        )
    tables = set(inspect(connection).get_table_names())
    # A SQLite file belongs to one program; a PostgreSQL schema may hold other people's tables under other names.
    strangers = tables if database.path else tables & set(metadata.tables)
    if not current and strangers - {"alembic_version"}:
        raise StorageError(
            f"{database.name} is a database of another program (it has a table {min(strangers)!r}); give another"
            " with --database."
        )
    return current


@contextmanager
def _alone(database: Database) -> Iterator[None]:
    """Holds the lock file beside a SQLite file; PostgreSQL has its own locks."""
    if not database.path:
        yield
        return
    lock = FileLock(f"{database.path}.lock", timeout=LOCK_TIMEOUT)
    try:
        lock.acquire()
    except Timeout:
        raise StorageError(
            f"Another process has been upgrading {database.path} for {LOCK_TIMEOUT:.0f} seconds; wait for it or end it."
        ) from None
    except OSError as error:
        raise unwritable(database.path, error) from error
    try:
        yield
    finally:
        lock.release()


def _back_up(path: Path, revision: str) -> Path:
    """Copies the file by SQLite's own means (a plain copy would miss the WAL and drop this process's locks).

    Raises StorageError when that fails, and leaves nothing of the copy.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    target = path.with_name(f"{path.name}.schema-{revision}.{stamp}.backup")
    unfinished = target.with_name(target.name + ".part")
    try:
        with closing(sqlite_module.connect(path)) as source, closing(sqlite_module.connect(unfinished)) as copy:
            source.backup(copy)
        os.replace(unfinished, target)
    except (sqlite_module.Error, OSError) as error:
        raise StorageError(
            f"{path} is of an earlier version, and the copy that is made before it is upgraded could not be written"
            f" ({error}). Nothing was changed; the copy needs {path.stat().st_size / 1e6:,.0f} MB in {path.parent}."
        ) from error
    finally:
        _remove_unfinished(path)
    _prune_backups(path)
    return target


def _remove_unfinished(path: Path) -> None:
    """Copies that broke off, now or in a process that was killed; only the holder of the lock writes any."""
    for left in path.parent.glob(f"{glob.escape(path.name)}.schema-*.backup.part*"):
        with suppress(OSError):
            left.unlink()


def _prune_backups(path: Path) -> None:
    """Keeps the newest copies: a database of many gigabytes must not fill the disk with its past."""
    name = re.compile(re.escape(path.name) + r"\.schema-[^.]+\.(\d{8}T\d{6}Z)\.backup")
    copies = [(found[1], copy) for copy in path.parent.iterdir() if (found := name.fullmatch(copy.name))]
    for _, copy in sorted(copies)[:-BACKUPS_KEPT]:
        with suppress(OSError):  # somebody looks at it, or has moved it away: it may stay
            copy.unlink()


def _check_foreign_keys(connection: Connection, database: Database) -> None:
    if not database.path:
        return
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        raise StorageError(
            f"Upgrading {database.path} would leave {len(broken)} rows without the run they belong to, so it was"
            " undone; please report this, the file is unchanged."
        )
