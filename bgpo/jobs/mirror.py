"""A copy of a run's metrics for TensorBoard, Weights & Biases or trackio, by the knob `mirror`.

A thread of its own hands the values over, so a slow or broken service costs the run nothing: what does not fit in
its queue, or is refused, is counted and said once in the log. The database has everything all the same.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from bgpo.config import ConfigError, TrainConfig
from storage.runs import Run

PROJECT = "bgpo-studio"  # what the runs are filed under at Weights & Biases and trackio
QUEUE_LIMIT = 1_000  # steps that wait for a slow service; more are left out
LAST_WORDS = 10.0  # seconds that a run which has ended waits for the rest to go out
_LOOK_EVERY = 0.2  # seconds


class Target(NamedTuple):
    """An open mirror."""

    log: Callable[[int, Mapping[str, float]], Any]
    close: Callable[[], Any]


def check_installed(config: TrainConfig) -> None:
    """Raises ConfigError when the package that the knob `mirror` needs is missing; each has the knob's name."""
    if config.mirror != "none" and importlib.util.find_spec(config.mirror) is None:
        sentence = (
            f"mirror = {config.mirror} needs a package that is not installed; pip install {config.mirror}, or set "
            "mirror to none."
        )
        raise ConfigError({"mirror": sentence})


def mirror_of(config: TrainConfig, run: Run, say: Callable[[str], None]) -> Mirror | None:
    """The mirror that the config asks for, at work; None for none. Raises ConfigError as `check_installed` does."""
    check_installed(config)
    return None if config.mirror == "none" else Mirror(config, run, say)


class Mirror:
    """Feeds one service, and never raises or waits while the run is at work."""

    def __init__(self, config: TrainConfig, run: Run, say: Callable[[str], None]):
        self._config, self._run, self._say = config, run, say
        self._waiting: queue.Queue[tuple[int, Mapping[str, float]]] = queue.Queue(QUEUE_LIMIT)
        self._closing = threading.Event()
        self._complained = False
        self._given, self._taken = 0, 0  # steps of metrics; each counted by one thread alone
        self._thread = threading.Thread(target=self._feed, name="mirror", daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Leaves the values for the thread; when its queue is full, they are left out."""
        self._given += 1
        try:
            self._waiting.put_nowait((step, values))
        except queue.Full:
            self._complain("it is too slow")

    def close(self, seconds: float = LAST_WORDS) -> None:
        """Lets the rest go out, for so many seconds at most, and says how much did not."""
        self._closing.set()
        self._thread.join(seconds)
        if left_out := self._given - self._taken:
            self._say(f"{left_out} of {self._given} steps of metrics did not reach {self._config.mirror}.")
        elif self._thread.is_alive():
            self._say(f"{self._config.mirror} has not closed the run within {seconds:.0f} s.")

    def _feed(self) -> None:
        try:
            target = _OPEN[self._config.mirror](self._config, self._run)
        except BaseException as error:  # packages of others: some end with SystemExit when nobody is logged in
            self._complain(_named(error))
            return
        while not (self._closing.is_set() and self._waiting.empty()):
            try:
                step, values = self._waiting.get(timeout=_LOOK_EVERY)
            except queue.Empty:
                continue
            self._attempt(target.log, step, values)
        try:
            target.close()
        except BaseException as error:
            self._complain(_named(error))

    def _attempt(self, log: Callable[..., Any], step: int, values: Mapping[str, float]) -> None:
        try:
            log(step, values)
        except BaseException as error:
            self._complain(_named(error))
        else:
            self._taken += 1

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            self._say(f"Metrics are not all mirrored to {self._config.mirror} ({why}); the run goes on without.")


def _tensorboard(config: TrainConfig, run: Run) -> Target:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(log_dir=str(Path(run.folder) / "tensorboard"))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    return Target(log, writer.close)


def _wandb(config: TrainConfig, run: Run) -> Target:
    import wandb

    # the same id after a resume, and another for a run of the same number in another database
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"{run.folder} {run.created_at}").hex
    opened = wandb.init(
        project=PROJECT, name=run.name, id=identity, resume="allow", dir=run.folder, config=config.model_dump()
    )
    # its own counter of steps takes no lower number after a higher one, and training begins at 0 after the warm start
    opened.define_metric("*", step_metric="step")
    return Target(lambda step, values: opened.log({**values, "step": step}), opened.finish)


def _trackio(config: TrainConfig, run: Run) -> Target:
    import trackio

    trackio.init(project=PROJECT, name=f"{run.name} ({run.id})", resume="allow", config=config.model_dump())
    return Target(lambda step, values: trackio.log(dict(values), step=step), trackio.finish)


_OPEN: dict[str, Callable[[TrainConfig, Run], Target]] = {
    "tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio,
}


def _named(error: BaseException) -> str:
    said = " ".join(str(error).split())[:200].rstrip(".")
    return f"{type(error).__name__}: {said}" if said else type(error).__name__
