"""From every earlier version, with data in place as that version left it, to this one: nothing is lost or changed."""

import errno
import shutil
from contextlib import closing

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from storage.completions import completions_of
from storage.database import Database, StorageError, open_database, sqlite_module, sqlite_url
from storage.metrics import points_after, series
from storage.rollouts import group_of, groups_of, rollout_id
from storage.rollups import WIDTHS
from storage.runs import delete_run, get_run
from storage.search import search_rollouts
from storage.sparklines import packed
from storage.upgrade import BACKUPS_KEPT, MIGRATIONS, upgrade
from tests.storage.conftest import administer, database_at
from tests.storage.test_database import HEAD, differences
from tests.storage.test_rollups import assert_sound, expected, small

REVISIONS = sorted(path.name[:4] for path in MIGRATIONS.glob("versions/0*.py"))
# long enough for a bucket of the widest level, with gaps and a spike in it
VALUES = {step: None if step % 7 == 3 else 1e6 if step == 4322 else step % 100 / 100 for step in range(2, 9000, 3)}
RUN = dict(
    id=7, name="old", status="failed", phase="", config_json="{}", folder="/x", created_at=1, queued_at=1, step=8999,
    train_steps=9000, phase_done=0, phase_total=0, seconds=9, reason="", point_sequence=9000,
)
ROLLOUT = dict(
    id=rollout_id(7, 3, 2, 1), run_id=7, step=3, problem_index=2, completion_index=1, completion="<b>085</b>",
    reward=0.5, advantage=-1, tokens=4, reason="late", parts='{"answer": 0.5}', disagrees=0, trace=b"",
)
# (reward, parts) of a group whose rewards pay for form, and whether each is right
PAID = [
    (4, '{"correct": 1.0, "tags": 0.5}', True), (2, '{"correct": 0.0, "tags": 0.5}', False),
    (3, '{"correct": null}', False), (1, "{}", True), (0.5, "{}", False), (None, "{}", False),
]  # fmt: skip
PAID_ROWS = [
    ROLLOUT | dict(id=rollout_id(7, 3, 3, index), problem_index=3, completion_index=index, completion=f"text {index}",
                   reward=reward, parts=parts) for index, (reward, parts, _) in enumerate(PAID)
]  # fmt: skip
GROUP = dict(
    id=rollout_id(7, 3, 2), run_id=7, step=3, problem_index=2, prompt="37+48", prompt_key=1, expected="085",
    completions=1, worst=0.5, mean=0.5, best=0.5, disagreeing=0,
)
PAID_GROUP = GROUP | dict(id=rollout_id(7, 3, 3), problem_index=3, completions=6, worst=0.5, mean=2.1, best=4)
# what each table of any version holds; those that a version does not have are left out
ROWS = {
    "run": [RUN],
    "metric": [dict(id=1, name="m")],
    "point": [dict(run_id=7, metric_id=1, step=s, seconds=s * 0.5, value=v, sequence=s + 1) for s, v in VALUES.items()],
    "latest": [dict(run_id=7, metric_id=1, step=8999, value=VALUES[8999])],
    "run_event": [dict(id=1, run_id=7, time=1, who="", from_status="", to_status="failed", why="")],
    "completion": [
        dict(run_id=7, kind="held_out", step=20, problem_index=number, prompt="1+1", completion="2", expected="2",
             reward=1, reason="", trace="[]") for number in range(3)
    ],
    "checkpoint": [dict(id=5, run_id=7, step=60, kind="last", folder="/x/60", created_at=1, reward=0.5)],
    "alert": [dict(run_id=7, step=61, name="collapse", severity="serious", message="It fell.", time=2)],
    "run_tag": [dict(run_id=7, tag="kept")],
    "run_note": [dict(run_id=7, notes="mine", archived=False)],
    "saved_view": [dict(id=1, name="v", query="{}", created_at=1)],
    "rollout_group": [GROUP, PAID_GROUP],
    "rollout": [ROLLOUT, *PAID_ROWS],
    "setting": [dict(name="a", value="b")],
    "sweep": [dict(id=1, name="s", plan_json="{}", created_at=1)],
    "lease": [dict(device="cpu@here:0", run_id=7, epoch=0, taken_at=1)],
    "vote": [
        dict(id=1, checkpoint_a=5, checkpoint_b=5, prompt="1+1", answer_a="2", answer_b="3", settings="{}", choice="a",
             time=1)
    ],
    "sparkline": [dict(run_id=7, metric_id=1, pairs=packed(small(VALUES)[:-1]))],
    "rollup": [
        dict(run_id=7, metric_id=1, level=level, bucket=b.step // width) | b._asdict()
        for level, width in enumerate(WIDTHS)
        for b in expected({s: v for s, v in VALUES.items() if s // width < 8999 // width}, lambda s, w=width: s // w)
    ],
}


@pytest.fixture
def empty(request, tmp_path, kind):
    """The URL of a database of that kind without a schema."""
    if kind == "sqlite":
        yield sqlite_url(tmp_path / "old.db")
        return
    server = request.getfixturevalue("migrated_server")
    administer(server, "CREATE DATABASE old_version")
    yield database_at(server, "old_version")
    administer(server, "DROP DATABASE old_version WITH (FORCE)")


def at(url, revision, tmp_path):
    """A database of that version with ROWS in it; how many rows each of its tables holds."""
    later = [f"{name}_*" for name in REVISIONS if name > revision]
    folder = tmp_path / f"until {revision}"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__", *later))
    db = Database(url)
    upgrade(db, folder)
    with db.write() as connection:
        there = set(inspect(connection).get_table_names())
        for table, rows in ROWS.items():
            if table in there:
                names = list(rows[0])
                values = ", ".join(f":{name}" for name in names)
                connection.execute(text(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({values})"), rows)
        if "rollup" in there:
            finite = [value for value in VALUES.values() if value is not None]
            ends = {"low": min(finite), "high": max(finite)}
            connection.execute(text("UPDATE latest SET minimum = :low, maximum = :high"), ends)
    db.close()
    return {table: len(rows) for table, rows in ROWS.items() if table in there}


def counted(db, tables):
    with db.read() as connection:
        return {table: connection.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables}


def versions():
    """Every version on both kinds of database; on PostgreSQL those in the middle take a while."""
    for number, revision in enumerate(REVISIONS):
        yield pytest.param("sqlite", revision)
        yield pytest.param("postgresql", revision, marks=pytest.mark.slow if 0 < number < len(REVISIONS) - 1 else ())


@pytest.mark.parametrize("kind, revision", list(versions()))
def test_every_version_comes_here_with_all_its_rows(empty, revision, tmp_path):
    before = at(empty, revision, tmp_path)
    db = open_database(empty)
    try:
        assert counted(db, before) == before
        assert {point.step: point.value for point in points_after(db, 7, 0)[0]} == VALUES
        assert_sound(db, 7, VALUES)
        assert series(db, 7, "m", buckets=1) == expected(VALUES, lambda step: 0)
        assert get_run(db, 7).name == "old"
        assert [item.completion for item in completions_of(db, 7)] == ["2"] * 3
        found, _ = search_rollouts(db, 7, "085")
        assert [item.parts for item in found] == ([{"answer": 0.5}] if "rollout" in before else [])
        if "rollout" in before and revision < "0011":  # no verdict was kept yet
            assert [item.solved for item in group_of(db, 7, 3, 3)] == [right for *_, right in PAID]
            assert {item.problem_index: item.solved for item in groups_of(db, 7)} == {2: 0, 3: 2}
        with db.read() as connection:
            assert differences(connection) == []
        copies = list(tmp_path.glob("old.db.schema-*.backup"))
        assert len(copies) == (1 if db.path and revision < HEAD else 0)
        delete_run(db, 7)
        left = counted(db, before)
        assert not any(left[table] for table in ("run", "point", "latest", "completion", "run_event"))
    finally:
        db.close()


def test_the_rows_cover_every_table_of_this_version(tmp_path):
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    with db.read() as connection:
        tables = {name for name in inspect(connection).get_table_names() if not name.startswith("rollout_text")}
    assert tables - {"alembic_version"} == set(ROWS)


def test_the_versions_are_one_line():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert scripts == REVISIONS[::-1]


def test_the_copies_of_earlier_schemas_do_not_pile_up(tmp_path):
    url = sqlite_url(tmp_path / "bgpo.db")
    at(url, "0001", tmp_path)
    old = [tmp_path / f"bgpo.db.schema-000{n}.2020010{n}T000000Z.backup" for n in range(1, 6)]
    others = [tmp_path / "other.db.schema-0001.20200101T000000Z.backup", tmp_path / "bgpo.db.schema-0001.mine.backup"]
    for path in (*old, *others):
        path.write_text("")
    open_database(url).close()
    (made,) = {*tmp_path.glob("bgpo.db.schema-0001.*Z.backup")} - {*old}
    assert made.stat().st_size
    kept = {path for path in tmp_path.glob("*.backup")}
    assert kept == {made, *old[-BACKUPS_KEPT + 1 :], *others}


@pytest.mark.parametrize("error", [
    OSError(errno.ENOSPC, "No space left on device"), sqlite_module.OperationalError("database or disk is full"),
])
def test_without_room_for_the_copy_nothing_is_changed_and_nothing_of_it_is_left(tmp_path, monkeypatch, error):
    url = sqlite_url(tmp_path / "bgpo.db")
    at(url, "0001", tmp_path)
    killed = tmp_path / "bgpo.db.schema-0001.20200101T000000Z.backup.part-journal"
    killed.write_text("")

    def full(*_):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("storage.upgrade.os.replace", full)
        with pytest.raises(StorageError, match="Nothing was changed; the copy needs "):
            open_database(url)
    assert not list(tmp_path.glob("*.part*")) and not list(tmp_path.glob("*.backup"))
    with closing(sqlite_module.connect(tmp_path / "bgpo.db")) as file:
        assert file.execute("SELECT version_num FROM alembic_version").fetchone() == ("0001",)
    open_database(url).close()


def test_a_writer_that_stands_still_keeps_nobody_from_opening(tmp_path):
    url = sqlite_url(tmp_path / "bgpo.db")
    open_database(url).close()
    with closing(sqlite_module.connect(tmp_path / "bgpo.db", isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        db = open_database(url)  # at once; it would give up after half a minute
        assert counted(db, ["run"]) == {"run": 0}
        db.close()
