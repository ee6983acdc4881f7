"""Judges programs that a model wrote, in a sandbox: no network, no files but its own, capped time and memory.

Two ways to build one, tried in this order, each proven by real attacks before it is used (`find_sandbox`):

    bubblewrap   namespaces of its own, an empty file system with Python in it read-only and 16 MB to write to
    Landlock     for machines that forbid namespaces, such as most containers: nothing is written, only Python is read

Both add a seccomp filter (no processes, sockets, signals, tracing, namespaces), limits, and no root. Where neither
holds, code tasks refuse to start. How a verdict comes about: see sandbox_child.py, which runs inside.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from bgpo.tasks.base import TaskError

_CHILD = Path(__file__).with_name("sandbox_child.py")
_NOBODY = 65534
_START_SECONDS = 60  # to start Python on a busy machine; nothing of a model's runs yet
_GRACE_SECONDS = 0.3
_SYSTEM_FOLDERS = ("/lib", "/lib64", "/lib32", "/bin")
_REFUSED_CALLS = (
    "fork", "vfork", "execve", "execveat", "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4",
    "sendto", "sendmsg", "ptrace", "process_vm_readv", "process_vm_writev", "kill", "tkill", "tgkill",
    "rt_sigqueueinfo",
    "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "pidfd_getfd", "unshare", "setns", "mount", "umount2",
    "move_mount", "open_tree", "fsopen", "fsmount", "pivot_root", "chroot", "keyctl", "add_key", "request_key", "bpf",
    "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "memfd_create", "mknod",
    "mknodat", "setpriority", "sched_setscheduler", "quotactl", "reboot", "swapon", "init_module", "finit_module",
    "kexec_load", "name_to_handle_at", "open_by_handle_at", "shmget", "msgget", "semget", "mq_open", "mq_unlink",
    # what Landlock leaves to the owner of a file
    "chmod", "fchmod", "fchmodat", "chown", "fchown", "lchown", "fchownat", "utime", "utimes", "utimensat",
    "futimesat", "setxattr", "lsetxattr", "fsetxattr", "removexattr", "lremovexattr", "fremovexattr",
    "truncate", "inotify_init", "inotify_init1", "fanotify_init",
    # what the same user may do to other processes of theirs
    "sched_setattr", "sched_setparam", "ioprio_set", "migrate_pages", "move_pages", "kcmp",
    # newer than many a libseccomp, which then does not know the names: process_madvise, process_mrelease, fchmodat2,
    # setxattrat, removexattrat, open_tree_attr, file_setattr; these numbers are the same on all processors
    440, 448, 452, 463, 466, 467, 469,
)
_REFUSED_OF_OTHERS = ("prlimit64", "sched_setaffinity")  # a process may do them to itself, 0
_CLONE_THREAD = 0x00010000
_ENOSYS, _EPERM = 38, 1


@dataclass(frozen=True)
class Limits:
    """What one program may use, over all its tests."""

    cpu_seconds: int = 2
    wall_seconds: float = 3.0
    memory_mb: int = 512
    file_mb: int = 1
    answer_kb: int = 64

    def for_kernel(self, threads: int | None) -> dict[str, int]:
        """Names and values of setrlimit."""
        limits = {
            "CPU": self.cpu_seconds, "AS": self.memory_mb * 2**20, "FSIZE": self.file_mb * 2**20, "NOFILE": 64,
            "CORE": 0,
        }
        return limits | ({"NPROC": threads} if threads else {})


@dataclass(frozen=True)
class Tests:
    """Unit tests of one problem.

    Attributes:
        tests: each a piece of Python that raises when it fails, usually one assertion.
        names: of the program's functions and classes that they call; everything else is looked up among the tests.
        setup: Python that runs before them, such as imports and helpers.
    """

    tests: tuple[str, ...]
    names: tuple[str, ...]
    setup: str = ""

    __test__ = False  # no test class of pytest's


@dataclass(frozen=True)
class TestVerdict:
    """Whether one test passed, and why not, in the words of an error."""

    passed: bool
    why: str = ""

    __test__ = False


@dataclass(frozen=True)
class Sandbox:
    """A way to lock a process in. `kind`: bubblewrap or landlock; `threads`: most threads, where they can be capped."""

    kind: str
    python: str
    command: tuple[str, ...]
    readable: tuple[str, ...] | None
    uid: int
    threads: int | None

    def judge(self, program: str, tests: Tests, limits: Limits = Limits()) -> list[TestVerdict]:
        """Runs the tests against the program. Never raises for what a program does; may be called from threads."""
        with (
            _Process(self, {"part": "candidate", "program": program}, limits) as candidate,
            _Process(self, {
                "part": "tests", "tests": tests.tests, "names": tests.names, "setup": tests.setup,
            }, limits) as judge,
        ):
            return _converse(candidate, judge, tests, limits)

    def judge_all(
        self, pairs: Sequence[tuple[str, Tests]], limits: Limits = Limits(), workers: int | None = None
    ) -> list[list[TestVerdict]]:
        """The verdicts on many (program, tests), a few sandboxes at a time."""
        with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
            return list(pool.map(lambda pair: self.judge(*pair, limits), pairs))


@dataclass(frozen=True)
class Found:
    """What the start-up check has found. `sandbox` is None without a safe one; `words` say which, or why not."""

    sandbox: Sandbox | None
    words: str
    checks: dict[str, str] = field(default_factory=dict)


# ---- one verdict ---------------------------------------------------------------------------------------------------


def _converse(candidate: _Process, judge: _Process, tests: Tests, limits: Limits) -> list[TestVerdict]:
    """Carries calls from the tests to the program and plain values back, until all tests have spoken or time is up."""
    verdicts: list[TestVerdict] = []
    try:
        ran = candidate.exchange(json.dumps({"do": "run"}), limits)
        broken = _error_in(ran)
        if broken:
            return [TestVerdict(False, f"the program does not run: {broken}")] * len(tests.tests)
        while len(verdicts) < len(tests.tests):
            message = json.loads(judge.receive(limits))
            if "ask" in message:
                answer = candidate.exchange(message["ask"], limits)
                judge.send(json.dumps({"answer": answer}), limits)
            else:
                verdicts.append(TestVerdict(bool(message["passed"]), str(message["why"])))
    except _Ended as error:
        verdicts += [TestVerdict(False, str(error))] * (len(tests.tests) - len(verdicts))
    return verdicts


def _error_in(answer: str) -> str:
    """The error of a candidate's answer in words; empty for a value. The answer is the program's own."""
    try:
        error = json.loads(answer).get("error")
        return f"{error[0]}: {error[1]}"[:300] if error else ""
    except (ValueError, AttributeError, IndexError, KeyError, TypeError, RecursionError):
        return "its answer cannot be read"


class _Ended(Exception):
    """A process of the sandbox has ended, or was ended; the message says why."""


class _Process:
    """One locked-in Python: lines in, lines out, against a clock that runs only while it is waited for."""

    def __init__(self, sandbox: Sandbox, orders: dict[str, Any], limits: Limits):
        self._left = limits.wall_seconds
        self._rest = b""
        self._orders = orders | {
            "filter": base64.b64encode(_filter()).decode(), "landlock": sandbox.readable, "uid": sandbox.uid,
            "limits": limits.for_kernel(sandbox.threads),
        }
        self._process = subprocess.Popen(
            # the child's code travels in the command line, so that no file of ours need be visible inside
            [*sandbox.command, sandbox.python, "-ISB", "-c", _child_code()], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, close_fds=True, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, cwd="/",
        )
        os.set_blocking(self._process.stdin.fileno(), False)

    def __enter__(self) -> _Process:
        patient = Limits(wall_seconds=_START_SECONDS, answer_kb=64)
        left, self._left = self._left, _START_SECONDS
        try:
            self.send(json.dumps(self._orders), patient)
            locked = json.loads(self.receive(patient))
            if not locked["locked"]:
                raise _Ended(f"the sandbox could not lock itself in ({locked['why']})")
        except _Ended as error:
            self.close()
            raise TaskError(f"The sandbox does not start: {error}.") from error
        self._left = left
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def exchange(self, line: str, limits: Limits) -> str:
        self.send(line, limits)
        return self.receive(limits)

    def send(self, line: str, limits: Limits) -> None:
        data = memoryview(line.encode("utf-8", "surrogatepass") + b"\n")
        while data:
            self._wait(write=True, limits=limits)
            try:
                data = data[os.write(self._process.stdin.fileno(), data) :]
            except BlockingIOError:
                continue
            except OSError:
                raise _Ended(self._why()) from None

    def receive(self, limits: Limits) -> str:
        while b"\n" not in self._rest:
            self._wait(write=False, limits=limits)
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                raise _Ended(self._why())
            self._rest += chunk
            if len(self._rest) > limits.answer_kb * 1024:
                raise _Ended(f"an answer of more than {limits.answer_kb} KB")
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode("utf-8", "replace")

    def _wait(self, *, write: bool, limits: Limits) -> None:
        start = time.monotonic()
        end = self._process.stdin if write else self._process.stdout
        ready = select.select([] if write else [end], [end] if write else [], [], max(0.0, self._left))
        self._left -= time.monotonic() - start
        if not any(ready):
            raise _Ended(f"it took more than {limits.wall_seconds:g} s")

    def _why(self) -> str:
        """Why the process has ended. Its exit code is no verdict, only a hint for people."""
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its channel"
        code = code - 128 if code > 128 else -code
        return {9: "it was ended for its use of time", 24: "it used up its processor time", 11: "it crashed"}.get(
            code, "it ended before its answer"
        )

    def close(self) -> None:
        """Lets it end by itself for a moment: bubblewrap then reaps what it started. Then kills it, with all in it."""
        self._process.stdin.close()
        try:
            self._process.wait(_GRACE_SECONDS if self._left > 0 else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


@lru_cache(maxsize=1)
def _child_code() -> str:
    return _CHILD.read_text(encoding="utf-8")


# ---- ways to lock in -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _filter() -> bytes:
    """The seccomp program: threads are allowed, processes are not. Raises TaskError without libseccomp."""
    try:
        import pyseccomp
    except (ImportError, RuntimeError) as error:
        raise TaskError(
            f"The system-call filter is missing ({error}); install libseccomp (apt install libseccomp2) and pyseccomp."
        ) from error
    rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    for call in _REFUSED_CALLS:
        try:
            rules.add_rule(pyseccomp.ERRNO(_EPERM), call)
        except (OSError, RuntimeError, ValueError):
            continue  # this machine's processor has no such call
    rules.add_rule(
        pyseccomp.ERRNO(_EPERM), "clone", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _CLONE_THREAD, 0)
    )
    for call in _REFUSED_OF_OTHERS:
        rules.add_rule(pyseccomp.ERRNO(_EPERM), call, pyseccomp.Arg(0, pyseccomp.NE, 0))
    rules.add_rule(pyseccomp.ERRNO(_ENOSYS), "clone3")  # its flags cannot be looked at; libc then uses clone
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def bubblewrap() -> Sandbox:
    """Raises TaskError where bubblewrap is not installed."""
    program = shutil.which("bwrap")
    if not program:
        raise TaskError("bubblewrap is not installed (apt install bubblewrap)")
    root = os.geteuid() == 0
    prefix, python = _interpreter()
    command = [program, "--die-with-parent", "--new-session", "--clearenv", "--setenv", "LANG", "C.UTF-8"]
    # root keeps its own user namespace and gives root up inside: a limit on threads then holds
    if root:
        command += ["--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        # --unshare-all does without a user namespace where there is none to be had, and --disable-userns needs one
        no_more = ["--disable-userns"] if _knows(program, "--disable-userns") else []
        command += ["--unshare-all", "--unshare-user", *no_more]
    command += ["--ro-bind", "/usr", "/usr"]
    for folder in map(Path, _SYSTEM_FOLDERS):
        if folder.is_symlink():
            command += ["--symlink", os.readlink(folder), str(folder)]
        elif folder.is_dir():
            command += ["--ro-bind", str(folder), str(folder)]
    if prefix != "/usr":
        command += ["--ro-bind", prefix, "/python"]
        python = "/python" + python.removeprefix(prefix)
    for device in ("/dev/null", "/dev/zero", "/dev/urandom"):
        command += ["--dev-bind", device, device]
    command += ["--perms", "0777", "--size", str(16 * 2**20), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    _start_once(command)
    return Sandbox("bubblewrap", python, (*command, "--"), None, _NOBODY if root else 0, 32 if root else None)


def _start_once(command: Sequence[str]) -> None:
    """Raises TaskError in bubblewrap's own words where it cannot build the sandbox; nothing of a model's runs."""
    program = next(path for path in ("/usr/bin/true", "/bin/true", sys.executable) if Path(path).exists())
    done = subprocess.run([*command, "--", program, *(["-V"] if program == sys.executable else [])],
                          capture_output=True, text=True, check=False, timeout=_START_SECONDS)
    if done.returncode:
        raise TaskError(f"it does not start ({' '.join(done.stderr.split())[-200:] or done.returncode})")


def landlock() -> Sandbox:
    """Raises TaskError where the kernel has no Landlock, or Python cannot be read without root."""
    import ctypes

    if sys.platform != "linux":
        raise TaskError("Landlock is part of Linux")
    version = ctypes.CDLL(None, use_errno=True).syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        raise TaskError("the kernel has no Landlock (Linux 5.13 or newer, not switched off)")
    root = os.geteuid() == 0
    prefix, python = _interpreter()
    if root and not _readable_by_all(prefix):
        prefix, python = "/usr", "/usr/bin/python3"
        if not Path(python).exists():
            raise TaskError("Python lies where only root may read, and there is no /usr/bin/python3")
    folders = dict.fromkeys([prefix, "/usr/lib", "/usr/lib64", "/lib", "/lib64"])
    readable = tuple(folder for folder in folders if Path(folder).is_dir())
    return Sandbox("landlock", python, (), readable, _NOBODY if root else 0, 32 if root else None)


def _interpreter() -> tuple[str, str]:
    """The Python that runs here, without its virtual environment: (prefix, program)."""
    program = os.path.realpath(sys.executable)
    prefix = os.path.realpath(sys.base_prefix)
    return (prefix, program) if program.startswith(prefix + "/") else ("/usr", "/usr/bin/python3")


def _readable_by_all(folder: str) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (Path(folder), *Path(folder).parents))


@lru_cache(maxsize=4)
def _knows(program: str, option: str) -> bool:
    return option in subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout


# ---- the start-up check --------------------------------------------------------------------------------------------

_LOCK = threading.Lock()
_FOUND: list[Found] = []


def find_sandbox() -> Found:
    """The safe sandbox of this machine, looked for once per process; takes about a second the first time."""
    with _LOCK:
        if not _FOUND:
            _FOUND.append(look_for_sandbox())
        return _FOUND[0]


def look_for_sandbox() -> Found:
    """Tries bubblewrap, then Landlock, each by real attacks."""
    reasons = []
    for build in (bubblewrap, landlock):
        try:
            sandbox = build()
            checks = attack(sandbox)
        except TaskError as error:
            reasons.append(f"{build.__name__}: {str(error).rstrip('.')}")
            continue
        if all(outcome == "refused" for outcome in checks.values()):
            return Found(sandbox, f"{sandbox.kind} with seccomp; it refused {', '.join(checks)}", checks)
        held = ", ".join(name for name, outcome in checks.items() if outcome != "refused")
        reasons.append(f"{build.__name__}: it did not refuse {held}")
    return Found(None, (
        f"No safe sandbox for model-written code here ({'; '.join(reasons)}). Install bubblewrap (apt install "
        "bubblewrap) on Linux, or in a container allow Landlock or user namespaces; without one, code tasks do not "
        "start."
    ))


def safe_sandbox() -> Sandbox:
    """The sandbox for code tasks. Raises TaskError with the reason and the fix when none is safe."""
    found = find_sandbox()
    if found.sandbox is None:
        raise TaskError(found.words)
    return found.sandbox


def attack(sandbox: Sandbox) -> dict[str, str]:
    """What a program could do in the sandbox: name of each attack -> "refused", or what it came to.

    Raises:
        TaskError: when the sandbox does not start.
    """
    with tempfile.TemporaryDirectory(prefix="bgpo-sandbox-") as folder:
        os.chmod(folder, 0o777)
        secret, written = Path(folder, "secret"), Path(folder, "written")
        secret.write_text("secret")
        secret.chmod(0o644)
        names = tuple(_ATTACKS)
        program = "".join(f"def {name}():\n    {body}\n" for name, body in _ATTACKS.items())
        program = program.replace("SECRET", repr(str(secret))).replace("WRITTEN", repr(str(written)))
        program = program.replace("PARENT", str(os.getpid()))
        works = Tests(("assert works() == 7",), ("works",))
        if not sandbox.judge("def works():\n    return 7\n", works, Limits(wall_seconds=30))[0].passed:
            raise TaskError("a plain function does not run in it")
        tests = Tests(tuple(_REFUSED.format(name=name) for name in names), names)
        verdicts = sandbox.judge(program, tests, Limits(wall_seconds=30))
        outcome = {
            name.replace("_", " "): "refused" if verdict.passed else verdict.why[:100] or "succeeded"
            for name, verdict in zip(names, verdicts)
        }
        if written.exists():
            outcome["writing a file"] = "the file is there"
        return outcome


# each must raise; what it gives back is shown when it does not
_ATTACKS = {
    "a_process": "import os; return os.fork()",
    "a_program": "import os; return os.execv('/bin/true', ['true'])",
    "a_socket": "import socket; return str(socket.socket())",
    "a_datagram": "import socket; return str(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))",
    "reading_a_file": "return open(SECRET).read()",
    "writing_a_file": "return open(WRITTEN, 'w').write('x')",
    "changing_a_file": "import os; return os.chmod(SECRET, 0o600)",
    "the_limits_of_others": "import resource; return resource.prlimit(PARENT, resource.RLIMIT_CPU)",
    "the_environment_of_others": "return open('/proc/1/environ').read() + open('/proc/PARENT/environ').read()",
    "a_signal": "import os; return os.kill(PARENT, 0)",
    "much_memory": "return len(bytearray(2 * 1024 ** 3))",
    "root": "import os; return os.setuid(0) if os.getuid() else 'it is root'",
}
_REFUSED = """
try:
    got = {name}()
except Exception:
    pass
else:
    raise AssertionError("it gave " + repr(got))
"""
