"""A PostgreSQL of the tests' own: started in a temporary folder by a user without rights, gone afterwards."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

DEBIAN = Path("/usr/lib/postgresql/15/bin")
PROGRAMS = ("initdb", "pg_ctl")


def missing() -> str:
    """Why no server can be started here; empty when one can."""
    if _folder() is None:
        return f"PostgreSQL is not installed: no initdb on the PATH or in {DEBIAN}"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "PostgreSQL's driver psycopg is not installed"
    return ""


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URL of an empty database on a server that listens on a socket in its own folder and on no port."""
    programs = _folder()
    # not below pytest's folder: its parents are closed to the user that the server runs as
    with tempfile.TemporaryDirectory(prefix="bgpo-pg-") as base:
        os.chmod(base, 0o755)
        home = Path(base) / "home"
        home.mkdir()
        user = _user()
        if user:
            os.chown(home, user.pw_uid, user.pw_gid)
        data = home / "data"
        layout = ("-U", "studio", "-A", "trust", "-E", "UTF8", "--no-locale", "-N")
        _run([programs / "initdb", "-D", data, *layout], user, home)
        options = f"-k {home} -c listen_addresses='' -c fsync=off -c max_connections=50"
        control = [programs / "pg_ctl", "-D", data]
        _run([*control, "-w", "-t", "60", "-l", home / "log", "-o", options, "start"], user, home)
        try:
            yield f"postgresql+psycopg://studio@/postgres?host={home}"
        finally:
            _run([*control, "-m", "immediate", "stop"], user, home)


def _folder() -> Path | None:
    on_path = shutil.which("initdb")
    candidates = [DEBIAN, *([Path(on_path).parent] if on_path else [])]
    return next((folder for folder in candidates if all((folder / name).exists() for name in PROGRAMS)), None)


def _user() -> pwd.struct_passwd | None:
    """Somebody without rights, because the server refuses to be run by root; None where we are nobody special."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def _run(command: list[object], user: pwd.struct_passwd | None, home: Path) -> None:
    rights = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    environment = {**os.environ, "HOME": str(home), "LC_ALL": "C"}
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=home, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=120,
        **rights,
    )
    assert done.returncode == 0, f"{words[0]}: {done.stderr}"
