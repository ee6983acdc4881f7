"""A look at a task in a process of its own, with a time limit.

A task may be somebody's Python file, or data that comes slowly from a hub or does not fit: the app that asks must
neither hang nor end with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from bgpo.tasks.base import TaskError, TaskKnobs
from bgpo.tasks.preview import preview, try_grader

_ROOT = Path(__file__).parents[2]  # where a run's paths begin too
SECONDS = 60.0  # data of a hub may have to come first
_AT_ONCE = threading.BoundedSemaphore(2)
KNOBS_READ = ("task", "protocol", "data", "task_file", "checker")


def problems_of(knobs: TaskKnobs, count: int, seconds: float = SECONDS) -> dict[str, Any]:
    """`preview` as a dict, asked of a child. Raises TaskError, also when it takes too long or the child dies."""
    return _ask(knobs, {"count": count}, seconds)


def verdict_on(knobs: TaskKnobs, index: int, text: str, seconds: float = SECONDS) -> dict[str, Any]:
    """`try_grader` as a dict, asked of a child. Raises TaskError, also when it takes too long or the child dies."""
    return _ask(knobs, {"index": index, "text": text}, seconds)


def _ask(knobs: TaskKnobs, question: dict[str, Any], seconds: float) -> dict[str, Any]:
    asked = json.dumps({"knobs": {name: getattr(knobs, name) for name in KNOBS_READ}} | question)
    if not _AT_ONCE.acquire(timeout=seconds):
        raise TaskError("Other tasks are being looked at; try again when they have been read.")
    try:
        answer = _child_says(asked, seconds)
    finally:
        _AT_ONCE.release()
    if "error" in answer:
        raise TaskError(answer["error"])
    return answer


def _child_says(asked: str, seconds: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "bgpo.tasks.preview_child"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=_ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = child.communicate(asked, timeout=seconds)
        return json.loads(said)
    except subprocess.TimeoutExpired:
        return {"error": f"The task gave no answer within {seconds:g} seconds, so the look at it was ended."}
    except ValueError:
        return {"error": f"The task ended the process that looked at it (exit status {child.returncode})."}
    finally:
        with contextlib.suppress(ProcessLookupError):  # with whatever it has started
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def main() -> None:
    """Reads one question from standard input and writes the answer; what a task prints goes elsewhere."""
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    asked = json.loads(sys.stdin.read())
    try:
        said = _answer(asked)
    except TaskError as error:
        said = {"error": str(error)}
    with answer_to:
        json.dump(said, answer_to)


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    knobs = SimpleNamespace(**asked["knobs"])
    if "count" in asked:
        return asdict(preview(knobs, asked["count"]))
    return asdict(try_grader(knobs, asked["index"], asked["text"]))


if __name__ == "__main__":
    main()
