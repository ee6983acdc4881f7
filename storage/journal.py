"""Which journal a SQLite file gets: WAL where that is safe, else the slower one that always is, and a sentence why.

WAL keeps an index in memory that all processes on the file share. Processes on two machines share none, so on a drive
of another machine each would overwrite what the other wrote.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil

# As the mount table names them. Of what programs mount by FUSE, all but those that keep their files on this machine.
_NETWORK = {
    "9p", "acfs", "afpfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "fakeowner", "gfs", "gfs2", "glusterfs",
    "gpfs", "lustre", "moosefs", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb",
    "smb2", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs", "webdav", "wekafs",
}  # fmt: skip
_LOCAL_FUSE = {
    "bindfs", "cryfs", "encfs", "exfat", "fuse-overlayfs", "gocryptfs", "lxcfs", "mergerfs", "ntfs", "ntfs-3g",
    "securefs", "unionfs", "zfs",
}  # fmt: skip


@dataclass(frozen=True)
class Journal:
    """A journal mode, and what a person should know of it, a sentence or nothing."""

    mode: str  # WAL or DELETE
    warning: str = ""


def wal_is_safe(version: tuple[int, ...]) -> bool:
    """Whether this SQLite has the fix for the WAL-reset race (3.51.3, back-ported to 3.50.7 and 3.44.6).

    Before it, two connections that write and checkpoint at the same instant can lose a commit.
    """
    return version >= (3, 51, 3) or (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)


def is_network(kind: str) -> bool:
    """Whether a file system of this kind, as the mount table names it, keeps its files on another machine."""
    name, _, program = kind.lower().partition(".")
    if name in ("fuse", "fuse3", "macfuse", "osxfuse"):
        return program not in _LOCAL_FUSE  # of one that nobody knows too: the slower journal is right everywhere
    return name in _NETWORK


def network_drive(path: Path) -> str | None:
    """The kind of network file system that holds the file, None for a disk of this machine or where nobody knows.

    By the longest mount point above the file, wherever links lead; the last one of several in the same place.
    """
    file = Path(os.path.realpath(path))
    try:
        mounts = psutil.disk_partitions(all=True)
    except (OSError, RuntimeError, psutil.Error):  # no table to read: as on a system that has none
        return None
    above = [(len(Path(mount.mountpoint).parts), number, mount.fstype) for number, mount in enumerate(mounts)
             if os.path.isabs(mount.mountpoint) and file.is_relative_to(mount.mountpoint)]  # fmt: skip
    kind = max(above)[2] if above else ""
    return kind if is_network(kind) else None


@cache  # one warning per process and file
def journal_of(path: Path, version: tuple[int, ...]) -> Journal:
    """The journal for a file under a SQLite of this version; warns when it is the slower one."""
    found, shown = Journal("WAL"), ".".join(map(str, version))
    if kind := network_drive(path):
        found = Journal("DELETE", (
            f"{path} is on a network drive ({kind}), where SQLite's WAL mode is not safe, so the slower DELETE mode is"
            " used; better give a file on a disk of this machine, or PostgreSQL, with --database."
        ))  # fmt: skip
    elif not wal_is_safe(version):
        found = Journal("DELETE", (
            f"SQLite {shown} has a race in WAL mode, so the slower DELETE mode is used; `pip install pysqlite3` brings"
            " a newer one."
        ))  # fmt: skip
    if found.warning:
        warnings.warn(found.warning, stacklevel=2)
    return found


def begin_journal(connection: Any, journal: Journal) -> None:
    """Sets a new connection of the driver's to a journal, and to as much syncing as the file needs to stay whole."""
    if journal.mode == "DELETE":
        _leave_wal(connection)
    else:
        connection.execute(f"PRAGMA journal_mode={journal.mode}")
    # May lose the last commits when the power fails, never the file. FULL under DELETE, where it could.
    connection.execute(f"PRAGMA synchronous={'NORMAL' if journal.mode == 'WAL' else 'FULL'}")


def read_alone(connection: Any, path: Path) -> None:
    """Lets a new connection read the file without shared memory where nobody else's would be the same.

    For a look at a file that is not to be changed, as `begin_journal` would.
    """
    if network_drive(path):
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")


def _leave_wal(connection: Any) -> None:
    """Takes over what is left in a WAL, if the file has one, and goes on without.

    Alone on the file meanwhile, for then SQLite needs no shared memory to read the WAL. Somebody who still uses it is
    waited for as for any writer.
    """
    connection.execute("PRAGMA locking_mode=EXCLUSIVE")
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.execute("PRAGMA locking_mode=NORMAL")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # with the end of it the lock is given back
