"""A real database per test, and each test on both kinds: a new SQLite file, and a new database of a PostgreSQL server.

The server is the machine's own program, started for the tests; without one they are skipped there, with the reason.
"""

import itertools

import pytest
from sqlalchemy import create_engine, make_url, text

from storage.database import open_database
from storage.runs import create_run
from tests.databases import new_file
from tests.storage import postgres

_numbers = itertools.count()


@pytest.fixture(scope="session")
def migrated_server():
    """A server with a migrated database named `migrated`."""
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.server() as url:
        administer(url, "CREATE DATABASE migrated")
        open_database(database_at(url, "migrated")).close()
        yield url


def administer(url, statement):
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()


def database_at(url, name):
    return make_url(url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield new_file(tmp_path / "bgpo.db")
        return
    server, name = request.getfixturevalue("migrated_server"), f"test_{next(_numbers)}"
    administer(server, f"CREATE DATABASE {name} TEMPLATE migrated")
    yield database_at(server, name)
    administer(server, f"DROP DATABASE {name} WITH (FORCE)")


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
