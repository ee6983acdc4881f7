"""New databases at this version's schema, each a copy of one file that is migrated once per process.

Migrating takes a third of a second, and hundreds of tests ask for a database of their own. Tests of opening and of
migrating call `open_database` themselves.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from storage.database import Database, open_database, sqlite_url


@cache
def _migrated() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory(prefix="bgpo-migrated-")  # kept by the cache, removed when the process ends
    path = Path(folder.name, "bgpo.db")
    open_database(sqlite_url(path)).close()
    return folder, path


def new_file(path: Path) -> str:
    """An empty database of this version at `path`, whose folder is made; its URL."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_migrated()[1], path)
    return sqlite_url(path)


def new_database(path: Path) -> Database:
    return open_database(new_file(path))
