"""A task's problems and its grader for an answer on a page, judged as the run judges its rollouts.

The built-in tasks answer at once. What reads data, runs a researcher's own file or takes its time over a text does so
in a process of its own (task_desk_child.py), which is ended when it takes too long: neither data that comes slowly nor
a grader that hangs holds up the app. Programs that a model wrote run in the sandbox of code tasks, from there as well.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from bgpo.config import TrainConfig
from bgpo.tasks.base import PARTS, FiniteTask, Problem, Reward, Task, TaskError, problems
from bgpo.tasks.registry import TASKS

SECONDS = 60.0  # for one question; data of a hub may have to come first
_ROOT = Path(__file__).parents[2]  # where a run's paths begin too
_LONGEST_ANSWER = 2**20  # bytes that a child may say at a time
NO_PROBLEM = "the prompt is no problem of the task"


@dataclass(frozen=True)
class Example:
    """A problem to try: what tells it from others, and the whole message to the model."""

    question: str
    prompt: str


class Grader(Protocol):
    """Judges one answer. `asked` is called first and says what the model is asked for a prompt."""

    def asked(self, prompt: str) -> str:
        """The whole prompt of the problem that somebody has stated, else the prompt as it is."""

    def verdict(self, completion: str) -> dict[str, Any]:
        """{"verdict": {reward, solved, reason, parts: [[name, value], ...]}}, or None there and "unjudged" why."""


def verdict_json(judged: Reward) -> dict[str, Any]:
    """A verdict as pages show it, parts under their names for people."""
    parts = [[PARTS.get(name, (name,))[0], value] for name, value in judged.parts.items()]
    return {"reward": judged.total, "solved": judged.solved, "reason": judged.reason, "parts": parts}


class InProcess:
    """Grades by a task here and now: for tasks whose grader is ours and quick."""

    def __init__(self, task: Task):
        self._task = task
        self._problem: Problem | None = None

    def asked(self, prompt: str) -> str:
        try:
            self._problem = self._task.problem_from(prompt)
        except ValueError:
            return prompt.strip()  # still a prompt; it only cannot be judged
        return self._problem.prompt

    def verdict(self, completion: str) -> dict[str, Any]:
        if self._problem is None:
            return {"verdict": None, "unjudged": NO_PROBLEM}
        return {"verdict": verdict_json(self._task.reward(self._problem, completion))}


class TaskDesk:
    """The problems and the grader of one run at a time, the last one that was asked for.

    Args:
        idle_seconds: its process is ended after so long without a question.
        seconds: the longest that a question may take.
    """

    def __init__(self, idle_seconds: float = 600, seconds: float = SECONDS):
        self._idle_seconds, self._seconds = idle_seconds, seconds
        self._lock = threading.Lock()
        self._child: _Child | None = None
        self._timer: threading.Timer | None = None

    def examples(self, config: TrainConfig, folder: str, count: int, page: int = 0) -> list[Example]:
        """Held-out problems of a run, other ones on each page. Raises TaskError when they cannot be read."""
        task = TASKS[config.task]
        if not isinstance(task, FiniteTask):
            drawn = problems(task, "held_out", count, random.Random(page), distinct=True)
            return [Example(problem.prompt, problem.prompt) for problem in drawn]
        said = self.ask(config, folder, {"examples": count, "page": page})
        return [Example(question, prompt) for question, prompt in said["examples"]]

    def grader(self, config: TrainConfig, folder: str) -> Grader:
        """The grader of a run: the task's as the run has set it up, or the run's own reward_file."""
        task = TASKS[config.task]
        if isinstance(task, FiniteTask) or config.reward_file:
            return _AtDesk(self, config, folder)
        return InProcess(task)

    def ask(self, config: TrainConfig, folder: str, question: dict[str, Any]) -> dict[str, Any]:
        """What the process says to a question. Raises TaskError, also when it takes too long or the process ends."""
        run = {"config": config.to_json(), "folder": str(folder)}
        with self._lock:
            if self._timer:
                self._timer.cancel()
            if self._child is None or self._child.run != run or not self._child.alive:
                self._end()
                self._child = _Child(run)
            try:
                return self._child.ask(question, self._seconds)
            except TaskError:
                if not self._child.alive:
                    self._end()
                raise
            finally:
                self._timer = threading.Timer(self._idle_seconds, self.close)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        with self._lock:
            if self._timer:
                self._timer.cancel()
            self._end()

    def _end(self) -> None:
        if self._child:
            self._child.end()
        self._child = None


class _AtDesk:
    """Grades in the desk's process."""

    def __init__(self, desk: TaskDesk, config: TrainConfig, folder: str):
        self._desk, self._run = desk, (config, folder)
        self._prompt: str | None = None
        self._why = NO_PROBLEM

    def asked(self, prompt: str) -> str:
        try:
            said = self._desk.ask(*self._run, {"prompt": prompt})
        except TaskError as error:
            self._why = str(error)
            return prompt.strip()
        self._prompt = said["prompt"]
        return self._prompt or prompt.strip()

    def verdict(self, completion: str) -> dict[str, Any]:
        if self._prompt is None:
            return {"verdict": None, "unjudged": self._why}
        try:
            return {"verdict": self._desk.ask(*self._run, {"prompt": self._prompt, "completion": completion})}
        except TaskError as error:
            return {"verdict": None, "unjudged": str(error)}


class _Child:
    """The process of a desk, with whatever it has started."""

    def __init__(self, run: dict[str, str]):
        self.run = run
        self._rest = b""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bgpo.jobs.task_desk_child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, cwd=_ROOT, start_new_session=True,
        )  # fmt: skip
        self._say(run)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, question: dict[str, Any], seconds: float) -> dict[str, Any]:
        self._say(question)
        try:
            said = json.loads(self._line(seconds))
        except TaskError:
            self.end()
            raise
        if "error" in said:
            raise TaskError(said["error"])
        return said

    def _say(self, what: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # it has ended: its silence says so
            self._process.stdin.write(json.dumps(what).encode() + b"\n")
            self._process.stdin.flush()

    def _line(self, seconds: float) -> bytes:
        """What it says next. Raises TaskError with why, when it says nothing for so long, has ended or says too much.

        Its end is read from the pipe: the pipe closes a moment before the process counts as ended.
        """
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            if len(self._rest) > _LONGEST_ANSWER:
                raise TaskError(f"The task's answer was over {_LONGEST_ANSWER:,} bytes, so its process was ended.")
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TaskError(
                    f"The task gave no answer within {seconds:g} seconds, so its process was ended; try again."
                )
            chunk = self._process.stdout.read1(65536)
            if not chunk:
                raise TaskError(
                    "The task ended the process that grades; see whether its data and files are whole, and try again."
                )
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
