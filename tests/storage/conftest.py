"""A real database per test: a new SQLite file, or the PostgreSQL of BGPO_TEST_DATABASE, emptied."""

import os
import shutil

import pytest
from sqlalchemy import create_engine, text

from storage.database import open_database, sqlite_url
from storage.runs import create_run

POSTGRES = os.environ.get("BGPO_TEST_DATABASE")


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("storage") / "migrated.db"
    open_database(sqlite_url(path)).close()
    return path


@pytest.fixture
def url(tmp_path, migrated_file):
    if not POSTGRES:
        shutil.copy(migrated_file, tmp_path / "bgpo.db")  # quicker than migrating for each test
        return sqlite_url(tmp_path / "bgpo.db")
    engine = create_engine(POSTGRES, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP SCHEMA public CASCADE"))
        connection.execute(text("CREATE SCHEMA public"))
    engine.dispose()
    return POSTGRES


@pytest.fixture
def db(url):
    database = open_database(url)
    yield database
    database.close()


@pytest.fixture
def new_run(db, tmp_path):
    def make(**values):
        return create_run(
            db, **{"name": "r", "config_json": "{}", "train_steps": 60, "runs_folder": tmp_path / "runs", **values}
        )

    return make
