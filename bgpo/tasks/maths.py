"""Answers in maths: taking them out of a completion, and judging them by math-verify in bounded time.

math-verify parses LaTeX and lets sympy compare. Its own time limits use signals, which work in a main thread only and
not inside a big multiplication, so the comparison runs in a child process that the kernel ends (maths_child.py).
"""

from __future__ import annotations

import atexit
import json
import re
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from bgpo.tasks.base import TaskError

LONGEST_ANSWER = 500  # characters; the longest answer of MATH has 150
_START_SECONDS = 120  # to import sympy on a busy machine
_WALL_SECONDS = 30  # the child's processor time is what counts; this ends one that sleeps
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_TWO_NUMBERS = re.compile(r"\d\s+\d")
_THOUSANDS = re.compile(r"-?\d{1,3}(?:\s\d{3})+(?:\.\d+)?")
_MOST_BOXES = 1000


def last_boxed(text: str) -> str | None:
    """What the last whole `\\boxed{...}` holds, brackets matched; None without one. Linear in the text."""
    starts = [match.end() for match in _BOX.finditer(text)][-_MOST_BOXES:]
    found = None
    outside = -1  # where the box that was read last ends: boxes inside it are part of it
    for start in starts:
        if start < outside:
            continue
        depth = 1
        for place in range(start, min(len(text), start + 2 * LONGEST_ANSWER)):
            depth += (text[place] == "{") - (text[place] == "}")
            if not depth:
                found, outside = text[start:place].strip(), place
                break
    return found


def last_number(text: str) -> str | None:
    """The last number of a text, thousands separators taken out."""
    found = _NUMBER.findall(text[-10_000:])
    return found[-1].replace(",", "") if found else None


def equal_answers(expected: str, answer: str) -> bool:
    """Whether `answer` says the same as `expected`: `\\frac12`, `0.5` and `50\\%` do.

    An answer that takes longer than the child's processor time, or needs too much memory, is not equal.
    """
    answer = answer.strip().removesuffix(".").replace("**", "^")
    if not answer or len(answer) > LONGEST_ANSWER:
        return False
    if answer == expected.strip():
        return True
    if _THOUSANDS.fullmatch(answer):
        answer = re.sub(r"\s", "", answer)
    elif _TWO_NUMBERS.search(answer):
        return False  # math-verify adds `1 2` up, as the whole and the half in `1 \frac12`
    if answer.count("{") > 40 or answer.count("(") > 40 or not answer.isprintable():
        return False
    return _CHILD.ask(expected, answer)


class _Child:
    """The process that compares, started when first needed and again when it was ended. Safe to use from threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._rest = b""

    def ask(self, expected: str, answer: str) -> bool:
        with self._lock:
            if self._process is None:
                self._start()
            try:
                self._process.stdin.write(json.dumps([expected, answer]).encode() + b"\n")
                self._process.stdin.flush()
                line = self._line(_WALL_SECONDS)
            except OSError:
                line = None
            if line is None:
                self._end()
            return line == b"true"

    def _start(self) -> None:
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("maths_child.py"))], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )
        if self._line(_START_SECONDS) != b"ready":
            self._end()
            raise TaskError("math-verify does not start here; install it with pip install -r requirements.txt.")

    def _line(self, seconds: float) -> bytes | None:
        """The child's next line; None when it has ended or says nothing for so long."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            chunk = self._process.stdout.read1(4096) if ready else b""
            if not chunk:
                return None
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def _end(self) -> None:
        process, self._process = self._process, None
        if process:
            process.kill()
            process.wait()
            process.stdin.close()
            process.stdout.close()

    def close(self) -> None:
        with self._lock:
            self._end()


_CHILD = _Child()
atexit.register(_CHILD.close)
