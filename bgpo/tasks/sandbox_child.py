"""Runs in the sandbox: locks itself in, then plays one of two parts. Standard library only; started with -ISB.

The candidate's part runs a program that a model wrote and calls its functions on arguments that come in. The tests'
part runs unit tests that a data set gave; a call of the program in them goes out as a message, comes back as a plain
value, and is compared here, where the program is not. So expected values never are where the program is, and nothing
that it prints, patches, returns or exits with is a verdict.

Messages are JSON lines. The first comes in and says what to lock: {"filter", "landlock", "uid", "limits", ...}.
"""

import base64
import builtins
import collections
import ctypes
import decimal
import fractions
import json
import os
import resource
import sys

_DEEPEST = 50
_MOST_ITEMS = 20_000
_PLAIN_INT = 2**53
_CALL_FAILED = "the program failed: "


# ---- locking in ----------------------------------------------------------------------------------------------------


def lock_in(orders):
    """Limits, no root, no files but `landlock`'s, no system calls that the filter refuses; for good."""
    for name, value in orders["limits"].items():
        kind = getattr(resource, f"RLIMIT_{name}")
        ceiling = resource.getrlimit(kind)[1]
        value = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(kind, (value, value))
    if orders["uid"]:
        os.setgroups([])
        os.setresgid(orders["uid"], orders["uid"], orders["uid"])
        os.setresuid(orders["uid"], orders["uid"], orders["uid"])
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    if orders["landlock"] is not None:
        _landlock(libc, orders["landlock"])
    _seccomp(libc, base64.b64decode(orders["filter"]))


def _landlock(libc, readable):
    """Nothing is written any more, and only what lies beneath `readable` is read."""
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    _check(version)
    files = (1 << (13 if version < 2 else 14 if version < 3 else 15 if version < 5 else 16)) - 1
    net, scoped = (3 if version >= 4 else 0), (3 if version >= 6 else 0)
    rules = (ctypes.c_uint64 * 3)(files, net, scoped)
    size = 8 if version < 4 else 16 if version < 6 else 24
    ruleset = libc.syscall(444, ctypes.byref(rules), ctypes.c_size_t(size), 0)
    _check(ruleset)
    for path in readable:
        opened = os.open(path, os.O_PATH)
        allowed = 4 | 8 if os.path.isdir(path) else 4  # read files and folders
        beneath = ctypes.create_string_buffer(
            allowed.to_bytes(8, sys.byteorder) + opened.to_bytes(4, sys.byteorder, signed=True)
        )
        _check(libc.syscall(445, ruleset, 1, beneath, 0))
        os.close(opened)
    _check(libc.syscall(446, ruleset, 0))
    os.close(ruleset)


def _seccomp(libc, program):
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    code = ctypes.create_string_buffer(program, len(program))
    order = Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    _check(libc.prctl(22, 2, ctypes.byref(order), 0, 0))  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


def _check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


# ---- values as messages --------------------------------------------------------------------------------------------


def to_message(value, keep, depth=0):
    """A value as JSON: plain ones as they are, others as [kind, content]; `keep` keeps and numbers objects."""
    if value is None or value is True or value is False or type(value) in (str, float):
        return value
    if depth > _DEEPEST:
        raise ValueError("the value is nested too deeply")

    def each(items):
        taken = []
        for item in items:
            taken.append(to_message(item, keep, depth + 1))
            if len(taken) > _MOST_ITEMS:
                raise ValueError("the value has too many items")
        return taken

    if isinstance(value, int):
        return int(value) if abs(value) < _PLAIN_INT else ["int", hex(value)]
    if isinstance(value, (str, float)):
        return str(value) if isinstance(value, str) else float(value)
    if isinstance(value, complex):
        return ["complex", [value.real, value.imag]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytearray" if isinstance(value, bytearray) else "bytes", base64.b64encode(value).decode()]
    if isinstance(value, (decimal.Decimal, fractions.Fraction)):
        return ["decimal" if isinstance(value, decimal.Decimal) else "fraction", str(value)]
    if isinstance(value, dict):
        return ["dict", [[to_message(key, keep, depth + 1), item] for key, item in zip(value, each(value.values()))]]
    for kind in (list, tuple, set, frozenset, collections.deque):
        if isinstance(value, kind):
            return [kind.__name__, each(value)]
    if isinstance(value, range):
        return ["range", [value.start, value.stop, value.step]]
    if hasattr(value, "__next__") or type(value).__name__ in ("dict_keys", "dict_values", "dict_items"):
        return ["iterator", each(value)]
    return ["object", [keep(value), type(value).__name__[:60]]]


def from_message(message, find):
    """The value of a message; `find` gives the object that a number and a type's name stand for."""
    if not isinstance(message, list):
        return message
    kind, content = message
    if kind == "object":
        return find(*content)
    if kind == "int":
        return int(content, 16)
    if kind in ("complex", "range"):
        return getattr(builtins, kind)(*content)
    if kind in ("bytes", "bytearray"):
        return getattr(builtins, kind)(base64.b64decode(content))
    if kind in ("decimal", "fraction"):
        return (decimal.Decimal if kind == "decimal" else fractions.Fraction)(content)
    if kind == "dict":
        return {from_message(key, find): from_message(item, find) for key, item in content}
    items = [from_message(item, find) for item in content]
    if kind == "iterator":
        return iter(items)
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "deque": collections.deque}[kind](items)


# ---- the candidate's part ------------------------------------------------------------------------------------------


def play_candidate(program, receive, send):
    """Runs the program, then answers calls of what it defines: {"value"} or {"error": [type, words]}."""
    space = {"__name__": "candidate"}
    objects = []

    def keep(value):
        objects.append(value)
        return len(objects) - 1

    def find(number, _):
        return objects[number]

    def act(order):
        if order["do"] == "run":
            exec(compile(program, "<program>", "exec"), space)
            return None
        target = space[order["name"]] if "name" in order else objects[order["object"]]
        given = [from_message(argument, find) for argument in order["arguments"]]
        if order["do"] == "call":
            return target(*given, **{key: from_message(item, find) for key, item in order["named"].items()})
        return getattr(target, *given) if order["do"] == "get" else setattr(target, *given)

    while (order := receive()) is not None:
        try:
            answer = json.dumps({"value": to_message(act(order), keep)})
        except BaseException as error:  # SystemExit and the like as well
            answer = json.dumps({"error": [type(error).__name__[:60], str(error)[:200]]})
        send(answer)


# ---- the tests' part -----------------------------------------------------------------------------------------------


class Thing:
    """Something of the program's that is no plain value: it can be called and has attributes, and equals nothing."""

    def __init__(self, ask, where, kind):
        self.__dict__.update(_ask=ask, _where=where, _kind=kind)

    def __call__(self, *arguments, **named):
        return self._ask("call", self._where, arguments, named)

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self._ask("get", self._where, (name,), {})

    def __setattr__(self, name, value):
        self._ask("set", self._where, (name, value), {})

    def _refuse(self, *_):
        raise TypeError(f"the program gave an object of type {self._kind}, which is no plain value and equals nothing")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __len__ = __contains__ = __iter__ = _refuse
    __hash__ = object.__hash__


def play_tests(orders, receive, send):
    """Runs each test with the program's names bound to its functions over there; sends {"passed", "why"} for each."""

    def ask(action, where, arguments, named):
        def keep(value):
            if isinstance(value, Thing) and "object" in value._where:
                return value._where["object"]
            raise TypeError("a test may hand only plain values to the program, no functions or objects of its own")

        send(json.dumps({"ask": json.dumps({
            "do": action, **where, "arguments": [to_message(argument, keep) for argument in arguments],
            "named": {name: to_message(value, keep) for name, value in named.items()},
        })}))
        answer = json.loads(receive()["answer"])
        if "error" in answer:
            kind, words = answer["error"]
            known = getattr(builtins, str(kind), None)
            # a StopIteration would end the loop of a test that calls the function in one, and so pass it
            fits = isinstance(known, type) and issubclass(known, Exception)
            fits = fits and not issubclass(known, (StopIteration, StopAsyncIteration))
            raise (known if fits else RuntimeError)(f"{_CALL_FAILED}{kind}: {words}")
        return from_message(answer["value"], lambda number, kind: Thing(ask, {"object": int(number)}, str(kind)[:60]))

    space = {"__name__": "tests"}

    def bind():
        space.update({name: Thing(ask, {"name": name}, "function") for name in orders["names"]})

    failed = ""
    try:
        bind()
        exec(compile(orders["setup"], "<setup>", "exec"), space)
        bind()  # a setup that holds the head of the program must not stand for it
    except BaseException as error:
        failed = f"the setup of the tests failed: {_words(error)}"
    for test in orders["tests"]:
        why = failed
        try:
            if not why:
                exec(compile(test, "<test>", "exec"), space)
        except AssertionError as error:
            why = str(error)[:200] or "the assertion does not hold"
        except BaseException as error:
            why = _words(error)
        send(json.dumps({"passed": not why, "why": why[:300]}))


def _words(error):
    words = str(error)[:200]
    return words if words.startswith(_CALL_FAILED) else f"{type(error).__name__}: {words}"


def main():
    channel_in, channel_out = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):  # what a program prints goes nowhere
        os.dup2(nothing, standard)

    def receive():
        line = channel_in.readline()
        return json.loads(line) if line else None

    def send(line):
        channel_out.write(line.encode() + b"\n")
        channel_out.flush()

    orders = receive()
    try:
        lock_in(orders)
    except Exception as error:
        send(json.dumps({"locked": False, "why": f"{type(error).__name__}: {error}"}))
        return
    send(json.dumps({"locked": True}))
    if orders["part"] == "candidate":
        play_candidate(orders["program"], receive, send)
    else:
        play_tests(orders, receive, send)


if __name__ == "__main__":
    main()
