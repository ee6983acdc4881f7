"""The small process between the app and a worker: it outlives the app, holds the run's lock and keeps the exit code.

    python -S -E runner.py FOLDER COMMAND...

runs COMMAND with its output appended to FOLDER/log.txt, and writes FOLDER/exit.json once it has ended.
The kernel gives the lock back on any death, so "the lock is free" is how everybody else knows that a run is over.
Standard library only: the runner costs 12 MB for as long as the run takes. The scheduler and the worker
import it for the lock and for `Identity`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK, LOG, EXIT, RESULT = "run.lock", "log.txt", "exit.json", "result.json"
ROOM, _ROOM_BYTES = "last-word.room", 32_768
RUNNER_PID = "BGPO_RUNNER_PID"  # in the worker's environment: who holds the lock for it
RUN_FOLDER = "BGPO_RUN_FOLDER"  # in the environment of every process of a run, whoever its parent is by now
ALREADY_LOCKED = 71  # exit code of a runner that finds another at work

_LOCK_PATIENCE = 2.0  # seconds; somebody who asks whether the lock is free holds it for microseconds
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Identity:
    """One process for ever: a pid alone is given to a stranger sooner or later.

    `started` counts clock ticks since boot, so no clock change can break the comparison.
    """

    pid: int
    started: int | None
    boot_id: str | None

    @classmethod
    def of(cls, pid: int) -> Identity:
        return cls(pid, start_ticks(pid), boot_id())

    def alive(self) -> bool:
        """Whether exactly this process runs. False where the system does not tell, so nobody signals a stranger."""
        if self.started is None or self.boot_id != boot_id():
            return False
        return start_ticks(self.pid) == self.started


def boot_id() -> str | None:
    """What tells this boot of this machine from every other; None where the system has no such thing."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None if fcntl is None else _without_proc("sysctl", "-n", "kern.bootsessionuuid")


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it is gone, a zombie, or cannot be known."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None if os.path.exists("/proc/self/stat") else _start_seconds(pid)
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and parentheses
    return None if fields[0] in "ZX" else int(fields[19])


def _start_seconds(pid: int) -> int | None:
    """macOS has no /proc; `ps` knows the second."""
    text = None if fcntl is None else _without_proc("ps", "-o", "lstart=", "-p", str(pid))
    try:
        return int(time.mktime(time.strptime(text or "", "%a %b %d %H:%M:%S %Y")))
    except (ValueError, OverflowError):
        return None


def _without_proc(*command: str) -> str | None:
    try:
        environment = {"LC_ALL": "C", "PATH": os.defpath}
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=5, env=environment)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def acquire_lock(folder: Path, patience: float = _LOCK_PATIENCE) -> IO[str] | None:
    """The run's lock, held for as long as the returned file stays open; None if another holds it for `patience` s."""
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK, "a+")  # noqa: SIM115 - open is held, closed is given back
    deadline = time.monotonic() + patience
    while not _try_lock(file, exclusive=True):
        if time.monotonic() > deadline:
            file.close()
            return None
        time.sleep(0.05)
    file.seek(0)
    file.truncate()
    json.dump(asdict(Identity.of(os.getpid())), file)
    file.flush()
    return file


def lock_state(folder: Path) -> str:
    """'held' while a runner, or a worker in a terminal, lives; 'free'; 'unknown' if this machine has no such folder."""
    if not folder.is_dir():
        return "unknown"
    try:
        with open(folder / LOCK) as file:
            # shared, so that two who ask at once do not take each other for a holder
            return "free" if _try_lock(file, exclusive=False) else "held"
    except FileNotFoundError:
        return "free"


def lock_holder(folder: Path) -> Identity | None:
    """Who holds the lock; None when it is free or its holder has not said yet."""
    if lock_state(folder) != "held":
        return None
    try:
        return Identity(**json.loads((folder / LOCK).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _try_lock(file: IO[str], *, exclusive: bool) -> bool:
    try:
        if fcntl is None:
            # Windows locks bytes: one far behind the text, which others may then still read
            file.seek(1 << 20)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, whenever the power fails."""
    draft = path.with_name(path.name + ".new")
    with open(draft, "w") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None when there is none or it is not one."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def keep_room(folder: Path) -> None:
    """Takes a little of the disk for the last word of a run that may end because the disk is full."""
    try:
        (folder / ROOM).write_bytes(os.urandom(_ROOM_BYTES))
    except OSError:  # full already: the first checkpoint says so
        (folder / ROOM).unlink(missing_ok=True)


def write_last_word(folder: Path, content: dict[str, Any]) -> None:
    """result.json, in the room that was kept for it if there is no other. Raises OSError when that is not enough."""
    try:
        write_json(folder / RESULT, content)
    except OSError:
        (folder / ROOM).unlink(missing_ok=True)
        write_json(folder / RESULT, content)
    (folder / ROOM).unlink(missing_ok=True)


def forget_last_end(folder: Path) -> None:
    """Removes what an earlier start left, so that nobody takes its end for that of the next."""
    for name in (EXIT, RESULT):
        (folder / name).unlink(missing_ok=True)


def run(folder: Path, command: list[str]) -> int:
    """Runs the worker to its end and writes exit.json; returns the worker's code (negative: the signal)."""
    lock = acquire_lock(folder)
    if lock is None:
        print(f"Another process already works on {folder}; this start is given up.", flush=True)
        return ALREADY_LOCKED
    with lock:
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # ranks whose agent dies come to us instead of to pid 1
        started, kills = time.time(), oom_kills()
        try:
            worker = _start(folder, command)
        except OSError as error:
            code, problem = 127, f"{command[0]} could not be started: {error.strerror or error}"
            print(problem, flush=True)
        else:
            code, problem = _wait(worker), None
            _end_strays()
        write_json(folder / EXIT, {
            "returncode": code, "problem": problem, "started": started, "ended": time.time(),
            "out_of_memory": code == -getattr(signal, "SIGKILL", 9) and oom_kills() > kills,
        })
    return code


def oom_kills() -> int:
    """How many processes the kernel has killed for want of memory: in our control group, else on the whole machine."""
    for path, prefix in _oom_counters():
        try:
            for line in Path(path).read_text().splitlines():
                if line.startswith(prefix):
                    return int(line.split()[1])
        except (OSError, ValueError):
            continue
    return 0


def _oom_counters() -> Iterator[tuple[str, str]]:
    try:
        groups = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    except OSError:
        groups = []
    for _, controllers, group in groups:
        if controllers == "":
            yield f"/sys/fs/cgroup{group}/memory.events", "oom_kill "
        elif "memory" in controllers.split(","):
            yield f"/sys/fs/cgroup/memory{group}/memory.oom_control", "oom_kill "
    yield "/proc/vmstat", "oom_kill "


def _start(folder: Path, command: list[str]) -> subprocess.Popen[bytes]:
    # O_APPEND: the file may be truncated under the worker; and no pipe, whose reader's death would be the worker's
    with open(folder / LOG, "ab") as log:
        worker = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env=os.environ | {RUNNER_PID: str(os.getpid())},
            preexec_fn=_end_with_parent(os.getpid()) if sys.platform == "linux" else None,
        )
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGTERM))
    return worker


def _end_with_parent(parent: int) -> Callable[[], None]:
    prctl = _libc_prctl()

    def in_worker() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the runner died before the line above
            os.kill(os.getpid(), signal.SIGTERM)

    return in_worker


def _wait(worker: subprocess.Popen[bytes]) -> int:
    if not hasattr(os, "waitpid") or sys.platform == "win32":
        return worker.wait()
    while True:  # also buries orphans that were handed to us
        pid, status = os.waitpid(-1, 0)
        if pid == worker.pid:
            worker.returncode = os.waitstatus_to_exitcode(status)  # or a late SIGTERM would go to a reused pid
            return worker.returncode


def _end_strays() -> None:
    """Kills what the worker left behind; a subreaper sees each generation once the one above has died."""
    while sys.platform == "linux":
        for pid in _children():
            os.kill(pid, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children() -> Iterator[int]:
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and fields[0] != "Z":
            yield int(entry)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        _libc_prctl()(option, value)


def _libc_prctl() -> Callable[[int, int], int]:
    import ctypes  # only here: the scheduler imports this module too

    return ctypes.CDLL(None, use_errno=True).prctl


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), sys.argv[2:]) & 0xFF)
