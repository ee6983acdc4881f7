"""What a run tells of its progress, and to whom. A job reports to a `Listener` and does not know who listens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bgpo.training.evaluation import HeldOutCompletion
from bgpo.training.rollouts import KeptRollout


class Listener(Protocol):
    """Who is told of a run's progress."""

    def phase(self, name: str, done: int, total: int) -> None:
        """`name` is starting, downloading (in megabytes), warming_up, training or evaluating."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values by METRICS name. `warmup/loss` counts supervised steps, all others training steps."""

    def completions(self, step: int, shown: list[HeldOutCompletion]) -> None:
        """The shown held-out problems at the evaluation of `step`."""

    def rollouts(self, step: int, kept: list[KeptRollout]) -> None:
        """Completions of the training step that has just ended, as many groups as the config keeps."""

    def keep(self) -> None:
        """A checkpoint is about to be saved. Nothing that was told before may be lost once it is there: a run that goes
        on from it does not tell it again."""

    def checkpoint(self, step: int, kind: str, folder: Path, reward: float | None) -> None:
        """A checkpoint is on disk; `kind` is warm_start, evaluation, final or stop."""

    def should_stop(self) -> bool:
        """Asked often; must be cheap."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: status "finished" or "stopped", after `step` training steps."""

    status: str
    step: int


class StopRequested(Exception):
    """Unwinds from the middle of a step to the loop."""
