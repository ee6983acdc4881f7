"""Cells that train: warm starts, states, and the runs of parts 1 and 2. Rewards beside tokens forwarded."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bgpo.config import TrainConfig
from bgpo.training import trainer


class Recorder:
    """A listener that keeps the held-out rewards and asks to stop once there is enough.

    Attributes:
        points: step, tokens forwarded by training so far, greedy and sampled held-out reward.
        tokens: forwarded so far, rollouts included, as the trainer counts them: one in a forward pass counts 1, one in
            a forward and backward pass 3.
    """

    def __init__(self, least_steps: int, least_tokens: int):
        self.points: list[dict[str, float]] = []
        self.tokens = 0
        self._least = (least_steps, least_tokens)
        self._enough = False

    def phase(self, name: str, done: int, total: int) -> None:
        """Not kept."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self.tokens = int(values.get("progress/compute", self.tokens))
        if "reward/heldout_greedy" not in values:
            return
        self.points.append({
            "step": step, "tokens": self.tokens, "greedy": values["reward/heldout_greedy"],
            "sampled": values["reward/heldout_sampled"],
        })
        self._enough = step >= self._least[0] and self.tokens >= self._least[1]

    def completions(self, step: int, shown: list) -> None:
        """Not kept."""

    def rollouts(self, step: int, kept: list) -> None:
        """Not kept."""

    def keep(self) -> None:
        """Nothing to keep."""

    def checkpoint(self, step: int, kind: str, folder: Path, reward: float | None) -> None:
        """Not kept."""

    def should_stop(self) -> bool:
        return self._enough


def train(name: str, settings: dict[str, Any], work: Path, keep: bool = False) -> dict[str, Any]:
    """One run. Its folder goes, unless `keep`: then its last checkpoint is what other cells start from."""
    config, folder = TrainConfig.parse(settings["config"]), work / "runs" / name
    shutil.rmtree(folder, ignore_errors=True)
    recorder = Recorder(settings["least_steps"], settings["least_tokens"])
    outcome = trainer.run(config, folder, recorder, work / "warm_starts")
    if not keep:
        shutil.rmtree(folder)
    return {"points": recorder.points, "steps": outcome.step}


def state_folder(work: Path, name: str, steps: int) -> Path:
    """The checkpoint of a kept run."""
    return work / "runs" / name / "checkpoints" / f"step-{steps:06d}"
