"""A run's log: one file that its processes append to, kept within a size, read as a tail or as a whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bgpo.jobs import runner

MOST = 16 * 2**20  # bytes; a log that is longer becomes the earlier part, and there is one of those
EARLIER = "log.earlier.txt"
_TAIL_BYTES = 64 * 1024
_CHUNK = 2**20


def keep_within(folder: Path, most: int = MOST) -> bool:
    """Cuts a log that has become too long; whether it did.

    Copied, then emptied: its writers have the file open, and append, so they go on at its new end. What they write in
    the instant between is lost; a rename would lose all that follows.
    """
    log = folder / runner.LOG
    try:
        if log.stat().st_size <= most:
            return False
        draft = folder / (EARLIER + ".new")
        with open(log, "rb") as source, open(draft, "wb") as copy:
            source.seek(-min(most, os.fstat(source.fileno()).st_size), os.SEEK_END)
            shutil.copyfileobj(source, copy, _CHUNK)
        os.replace(draft, folder / EARLIER)
        os.truncate(log, 0)
    except OSError:  # no log yet, or a full disk: the next look tries again
        return False
    return True


def tail(folder: Path, lines: int = 40) -> list[str]:
    """The last lines of the run's log; empty when there is none. Cheap however long the log is."""
    text = b""
    for part in _parts(folder):
        with open(part, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text += file.read()
    return text.decode("utf-8", "replace").splitlines()[-lines:]


def whole(folder: Path) -> Iterator[bytes]:
    """All that is kept of the log, in pieces, the earlier part first."""
    for part in _parts(folder):
        with open(part, "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def _parts(folder: Path) -> list[Path]:
    return [path for path in (folder / EARLIER, folder / runner.LOG) if path.is_file()]
