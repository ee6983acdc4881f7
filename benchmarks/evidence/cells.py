"""Files of finished cells, and the processes that make the missing ones."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from benchmarks.evidence.plan import Cell
from bgpo.config import ConfigError, TrainConfig

_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def cell_file(work: Path, cell: Cell) -> Path:
    return work / "cells" / f"{cell.name}.json"


def load(work: Path, cell: Cell) -> dict[str, Any] | None:
    """The finished cell, or None when it is missing or was made with other settings."""
    try:
        stored = json.loads(cell_file(work, cell).read_text())
    except (OSError, ValueError):
        return None
    return stored if _of_today(stored["settings"]) == json.loads(json.dumps(cell.settings)) else None


def _of_today(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the knobs that came later at their defaults: a new knob's default leaves runs as they were."""
    configs = {name: settings[name] for name in ("config", "rollouts") if name in settings}
    try:
        return settings | {name: TrainConfig.parse(values).model_dump() for name, values in configs.items()}
    except ConfigError:  # made with a knob that is gone
        return settings


def measure(cell: Cell, work: Path) -> float:
    """Makes one cell and writes its file, whole or not at all; returns the seconds it took."""
    from benchmarks.evidence import measures, training

    def state(settings: dict[str, Any], work: Path) -> dict[str, Any]:
        return training.train(cell.name, settings, work, keep=True)

    def run(settings: dict[str, Any], work: Path) -> dict[str, Any]:
        return training.train(cell.name, settings, work)

    by_part: dict[str, Callable[[dict[str, Any], Path], dict[str, Any]]] = {
        "warm_start": run, "mc_samples": run, "objectives": run, "state": state, "reference": measures.reference,
        "gradient": measures.gradient, "gap": measures.gap, "memory": measures.held,
    }
    start, used = time.monotonic(), time.process_time()
    result = by_part[cell.part](cell.settings, work)
    seconds = time.monotonic() - start
    stored = {
        "part": cell.part, "settings": cell.settings, "seconds": seconds, "cpu_seconds": time.process_time() - used,
        "machine": _machine(), "result": result,
    }
    path = cell_file(work, cell)
    staging = path.with_suffix(f".{os.getpid()}")
    staging.write_text(json.dumps(stored, allow_nan=False))
    os.replace(staging, path)
    return seconds


def _machine() -> dict[str, Any]:
    import torch

    return {
        "cores": os.cpu_count(), "torch": torch.__version__.split("+")[0], "python": platform.python_version(),
        "system": platform.system(), "device": "CPU",
    }


def make_missing(
    cells: Sequence[Cell], work: Path, processes: int, minutes: float | None, say: Callable[[str], None] = print
) -> None:
    """Makes what is missing, in order as far as needs allow.

    Ctrl-C and a SIGTERM end it at once and lose the cells that were under way, no others. After `minutes` no cell is
    begun any more.
    """
    (work / "cells").mkdir(parents=True, exist_ok=True)
    done = {cell.name for cell in cells if load(work, cell)}
    todo = [cell for cell in cells if cell.name not in done]
    say(f"{len(cells)} cells, {len(done)} done, {len(todo)} to go on {processes} process(es)")
    if not todo:
        return
    os.environ.update(_ONE_THREAD)
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    context = multiprocessing.get_context("forkserver")  # one import of torch for all processes
    context.set_forkserver_preload(["benchmarks.evidence.measures", "benchmarks.evidence.training"])
    executor = ProcessPoolExecutor(processes, context, _start_worker)
    try:
        _Schedule(todo, done, work, processes, minutes, say).run(executor)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        executor.shutdown()
        signal.signal(signal.SIGTERM, before)


def _start_worker() -> None:
    """Ctrl-C is the parent's affair; one thread each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    import torch

    torch.set_num_threads(1)


class _Schedule:
    """What is left to do, and how long it may take."""

    def __init__(self, todo, done, work, processes, minutes, say):
        self.todo: list[Cell] = todo
        self.done: set[str] = done
        self.work, self.processes, self.say = work, processes, say
        self.running: dict[Future, Cell] = {}
        self.start = time.monotonic()
        self.end = self.start + 60 * minutes if minutes else float("inf")
        self.guessed = self.taken = 0.0
        self.failures: list[str] = []

    def run(self, executor: ProcessPoolExecutor) -> None:
        while True:
            while len(self.running) < self.processes and time.monotonic() < self.end and (cell := self._next()):
                self.running[executor.submit(measure, cell, self.work)] = cell
            if not self.running:
                break
            finished, _ = wait(self.running, return_when=FIRST_COMPLETED)
            for future in finished:
                self._settle(self.running.pop(future), future)
        if self.failures:
            raise RuntimeError("Some cells failed; start again to retry them.\n" + "\n".join(self.failures))
        if self.todo:
            self.say(f"Out of time; {len(self.todo)} cells are left for the next start.")

    def _next(self) -> Cell | None:
        for cell in self.todo:
            if set(cell.needs) <= self.done:
                self.todo.remove(cell)
                return cell
        return None

    def _settle(self, cell: Cell, future: Future) -> None:
        error = future.exception()
        if error is not None:
            self.failures.append(f"{cell.name}: {type(error).__name__}: {error}")
            self.say(f"FAILED {self.failures[-1]}")
            return
        self.done.add(cell.name)
        self.guessed += cell.seconds
        self.taken += future.result()
        left = [*self.todo, *self.running.values()]
        minutes = sum(c.seconds for c in left) * self.taken / self.guessed / self.processes / 60
        elapsed = (time.monotonic() - self.start) / 60
        self.say(
            f"[{elapsed:5.1f} min] {cell.name} took {future.result():.0f} s; {len(left)} left, about {minutes:.0f} min"
        )
