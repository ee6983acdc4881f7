"""Programs that try to get out of the sandbox, to break the machine, or to fool the grader. None may.

Each runs in both kinds of sandbox that this machine has. The caps are checked with a modest load before the bombs.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Collection
from pathlib import Path

import psutil
import pytest

from bgpo.tasks import sandbox as sandboxes
from bgpo.tasks.base import TaskError
from bgpo.tasks.sandbox import Limits, Sandbox, Tests, TestVerdict
from tests.waiting import PATIENCE, wait_until

PATIENT = Limits(wall_seconds=30)  # for verdicts that must not depend on how busy the machine is


@functools.cache
def built(kind: str) -> Sandbox | str:
    """The sandbox of a kind, or why this machine has none."""
    try:
        sandbox = getattr(sandboxes, kind)()
        sandbox.judge("", Tests((), ()), PATIENT)
    except TaskError as error:
        return str(error)
    return sandbox


@pytest.fixture(params=["bubblewrap", "landlock"])
def sandbox(request) -> Sandbox:
    found = built(request.param)
    if isinstance(found, str):
        pytest.skip(f"no {request.param} here: {found}")
    return found


def judged(sandbox: Sandbox, program: str, *tests: str, limits: Limits = PATIENT, names=("f",)) -> list[TestVerdict]:
    return sandbox.judge(program, Tests(tests or ("assert f(2) == 7",), names), limits)


def outcome(sandbox: Sandbox, body: str, limits: Limits = PATIENT) -> str:
    """What `body` gave back or raised in the sandbox, as text."""
    program = "def f():\n" + "".join(f"    {line}\n" for line in body.splitlines())
    return judged(sandbox, program, "raise Exception(repr(f()))", limits=limits)[0].why


# ---- honest programs, so that a refusal below means something ------------------------------------------------------


def test_an_honest_program_passes_and_a_wrong_one_does_not(sandbox):
    assert [v.passed for v in judged(sandbox, "def f(x): return x + 5", "assert f(2) == 7", "assert f(2) == 8")] == [
        True, False
    ]
    assert judged(sandbox, "def f(x): return x + 5", "assert f(2) == 8")[0].why == "the assertion does not hold"


@pytest.mark.parametrize("value", [
    "None", "True", "-0.0", "10**400", "1e308", "'\\ud800\\0é'", "b'\\xff'", "(1, [2, {3: {4}}])", "frozenset({1})",
    "1j",
    "[[]] * 3", "{'a': (1,), 2: None}", "range(3)", "float('inf')", "__import__('decimal').Decimal('0.1')",
    "__import__('fractions').Fraction(1, 3)", "__import__('collections').deque([1, 2])", "'x' * 20000",
])
def test_plain_values_arrive_as_they_left(sandbox, value):
    test = f"v = {value}\nassert f(v) == [v] and type(f(v)[0]) is type(v)"
    assert judged(sandbox, "def f(x): return [x]", test) == [TestVerdict(True)]


def test_tests_may_use_classes_closures_exceptions_and_iterators_of_the_program(sandbox):
    program = (
        "class Node:\n    def __init__(self, v):\n        self.v, self.next = v, None\n"
        "    def total(self):\n        return self.v + (self.next.total() if self.next else 0)\n"
        "def f(n):\n    if n < 0: raise ValueError('negative')\n    return lambda m: n + m\n"
        "def g():\n    yield from (1, 2)\n"
    )
    tests = (
        "a = Node(1); a.next = Node(2); assert a.total() == 3 and a.next.v == 2", "assert f(2)(3) == 5",
        "try:\n    f(-1)\nexcept ValueError as e:\n    assert 'negative' in str(e)\nelse:\n    assert False",
        "assert list(g()) == [1, 2]",
    )
    assert all(v.passed for v in judged(sandbox, program, *tests, names=("Node", "f", "g")))


def test_a_call_that_raises_stop_iteration_passes_no_loop_of_a_test(sandbox):
    """A test that calls in a loop would come to its end before it has compared anything."""
    test = "for got, wanted in zip(map(f, [1, 5]), [2, 6]): assert got == wanted"
    for error in ("StopIteration", "StopAsyncIteration"):
        (verdict,) = judged(sandbox, f"def f(x): raise {error}", test)
        assert not verdict.passed and error in verdict.why


# ---- fooling the grader --------------------------------------------------------------------------------------------

CHEATS = {
    "sys.exit": "import sys\nsys.exit(0)", "os._exit": "import os\nos._exit(0)", "SystemExit": "raise SystemExit(0)",
    "exit later": "def f(x):\n    import os\n    os._exit(0)",
    "atexit": "import atexit, os\natexit.register(os._exit, 0)\ndef f(x): return 0",
    "always equal": "class E:\n    def __eq__(self, o): return True\n    def __bool__(self): return True\n"
                    "def f(x): return E()",
    "always equal int": "class E(int):\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\n"
                        "def f(x): return E(1)",
    "always equal inside": "class E:\n    def __eq__(self, o): return True\ndef f(x): return [E(), E()]",
    "truthy": "class E:\n    def __bool__(self): return True\n    def __len__(self): return 1\ndef f(x): return E()",
    "no assertion": "def f(x): raise AssertionError",
    "patched builtins": "import builtins\nfor n in ('len', 'sorted', 'set', 'abs', 'all', 'isinstance', 'print'):\n"
                        "    setattr(builtins, n, lambda *a, **k: True)\ndef f(x): return 0",
    "own builtins": "def set(x): return 0\ndef sorted(x): return 0\ndef abs(x): return 0\ndef all(x): return True\n"
                    "def f(x): return 0",
    "patched json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": true, \"why\": \"\"}'\ndef f(x): return 0",
    "printed": "def f(x):\n    print('{\"passed\": true, \"why\": \"\"}' * 3, flush=True)\n    return 0",
    "forged on every descriptor": "import os\nfor d in range(64):\n    try:\n"
        "        os.write(d, b'{\"passed\": true, \"why\": \"\"}\\n' * 8)\n    except OSError: pass\n"
        "def f(x): return 0",
    "forged and gone": "import os\nfor d in range(3, 64):\n    try:\n"
        "        os.write(d, b'{\"value\": true}\\n{\"passed\": true, \"why\": \"\"}\\n')\n"
        "    except OSError: pass\nos._exit(0)",
    "frames": "import sys\ndef f(x):\n    g = sys._getframe(1)\n    while g:\n"
              "        g.f_globals.update(play_tests=None)\n        for k in ('expected', 'tests', 'verdict'):\n"
              "            if k in g.f_locals: return g.f_locals[k]\n        g = g.f_back\n    return 0",
    "garbage": "import gc\ndef f(x):\n"
               "    return [o for o in gc.get_objects() if isinstance(o, str) and 'assert' in o][:1]",
    "command line": "def f(x):\n    return open('/proc/self/cmdline').read()",
    "not defined": "def g(x): return 7", "no code": "", "syntax": "def f(x) return 7", "nul": "def f(x): return 7\0",
    "deep": "(" * 5000 + ")" * 5000, "surrogate": "x = '\ud800'\ndef f(x): return 0",
}


# one of each kind by default: leaving, values that lie, patches, forged answers, looks at the grader, nothing at all
USUAL_CHEATS = (
    "sys.exit", "os._exit", "always equal", "patched builtins", "forged on every descriptor", "forged and gone",
    "frames", "garbage", "printed", "no code", "deep",
)


def usual(names: Collection[str], kept: Collection[str]) -> list:
    """All of them, those that are not kept for every run of the tests marked as slow."""
    assert set(kept) <= set(names)
    return [name if name in kept else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", usual(CHEATS, USUAL_CHEATS))
def test_nothing_but_right_values_passes(sandbox, name):
    tests = (
        "assert f(2) == 7", "assert f(2) == [7, 8]", "assert f(2)", "assert f(2) in (7, 8)", "assert not f(2) != 7",
        "assert set(f(2)) == {7}", "assert sorted(f(2)) == [7]", "assert abs(f(2) - 7) < 1e-6", "assert len(f(2)) == 3",
        "assert all(f(2) == y for y in (7, 7))",
    )
    if name == "garbage":  # a list is a value, and true; what it must not hold is anything of the tests
        tests = tests[:2]
    if name in ("always equal int", "always equal inside"):  # 1 and a list are values like any others, and true
        tests = tuple(test for test in tests if test != "assert f(2)")
    verdicts = judged(sandbox, CHEATS[name], *tests)
    assert not any(v.passed for v in verdicts), [t for t, v in zip(tests, verdicts) if v.passed]
    assert all(v.why for v in verdicts)


def test_expected_values_are_not_where_the_program_is(sandbox):
    """Everything that Python holds there is searched for the number that the test expects."""
    hunt = (
        "def f():\n    import gc, sys\n    seen = []\n    todo = list(gc.get_objects()) + [sys.argv, sys.orig_argv]\n"
        "    for o in todo:\n        try:\n            if str(918) + str(273) in repr(o)[:20000]: "
        "seen.append(repr(o)[:50])\n        except Exception: pass\n    return seen and int(str(918) + str(273))"
    )
    assert not judged(sandbox, hunt, "assert f() == 918273 - 0")[0].passed


# ---- getting out ---------------------------------------------------------------------------------------------------


def test_every_attack_of_the_start_up_check_is_refused(sandbox):
    assert set(sandboxes.attack(sandbox).values()) == {"refused"}


def test_files_of_the_host_cannot_be_read_or_written(sandbox, tmp_path):
    database = tmp_path / "runs.db"
    database.write_text("SECRET rows")
    for path in (database, tmp_path, tmp_path.parent):
        path.chmod(0o777)
    for body in (
        f"return open({str(database)!r}).read()", f"import os; return os.listdir({str(tmp_path)!r})",
        "return open('/etc/passwd').read()", "return open('/etc/shadow').read()",
        "import os; return os.listdir('/home')",
        f"import os; return os.listdir({str(Path(__file__).parent)!r})",
        f"import os; os.symlink({str(database)!r}, '/tmp/link'); return open('/tmp/link').read()",
        f"import os; return os.open({str(tmp_path)!r}, os.O_PATH | os.O_DIRECTORY)",
    ):
        why = outcome(sandbox, body)
        assert "SECRET" not in why and "root:" not in why, (body, why)
        assert "Error" in why or sandbox.readable is not None, (body, why)
        assert "runs.db" not in why.replace(str(database), ""), body
    for body in (
        f"open({str(database)!r}, 'w').write('gone')", f"import os; os.remove({str(database)!r})",
        f"import os; os.chmod({str(database)!r}, 0)", f"open({str(tmp_path / 'new')!r}, 'w').write('x')",
        f"import os; os.mkdir({str(tmp_path / 'folder')!r})", f"import os; os.truncate({str(database)!r}, 0)",
        f"import os; os.rename({str(database)!r}, {str(tmp_path / 'moved')!r})",
        "open('/usr/bgpo-was-here', 'w').write('x')",
    ):
        assert "Error" in outcome(sandbox, body), body
    assert [path.name for path in tmp_path.iterdir()] == ["runs.db"] and database.read_text() == "SECRET rows"
    assert database.stat().st_mode & 0o777 == 0o777 and not Path("/usr/bgpo-was-here").exists()


def test_the_environment_is_empty_and_that_of_others_out_of_reach(sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "SECRET-token")
    assert "SECRET" not in outcome(sandbox, "import os; return dict(os.environ)")
    for pid in (1, "self", os.getpid(), os.getppid()):
        for name in ("environ", "cmdline", "maps", "mem", "root/etc/passwd", "cwd", "fd"):
            why = outcome(sandbox, f"import os; p = '/proc/{pid}/{name}'\nreturn os.listdir(p) if {name == 'fd'} else "
                          "open(p, 'rb').read(4000)")
            assert "Error" in why, (pid, name, why)


def test_no_connection_of_any_kind(sandbox, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        datagrams.bind(("127.0.0.1", 0))
        named.bind(str(tmp_path / "socket"))
        named.listen()
        abstract.bind("\0bgpo-test-socket")
        abstract.listen()
        for listening in (server, datagrams, named, abstract):
            listening.settimeout(0)
        for body in (
            f"import socket; return socket.create_connection(('127.0.0.1', {server.getsockname()[1]}), 2)",
            "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); "
            f"return s.sendto(b'x', ('127.0.0.1', {datagrams.getsockname()[1]}))",
            f"import socket; return socket.socket(socket.AF_UNIX).connect({str(tmp_path / 'socket')!r})",
            "import socket; return socket.socket(socket.AF_UNIX).connect('\\0bgpo-test-socket')",
            "import socket; return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
            "import socket; return socket.socketpair()", "import socket; return socket.getaddrinfo('example.org', 80)",
        ):
            assert "Error" in outcome(sandbox, body) or "gaierror" in outcome(sandbox, body), body
        for listening in (server, named, abstract):
            with pytest.raises(BlockingIOError):
                listening.accept()
        with pytest.raises(BlockingIOError):
            datagrams.recv(10)


SYSTEM = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"


CALLS = [
    "import os; return os.fork()", "import os; return os.forkpty()",
    "import subprocess; return subprocess.run(['true'])",
    "import os; return 1 / (os.system('true') == 0)",
    "import multiprocessing as m; p = m.Process(); p.start(); return p.pid",
    "import os; return os.execv('/usr/bin/true', ['true'])",
    "import os; return os.posix_spawn('/usr/bin/true', ['t'], {})",
    "import os; return os.kill(os.getppid(), 9)", "import os; return os.kill(-1, 9)",
    "import os; return os.killpg(0, 9)",
    "import os; return os.setuid(0)", "import os; return os.unshare(0x10000000)" if hasattr(os, "unshare") else
    SYSTEM + "return 1 / (libc.unshare(0x10000000) == 0)", SYSTEM + "return 1 / (libc.ptrace(16, 1, 0, 0) == 0)",
    SYSTEM + "return 1 / (libc.mount(b'none', b'/tmp', b'tmpfs', 0, 0) == 0)",
    SYSTEM + "return 1 / (libc.syscall(435, 0, 0) >= 0)",
    SYSTEM + "return 1 / (libc.syscall(56, 0x10000000 | 17, 0) >= 0)",
    SYSTEM + "return 1 / (libc.syscall(425, 1, 0) >= 0)", SYSTEM + "return 1 / (libc.syscall(321, 0, 0, 0) >= 0)",
    SYSTEM + "return 1 / (libc.syscall(250, 0, 0, 0) >= 0)", SYSTEM + "return 1 / (libc.syscall(434, 1, 0) >= 0)",
    "import os; os.chroot('/tmp')", "import os; os.mknod('/tmp/disk', 0o60666, 0x800)", "import os; os.nice(-5)",
    "import os; return os.memfd_create('x')", "import os; return os.pidfd_open(1)",
    "import os; return os.chmod('/tmp', 0o700)", "import os; return os.utime('/tmp')",
    "import os; return os.setxattr('/tmp', 'user.x', b'1')", "import os; return os.chown('/tmp', -1, -1)",
    SYSTEM + "return 1 / (libc.syscall(452, -100, b'/tmp', 0o700, 0) == 0)",
    "import os, resource; return resource.prlimit(os.getppid() or 1, resource.RLIMIT_CPU)",
    "import os; return os.sched_setaffinity(os.getppid() or 1, {0})",
]
# processes, programs, signals, identity, namespaces, tracing, mounts, keys, rings, another process's limits
USUAL_CALLS = [
    call for call in CALLS
    if any(word in call for word in (
        "os.fork()", "posix_spawn", "os.kill(-1", "setuid", "unshare", "ptrace", "mount", "syscall(250", "syscall(425",
        "prlimit", "syscall(435",
    ))
]


@pytest.mark.parametrize(
    "body", usual(CALLS, USUAL_CALLS), ids=lambda body: body.removeprefix(SYSTEM).removeprefix("import ")[:40]
)
def test_system_calls_that_lead_out_are_refused(sandbox, body):
    why = outcome(sandbox, body)
    assert "Error" in why or "ended" in why, why


def test_a_grandchild_does_not_outlive_the_program(sandbox):
    before = {p.pid for p in psutil.process_iter()}
    outcome(sandbox, "import os, time\nif os.fork() == 0:\n    os.setsid()\n    os.fork() or time.sleep(60)")

    def left() -> list[psutil.Process]:
        listed = psutil.process_iter(["cmdline"])
        return [p for p in listed if p.pid not in before and "-ISB" in str(p.info["cmdline"])]

    wait_until(lambda: not left(), "everything in the sandbox to be gone")


# ---- bombs ---------------------------------------------------------------------------------------------------------


def test_caps_hold_against_a_modest_load_before_any_bomb(sandbox):
    assert "MemoryError" in outcome(sandbox, "return len(bytearray(700 * 2**20))")
    assert "600" not in outcome(sandbox, "a = [bytearray(2**20) for _ in range(600)]\nreturn len(a)")
    threads = "import threading, time\nn = 0\ntry:\n    for n in range(150):\n" \
              "        threading.Thread(target=time.sleep, args=(1,), daemon=True).start()\n" \
              "except RuntimeError: pass\nreturn n"
    assert "149" not in outcome(sandbox, threads)
    assert "Error" in outcome(sandbox, "import os\nreturn os.fork()")


BOMBS = {
    "fork": "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
    "threads": "import threading\ndef f(x):\n    while True:\n        try: threading.Thread(target=f, "
               "args=(x,)).start()\n        except RuntimeError: pass",
    "memory": "def f(x):\n    a = []\n    while True: a.append(bytearray(2**22))",
    "list of 100 GB": "def f(x): return [0] * (100 * 2**30)", "power": "def f(x): return 9**9**9",
    "power at once": "x = 9**9**9", "loop": "while True: pass", "loop in call": "def f(x):\n    while True: pass",
    "regex": "import re\ndef f(x): return re.match('(a+)+$', 'a' * 40 + 'b')",
    "prints": "def f(x):\n    while True: print('x' * 10000)",
    "answers": "def f(x): return 'x' * 10**8", "many answers": "def f(x): return list(range(10**7))",
    "endless iterator": "import itertools\ndef f(x): return itertools.count()",
    "flood of descriptors": "import os\nwhile True:\n    for d in range(3, 64):\n        try: os.write(d, b'x' * "
                            "65536)\n        except OSError: pass",
    "sleep": "import time\ndef f(x): time.sleep(600)", "stops reading": "import os\nfor d in range(3, 64):\n    try: "
    "os.close(d)\n    except OSError: pass\nimport time; time.sleep(600)",
    "recursion": "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f(x)", "deep value": "def f(x):\n    a = "
    "[]\n    for _ in range(10**5): a = [a]\n    return a",
    "files": "import os\ndef f(x):\n    for n in range(10**9):\n"
             "        with open(f'/tmp/{n}', 'wb') as g: g.write(b'x' * 2**20)",
    "huge file": "def f(x):\n    with open('/tmp/x', 'wb') as g:\n        while True: g.write(b'x' * 2**20)",
    "ignores signals": "import signal\nfor s in range(1, 65):\n    try: signal.signal(s, signal.SIG_IGN)\n    except "
                       "Exception: pass\nwhile True: pass",
}


@pytest.mark.parametrize("name", usual(BOMBS, ("fork", "memory", "flood of descriptors", "sleep", "files")))
def test_bombs_get_nothing_and_leave_nothing(sandbox, name):
    me = psutil.Process()
    before, others = me.memory_info().rss, set(me.children(recursive=True))  # such as a browser of other tests
    verdicts = judged(sandbox, BOMBS[name], limits=Limits(cpu_seconds=1, wall_seconds=2))
    assert [v.passed for v in verdicts] == [False] and verdicts[0].why
    assert me.memory_info().rss - before < 50 * 2**20
    wait_until(lambda: set(me.children(recursive=True)) <= others, "everything in the sandbox to be gone")


def test_a_bomb_beside_honest_programs_costs_them_nothing(sandbox):
    tests = Tests(("assert f(2) == 7",), ("f",))
    programs = [BOMBS["loop"] if n == 3 else "def f(x): return x + 5" for n in range(8)]
    pairs = [(program, tests) for program in programs]
    before = threading.active_count()
    verdicts = sandbox.judge_all(pairs, Limits(cpu_seconds=1, wall_seconds=30), workers=3)
    assert [v[0].passed for v in verdicts] == [n != 3 for n in range(8)]
    assert threading.active_count() <= before


# ---- which sandbox there is ----------------------------------------------------------------------------------------


def test_this_machine_is_looked_at_by_real_attacks():
    found = sandboxes.look_for_sandbox()
    if found.sandbox is None:
        pytest.skip(found.words)
    assert found.words.startswith(found.sandbox.kind) and set(found.checks.values()) == {"refused"}


def test_without_bubblewrap_landlock_is_taken_and_without_both_code_tasks_refuse(monkeypatch):
    def missing() -> Sandbox:
        raise TaskError("bubblewrap is not installed (apt install bubblewrap)")

    missing.__name__ = "bubblewrap"
    monkeypatch.setattr(sandboxes, "bubblewrap", missing)
    if isinstance(built("landlock"), Sandbox):
        assert sandboxes.look_for_sandbox().sandbox.kind == "landlock"
    monkeypatch.setattr(sandboxes, "landlock", missing)
    monkeypatch.setattr(sandboxes, "_FOUND", [])
    with pytest.raises(TaskError, match=r"No safe sandbox .*apt install bubblewrap"):
        sandboxes.safe_sandbox()


def test_a_sandbox_that_lets_something_through_is_not_taken(monkeypatch):
    """A filter that refuses nothing: the start-up check has to notice, not the first run.

    Not by a process alone: where that user has many, the limit on threads refuses one more.
    """
    import pyseccomp

    everything = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    import tempfile

    with tempfile.TemporaryFile() as file:
        everything.export_bpf(file)
        file.seek(0)
        open_filter = file.read()
    monkeypatch.setattr(sandboxes, "_filter", lambda: open_filter)
    found = sandboxes.look_for_sandbox()
    assert found.sandbox is None and "did not refuse" in found.words and "a socket" in found.words


def test_an_ordinary_user_gets_bubblewrap_where_namespaces_are_allowed():
    """Root and others build it differently. As root, the start-up check runs once more as nobody."""
    if os.geteuid():
        pytest.skip("all tests of this file run as an ordinary user")
    python, packages = "/usr/bin/python3", Path(pytest.__file__).parents[1]
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    root = Path(sandboxes.__file__).parents[2]
    code = "import sys; sys.path[:0] = sys.argv[1:]; import pyseccomp; from bgpo.tasks import sandbox\n"
    code += "print(sandbox.look_for_sandbox().words)"
    if not shutil.which("setpriv") or subprocess.run([*user, "unshare", "-Un", "true"], check=False).returncode:
        pytest.skip("an ordinary user may not have namespaces here")
    done = subprocess.run([*user, python, "-B", "-c", code, str(root), str(packages)], capture_output=True, text=True,
                          timeout=PATIENCE, env={"PATH": os.environ["PATH"], "HOME": "/tmp"}, check=False)
    if "ModuleNotFoundError" in done.stderr or "Permission denied" in done.stderr:
        pytest.skip(f"an ordinary user's Python cannot read this project: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    wanted = "bubblewrap" if shutil.which("bwrap") else "landlock"
    assert done.stdout.startswith(f"{wanted} with seccomp; it refused a process"), done.stdout
