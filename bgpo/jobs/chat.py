"""Loaded checkpoints that answer prompts, step by step, and are given back when idle: at most one per device.

The web process loads torch here, when somebody first asks, and not before.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgpo.jobs.chat_devices import CPU, GPU, REFUSE, WAIT, GpuTaken, Seat, Seats
from bgpo.jobs.chat_settings import ChatError, ChatSettings, Locks
from bgpo.jobs.grading import Grader, InProcess, TaskDesk
from bgpo.tasks.registry import TASKS

__all__ = ["Chat", "ChatError", "ChatSettings"]

LOOK_EVERY = 0.2  # seconds between looks at whose turn it is and whether a card is free
GIVE_WAY_EVERY = 1.0


@dataclass
class _Loaded:
    """What a pool of devices holds, and who waits for it, first come first served."""

    seat: Seat = field(default_factory=lambda: Seat(CPU))
    folder: str = ""
    model: Any = None
    line: list[object] = field(default_factory=list)
    timer: threading.Timer | None = None


class Chat:
    """Holds at most one checkpoint per device; one answer at a time on each, others wait their turn.

    Args:
        idle_seconds: a model is dropped after so long without a question.
        seats: the devices; without, there is the CPU alone.
    """

    def __init__(self, idle_seconds: float = 600, seats: Seats | None = None):
        self._idle_seconds = idle_seconds
        self._seats = seats or Seats(list, list)
        self._pools = {CPU: _Loaded(), GPU: _Loaded()}
        self._guard = threading.Lock()
        self._closed = False
        self.desk = TaskDesk(idle_seconds)

    @property
    def loaded_checkpoints(self) -> set[str]:
        """Folders of the checkpoints in memory."""
        return {pool.folder for pool in self._pools.values() if pool.model is not None}

    def answer(
        self, checkpoint_folder: str, task_name: str, prompt: str, settings: Mapping[str, Any],
        stopped: Callable[[], bool] = lambda: False, locked: Locks = (), *,
        earlier: Sequence[str] = (), grader: Grader | None = None, pool: str = CPU, if_taken: str = REFUSE,
    ) -> Iterator[dict[str, Any]]:
        """Yields "start", one "step" per denoising step as it is made, then "end"; all of it plain JSON.

        Before them come any number of "waiting": {ahead: questions that go first, runs: ids of those that hold the
        GPU, message: a sentence about the GPU or ""}.

        Args:
            settings: completion_length, denoising_steps, block_length, temperature, remasking, seed.
            stopped: asked before each step and while it waits; true ends the answer there.
            locked: what stands from the start: (position, token id or Piece), or (position, text), which takes as many
                positions as it has tokens. The model writes the rest.
            earlier: what was said before: a message of the user, its answer, and so on; the built-in model, which has
                learnt single problems only, does not read it.
            grader: finds the problem that a prompt states and judges the answer; None: the task as it is by default.
            pool: "cpu" or "gpu"; a machine without a GPU answers on the CPU.
            if_taken: what to do while no GPU is free: "refuse", "wait", or answer on the "cpu".

        Raises:
            ChatError: for a setting, prompt or checkpoint that cannot be used; GpuTaken: no GPU is free.
        """
        checked = ChatSettings.parse(settings)
        task = TASKS[task_name]
        if not prompt.strip():
            raise ChatError(f"The prompt is empty; write one such as {task.placeholder[:80]}.", "prompt")
        judge = grader or InProcess(task)
        with contextlib.closing(self._seated(pool, if_taken, stopped)) as seats:  # the turn ends with the answer
            for found in seats:
                if isinstance(found, dict):
                    yield found
                    continue
                asked = (judge.asked(prompt), tuple(earlier), task.prompt_length)
                yield from self._answer(found, checkpoint_folder, asked, checked, stopped, locked, judge)

    def _answer(self, seat, folder, asked, settings, stopped, locked, judge: Grader) -> Iterator[dict[str, Any]]:
        model = self._load(seat, folder)
        from bgpo.jobs.chat_events import Asked, answer_events
        from bgpo.training.machine import is_out_of_memory

        try:
            for event in answer_events(model, Asked(*asked, seat.words), settings, stopped, locked):
                yield event | judge.verdict(event["text"]) if event["kind"] == "end" else event
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ChatError(f"There is not enough memory for this answer on {seat.words}; shorten it, or answer on "
                            "another device.", "device") from None

    # ---- whose turn it is

    def _seated(self, pool: str, if_taken: str, stopped: Callable[[], bool]) -> Iterator[dict[str, Any] | Seat]:
        """Yields what there is to wait for at each look, then the seat, whose turn ends when the iterator is closed."""
        name = self._seats.pool(pool, instead=if_taken == CPU)
        held, ticket = self._pools[name], object()
        with self._guard:
            held.line.append(ticket)
            if held.timer:
                held.timer.cancel()
        try:
            while True:
                ahead, seat, taken = held.line.index(ticket), None, None
                try:
                    seat = self._seats.choose(name, held.seat.uuid)
                except GpuTaken as error:
                    if if_taken != WAIT:
                        raise
                    taken = error
                if seat and not ahead:
                    break
                yield {"kind": "waiting", "ahead": ahead, "runs": list(taken.runs) if taken else [],
                       "message": str(taken) if taken else ""}
                if stopped():
                    return
                time.sleep(LOOK_EVERY)
            yield seat
        finally:
            with self._guard:
                held.line.remove(ticket)
            self._release_later(name)

    # ---- what is in memory

    def _load(self, seat: Seat, folder: str) -> Any:
        held = self._pools[seat.pool]
        if held.model is not None and (held.seat, held.folder) == (seat, folder) and Path(folder).is_dir():
            return held.model
        from bgpo.models.checkpoints import CheckpointError, load_model
        from bgpo.training.machine import is_out_of_memory

        self._drop(held)  # the old one goes before the new one comes
        try:
            held.model = load_model(Path(folder), seat.torch_device())
        except CheckpointError as error:
            raise ChatError(str(error), "checkpoint") from None
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ChatError(f"The model does not fit into the free memory of {seat.words}.", "device") from None
        held.seat, held.folder = seat, folder
        return held.model

    def _release_later(self, name: str) -> None:
        timer = threading.Timer(self._idle_seconds, self._release, (name,))
        timer.daemon = True
        with self._guard:
            if self._closed:  # also because a thread that is started while the interpreter ends never comes to life
                return
            held = self._pools[name]
            if held.timer:
                held.timer.cancel()
            held.timer = timer
            timer.start()

    def _release(self, name: str) -> None:
        with self._guard:
            if not self._pools[name].line:
                self._drop(self._pools[name])

    def release(self) -> None:
        """Drops the models, but those of answers under way."""
        for name in self._pools:
            self._release(name)

    def close(self) -> None:
        """Ends what would still happen by itself, for good: with the process."""
        with self._guard:
            self._closed = True
            for held in self._pools.values():
                if held.timer:
                    held.timer.cancel()
        self.desk.close()

    def give_way(self) -> None:
        """Drops the model on a card that a run has taken since; an answer under way is finished first."""
        held = self._pools[GPU]
        if held.model is not None and self._seats.given_away(held.seat):
            self._release(GPU)

    def _drop(self, held: _Loaded) -> None:
        if held.model is None:
            return
        held.model, held.folder = None, ""
        if held.seat.pool == GPU:
            gc.collect()
            sys.modules["torch"].cuda.empty_cache()  # it was loaded with the model
