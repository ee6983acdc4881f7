"""Opening a database: what can be wrong with a file, and migrations that lose nothing. SQLite only."""

import contextlib
import logging
import multiprocessing
import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import text

from storage.alerts import Alert, alerts_of
from storage.database import Database, StorageError, open_database, sqlite_module, sqlite_url
from storage.journal import wal_is_safe
from storage.metrics import Point, flush, points_after
from storage.runs import create_run, delete_run, list_runs
from storage.search import is_index
from storage.tables import metadata
from storage.upgrade import MIGRATIONS, upgrade
from tests.databases import new_database, new_file
from tests.waiting import PATIENCE

HEAD = max(path.name[:4] for path in MIGRATIONS.glob("versions/0*.py"))


def pragma(db, name):
    with db.read() as connection:
        return connection.exec_driver_sql(f"PRAGMA {name}").scalar()


def test_the_first_opening_makes_folder_file_and_schema(tmp_path):
    path = tmp_path / "new folder" / "bgpo?%20.db"
    db = open_database(sqlite_url(path))
    assert path.is_file()
    assert list_runs(db) == []
    assert open_database(db.url).path == path  # the URL of an odd name means the same file


def test_connections_are_set_up_for_several_processes(tmp_path):
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    assert pragma(db, "journal_mode") == ("wal" if wal_is_safe(sqlite_module.sqlite_version_info) else "delete")
    assert pragma(db, "synchronous") == (1 if wal_is_safe(sqlite_module.sqlite_version_info) else 2)
    assert pragma(db, "foreign_keys") == 1
    assert pragma(db, "busy_timeout") == 30_000


def test_a_relative_url_means_the_same_file_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    db = open_database("sqlite:///runs.db")
    assert db.path == tmp_path / "runs.db"
    assert db.url == sqlite_url(tmp_path / "runs.db")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Database("sqlite:///~/runs.db").path == tmp_path / "home" / "runs.db"


@pytest.mark.parametrize(
    "url, sentence",
    [
        ("runs.db", r"'runs.db' is not a database URL; give sqlite:///folder/file.db or postgresql://"),
        ("", "'' is not a database URL"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///file:x?mode=memory&uri=true", "names no file"),
        ("sqlite://runs.db", "two slashes where a file needs three"),
        ("mysql://user:secret@host/db", "mysql is not a kind of database that is supported"),
        ("postgresql+nodriver://user:secret@host/db", "nodriver is not installed"),
        ("sqlite:///runs\udcff.db", "is not text in UTF-8"),
        ("postgresql://user:secret@host:port/db", "^That is not a database URL"),
    ],
)
def test_a_url_that_cannot_work_gets_a_sentence(url, sentence):
    with pytest.raises(StorageError, match=sentence) as caught:
        open_database(url)
    assert "secret" not in str(caught.value)


def test_a_folder_of_a_name_in_no_encoding_gets_a_sentence():
    with pytest.raises(StorageError, match="choose a folder of another name"):
        sqlite_url(Path("/data\udcff/bgpo.db"))


def test_a_garbage_file_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "bgpo.db"
    path.write_bytes(b"These are my notes, not a database.\n" * 100)
    before = path.read_bytes()
    with pytest.raises(StorageError, match="is not a SQLite database; move that file away or give another"):
        open_database(sqlite_url(path))
    assert path.read_bytes() == before


def test_a_folder_is_not_a_database(tmp_path):
    with pytest.raises(StorageError, match="is a folder, not a database file; give a file in it"):
        open_database(sqlite_url(tmp_path))


def test_a_damaged_file_is_said_to_be_damaged(tmp_path):
    path = tmp_path / "bgpo.db"
    new_file(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + random.Random(0).randbytes(len(whole) - 4096))
    with pytest.raises(StorageError, match="is damaged"):
        list_runs(open_database(sqlite_url(path)))


def test_the_database_of_another_program_is_refused(tmp_path):
    path = tmp_path / "notes.db"
    with contextlib.closing(sqlite_module.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")
    with pytest.raises(StorageError, match=r"is a database of another program .it has a table 'notes'"):
        open_database(sqlite_url(path))
    with contextlib.closing(sqlite_module.connect(path)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("notes",)]


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    url = new_file(tmp_path / "bgpo.db")
    db = open_database(url)
    with db.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StorageError, match=r"newer version of BGPO Studio \(its schema is 9999.*update BGPO Studio"):
        open_database(url)
    with db.read() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar() == "9999"


def test_a_column_that_is_not_there_gets_a_sentence(db):
    """The app still runs on an older schema, and a worker of newer code writes to it."""
    with pytest.raises(StorageError, match=r"not made by this version.*restart the app"), db.read() as connection:
        connection.execute(text("SELECT of_tomorrow FROM alembic_version"))


def open_without_rights(folder, answer):
    if os.geteuid() == 0:
        os.setuid(65534)  # root may write anywhere
    try:
        open_database(sqlite_url(Path(folder) / "bgpo.db"))
        answer.send("opened")
    except StorageError as error:
        answer.send(str(error))


@pytest.mark.parametrize("prepare", ["folder", "folder_in_it", "file"])
def test_what_cannot_be_written_gets_a_sentence(prepare):
    # Not tmp_path: its parents are closed to the unprivileged user that this changes to when run by root.
    with tempfile.TemporaryDirectory() as base:
        os.chmod(base, 0o755)
        folder = Path(base) / "data"
        folder.mkdir()
        if prepare == "file":
            new_file(folder / "bgpo.db")
            os.chmod(folder / "bgpo.db", 0o444)
            os.chmod(folder, 0o777)
        else:
            os.chmod(folder, 0o555)
        given = folder / "deeper" if prepare == "folder_in_it" else folder
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(target=open_without_rights, args=(str(given), there))
        process.start()
        assert here.poll(PATIENCE)
        sentence = here.recv()
        process.join()
        os.chmod(folder, 0o755)
    expected = "bgpo.db cannot be written; make the file" if prepare == "file" else f"The folder {given} cannot be"
    assert expected in sentence
    assert "--data" in sentence


def differences(connection):
    """Between the tables in the code and in the database; the search index is no table of the code."""
    options = {"include_name": lambda name, kind, parents: not is_index(name)}
    return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)


def test_models_and_migrations_agree(tmp_path):
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    with db.read() as connection:
        assert differences(connection) == []


NEXT = """
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "next", "{head}", None, None


def upgrade():
    with op.batch_alter_table("run", recreate="always") as batch:
        batch.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
    {more}
"""


def next_version(tmp_path, more="pass"):
    """A copy of the migrations with one more, which rebuilds `run`: the table that everything refers to."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "next.py").write_text(NEXT.format(head=HEAD, more=more))
    return folder


def with_a_run(tmp_path):
    db = new_database(tmp_path / "bgpo.db")
    run = create_run(db, name="r", config_json="{}", train_steps=1, runs_folder=tmp_path / "runs")
    flush(db, run.id, [Point("lr", step, 0.0, 1.0) for step in range(1000)])
    return db, run.id


def test_an_upgrade_keeps_every_row_and_a_copy_of_the_old_file(tmp_path):
    db, id = with_a_run(tmp_path)
    upgrade(db, next_version(tmp_path))
    assert len(points_after(db, id, 0)[0]) == 1000
    with db.read() as connection:
        assert connection.execute(text("SELECT note FROM run")).scalar() == ""
    (backup,) = tmp_path.glob(f"bgpo.db.schema-{HEAD}.*.backup")
    old = open_database(sqlite_url(backup))  # this version still opens it
    assert len(points_after(old, id, 0)[0]) == 1000
    upgrade(db, tmp_path / "migrations")
    assert len(list(tmp_path.glob("*.backup"))) == 1  # nothing to do, no copy


def at_the_first_version(tmp_path):
    """A database as the first version left it, with a run, its points and its past."""
    folder = tmp_path / "first version"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", "000[2-9]_*", "00[1-9]?_*"))
    db = Database(sqlite_url(tmp_path / "old.db"))
    upgrade(db, folder)
    columns = "id, name, status, phase, config_json, folder, created_at, queued_at, step, train_steps, phase_done," \
        " phase_total, seconds, reason, point_sequence"
    with db.write() as connection:
        for statement in (
            f"INSERT INTO run ({columns}) VALUES (7, 'old', 'failed', '', '{{}}', '/x', 1, 1, 60, 60, 0, 0, 9, '', 3)",
            "INSERT INTO metric (id, name) VALUES (1, 'reward/mean')",
            "INSERT INTO point VALUES (7, 1, 1, 0.5, 0.25, 1), (7, 1, 2, 1.0, NULL, 2), (7, 1, 3, 1.5, 0.75, 3)",
            "INSERT INTO latest VALUES (7, 1, 3, 0.75)",
            "INSERT INTO run_event VALUES (1, 7, 1, '', '', 'failed', '')",
        ):
            connection.execute(text(statement))
    return db


def test_a_database_of_the_first_version_gets_alerts_and_keeps_its_runs(tmp_path):
    at_the_first_version(tmp_path).close()
    db = open_database(sqlite_url(tmp_path / "old.db"))
    assert [(run.id, run.name, run.step) for run in list_runs(db)] == [(7, "old", 60)]
    assert [(point.step, point.value) for point in points_after(db, 7, 0)[0]] == [(1, 0.25), (2, None), (3, 0.75)]
    assert alerts_of(db, 7) == []
    alert = Alert(61, "collapse", "serious", "It fell.", 2.0)
    flush(db, 7, [Point("reward/mean", 61, 2.0, 0.0)], alerts=[alert])
    assert alerts_of(db, 7) == [alert]
    with db.read() as connection:
        assert differences(connection) == []
    assert len(list(tmp_path.glob("old.db.schema-0001.*.backup"))) == 1
    delete_run(db, 7)
    with db.read() as connection:
        assert connection.execute(text("SELECT count(*) FROM alert")).scalar() == 0


def test_an_upgrade_that_fails_changes_nothing(tmp_path):
    db, id = with_a_run(tmp_path)
    with pytest.raises(ZeroDivisionError):
        upgrade(db, next_version(tmp_path, more="1 / 0"))
    assert len(points_after(open_database(db.url), id, 0)[0]) == 1000
    with db.read() as connection:
        columns = {row[1] for row in connection.exec_driver_sql("PRAGMA table_info(run)")}
    assert "note" not in columns


def test_an_upgrade_that_would_orphan_rows_is_undone(tmp_path):
    db, id = with_a_run(tmp_path)
    # its points, their 32 buckets, their small curve, the latest of them and the event of its creation
    with pytest.raises(StorageError, match="1035 rows without the run they belong to"):
        upgrade(db, next_version(tmp_path, more='op.execute("DELETE FROM run")'))
    assert [run.id for run in list_runs(db)] == [id]


def test_opening_leaves_logging_alone(tmp_path):
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level, logging.root.manager.disable)
    quiet = logging.getLogger("someone.elses")
    open_database(sqlite_url(tmp_path / "bgpo.db"))
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level, logging.root.manager.disable) == before
    assert not quiet.disabled


def test_the_password_is_in_the_url_but_not_in_what_is_shown():
    pytest.importorskip("psycopg", reason="PostgreSQL's driver is optional")
    db = Database("postgresql://user:secret@host/name")
    assert "secret" in db.url
    assert "secret" not in db.shown_url + db.name
