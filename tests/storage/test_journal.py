"""WAL only where it is safe: not under an old SQLite, not on a drive of another machine. What is used there works."""

import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import psutil
import pytest

from storage.database import open_database, sqlite_module, sqlite_url
from storage.journal import is_network, journal_of, network_drive, wal_is_safe
from storage.metrics import Point, flush, points_after
from storage.runs import create_run, get_run
from storage.salvage import is_sound
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def mounted(tmp_path, monkeypatch):
    """Puts lines into a mount table that is looked into instead of this machine's; returns the folder it is in."""
    proc = tmp_path / "proc"

    def make(*lines: str) -> Path:
        (proc / "self").mkdir(parents=True, exist_ok=True)
        table = "\n".join(["/dev/vda / ext4 rw 0 0", *lines, ""])
        (proc / "self" / "mounts").write_bytes(table.encode("utf-8", "surrogateescape"))
        monkeypatch.setattr(psutil, "PROCFS_PATH", str(proc))
        journal_of.cache_clear()
        return proc

    yield make
    journal_of.cache_clear()


@pytest.mark.parametrize(
    "version, safe",
    [
        ((3, 40, 1), False),
        ((3, 44, 5), False),
        ((3, 44, 6), True),
        ((3, 45, 0), False),
        ((3, 50, 6), False),
        ((3, 50, 7), True),
        ((3, 51, 0), False),
        ((3, 51, 2), False),
        ((3, 51, 3), True),
        ((3, 53, 4), True),
    ],
)
def test_which_sqlite_may_use_wal(version, safe):
    assert wal_is_safe(version) is safe


def test_an_old_sqlite_gets_the_slower_journal_and_a_warning(tmp_path):
    journal_of.cache_clear()
    with pytest.warns(UserWarning, match="SQLite 3.40.1 has a race in WAL mode, so the slower DELETE mode is used"):
        assert journal_of(tmp_path / "bgpo.db", (3, 40, 1)).mode == "DELETE"


@pytest.mark.parametrize(
    "kind, network",
    [
        *((kind, True) for kind in ("nfs", "nfs4", "NFS", "cifs", "smb3", "9p", "lustre", "ceph", "afs", "virtiofs")),
        *((kind, True) for kind in ("fuse.sshfs", "fuse.glusterfs", "fuse.rclone", "fuse.never-heard-of", "fuse")),
        *((kind, False) for kind in ("ext4", "xfs", "btrfs", "tmpfs", "overlay", "fuseblk", "fuse.mergerfs", "")),
    ],
)
def test_which_file_systems_are_another_machines(kind, network):
    assert is_network(kind) is network


def test_the_longest_mount_point_above_the_file_decides(mounted, tmp_path):
    here = tmp_path / "data"
    here.mkdir()
    mounted(f"server:/x {tmp_path} nfs4 rw 0 0")
    assert network_drive(here / "bgpo.db") == "nfs4"
    mounted(f"server:/x {tmp_path} nfs4 rw 0 0", f"/dev/vdb {here} ext4 rw 0 0")
    assert network_drive(here / "bgpo.db") is None
    mounted(f"/dev/vdb {here} ext4 rw 0 0", f"server:/x {tmp_path} nfs4 rw 0 0")  # whatever their order
    assert network_drive(here / "bgpo.db") is None
    mounted(f"/dev/vdb {here} ext4 rw 0 0", f"me@there: {here} fuse.sshfs rw 0 0")  # the later covers the earlier
    assert network_drive(here / "bgpo.db") == "fuse.sshfs"
    mounted(f"server:/x {tmp_path}/dat nfs4 rw 0 0", f"server:/x {here}/bgpo nfs4 rw 0 0")  # beside it, not above it
    assert network_drive(here / "bgpo.db") is None


def test_links_are_followed_to_where_the_file_is(mounted, tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "near").symlink_to(tmp_path / "far")
    mounted(f"server:/x {tmp_path}/far nfs rw 0 0")
    assert network_drive(tmp_path / "near" / "new folder" / "bgpo.db") == "nfs"


def test_odd_lines_of_the_table_are_read_past(mounted, tmp_path):
    here = tmp_path / "with space\tand \\040 \udcff"
    escaped = str(here).replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
    mounted(
        "", "garbage", "# a comment /x nfs rw 0 0", "none", "two fields", "a relative/mount nfs rw 0 0",
        f"{'x' * 3000} /{'y' * 500} nfs rw 0 0", "s \\040 nfs rw 0 0", f"s:/x {escaped} cifs rw 0 0",
    )
    assert network_drive(here / "bgpo.db") == "cifs"
    assert network_drive(tmp_path / "bgpo.db") is None


def test_no_table_at_all_is_no_network_drive(tmp_path, monkeypatch):
    monkeypatch.setattr(psutil, "PROCFS_PATH", str(tmp_path / "nothing"))
    assert network_drive(tmp_path / "bgpo.db") is None


def test_a_network_drive_gets_the_slower_journal_and_says_so(mounted, tmp_path):
    mounted(f"server:/x {tmp_path} nfs4 rw 0 0")
    path = tmp_path / "bgpo.db"
    with pytest.warns(UserWarning, match=r"is on a network drive \(nfs4\).*so the slower DELETE mode is used"):
        db = open_database(sqlite_url(path))
    assert db.warning == journal_of(path, sqlite_module.sqlite_version_info).warning != ""
    with db.read() as connection:
        settings = [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous")]
    assert settings == ["delete", 2]
    assert [file.name for file in tmp_path.glob("bgpo.db-*")] == []


@pytest.mark.filterwarnings("ignore:.*network drive")
def test_a_wal_that_is_left_there_is_taken_over_and_gone(mounted, tmp_path):
    """As of a process that was killed, or of a version that did not look: the newest commits are in the WAL only."""
    with closing(open_database(sqlite_url(tmp_path / "before.db"))) as old:
        run = create_run(old, name="r", config_json="{}", train_steps=9, runs_folder=tmp_path / "runs")
        flush(old, run.id, [Point("lr", step, 0.0, 1.0) for step in range(50)])
        (tmp_path / "there").mkdir()
        for suffix in ("", "-wal"):
            shutil.copy(f"{old.path}{suffix}", tmp_path / "there" / f"bgpo.db{suffix}")
    assert (tmp_path / "there" / "bgpo.db-wal").stat().st_size > 0
    mounted(f"server:/x {tmp_path}/there 9p rw 0 0")
    path = tmp_path / "there" / "bgpo.db"
    assert is_sound(path)
    with closing(open_database(sqlite_url(path))) as db:
        assert len(points_after(db, run.id, 0)[0]) == 50
        assert sorted(file.name for file in path.parent.iterdir()) == ["bgpo.db"]
        with db.read() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"


WRITE = """
import sys, psutil
psutil.PROCFS_PATH = sys.argv[4]
from storage.database import Database
from storage.metrics import Point, Progress, flush
db, run_id, steps = Database(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with db.read() as connection:
    assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
for step in range(1, steps + 1):
    points = [Point(f"m{k}", step, step * 0.1, float(k)) for k in range(20)]
    flush(db, run_id, points, [], Progress("training", step, steps, None, step, step * 0.1))
"""


@pytest.mark.filterwarnings("ignore:.*network drive")
def test_two_writers_and_a_reader_without_wal_lose_nothing_and_none_hears_that_it_is_locked(mounted, tmp_path):
    proc, steps = mounted(f"server:/x {tmp_path} nfs4 rw 0 0"), 40
    with closing(open_database(sqlite_url(tmp_path / "bgpo.db"))) as db:
        runs = [create_run(db, name="r", config_json="{}", train_steps=steps, runs_folder=tmp_path / "runs").id
                for _ in range(2)]  # fmt: skip
        said: list[tuple[int, str]] = []

        def write(run_id: int) -> None:
            command = [sys.executable, "-W", "ignore", "-c", WRITE, db.url, str(run_id), str(steps), str(proc)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
            said.append((done.returncode, done.stderr))

        writers = [threading.Thread(target=write, args=(run_id,)) for run_id in runs]
        for writer in writers:
            writer.start()
        cursors, seen = dict.fromkeys(runs, 0), dict.fromkeys(runs, 0)
        while True:
            last_look = not any(writer.is_alive() for writer in writers)
            for run_id in runs:
                part, cursors[run_id] = points_after(db, run_id, cursors[run_id])
                assert len(part) % 20 == 0  # never a part of a step
                seen[run_id] += len(part)
            if last_look:
                break
        assert said == [(0, ""), (0, "")]
        assert seen == dict.fromkeys(runs, 20 * steps)
        assert [get_run(db, run_id).step for run_id in runs] == [steps, steps]
        with db.read() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
