"""What the cells found, by part, ready for tables and plots. Missing cells are simply not there."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence.cells import load
from benchmarks.evidence.plan import Cell, Scale, plan
from benchmarks.evidence.statistics import Curve, jackknife
from bgpo.algorithm.objectives import OBJECTIVES

Curves = dict[int, Curve]  # by seed


@dataclass(frozen=True)
class Variance:
    """Part 3 at one scheme and number of draws; errors are one standard error.

    Attributes:
        relative: tr(Cov) / |mean gradient|^2; bias: squared distance of its mean gradient from the reference's,
            over |mean gradient|^2 (an unbiased estimate, so it may fall below 0).
        value_sd: of a completion's averaged ELBO, in nats.
    """

    relative: float
    relative_error: float
    bias: float
    bias_error: float
    value_sd: float


class Results:
    """Everything there is for a scale in a work folder."""

    def __init__(self, scale: Scale, work: Path):
        self.scale = scale
        self.cells: list[tuple[Cell, dict[str, Any]]] = []
        planned = plan(scale)
        for cell in planned:
            if stored := load(work, cell):
                self.cells.append((cell, stored))
        self.planned = len(planned)

    def of(self, part: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """(settings, result) of the part's finished cells."""
        return [(cell.settings, stored["result"]) for cell, stored in self.cells if cell.part == part]

    @property
    def seconds(self) -> float:
        """Processor time of all cells, which does not depend on what else the machine did."""
        return sum(stored.get("cpu_seconds", stored["seconds"]) for _, stored in self.cells)

    @property
    def machines(self) -> list[dict[str, Any]]:
        """The machines that cells ran on, each once."""
        found = {tuple(sorted(stored["machine"].items())): stored["machine"] for _, stored in self.cells}
        return list(found.values())

    def mc_samples(self, task: str) -> dict[int, Curves]:
        """Curves by number of draws."""
        found: dict[int, Curves] = defaultdict(dict)
        for settings, result in self.of("mc_samples"):
            config = settings["config"]
            if config["task"] == task:
                found[config["mc_samples"]][config["seed"]] = Curve.of(result["points"])
        return dict(sorted(found.items()))

    def objectives(self, updates: int) -> dict[str, Curves]:
        """Curves by objective, in the registry's order."""
        found: dict[str, Curves] = {name: {} for name in OBJECTIVES}
        for settings, result in self.of("objectives"):
            config = settings["config"]
            if config["updates_per_rollout"] == updates:
                found[config["objective"]][config["seed"]] = Curve.of(result["points"])
        return {name: curves for name, curves in found.items() if curves}

    def variances(self, share: bool) -> dict[str, dict[int, Variance]]:
        """By scheme and number of draws."""
        found: dict[str, dict[int, Variance]] = {}
        for settings, result in self.of("gradient"):
            config = settings["config"]
            if config["share_masks"] == share:
                signal = max(result["signal"], 1e-12)
                found[config["mask_draws"]] = {int(K): _variance(d, signal) for K, d in result["draws"].items()}
        return found

    def memory(self) -> dict[str, dict[int, dict[str, float]]]:
        """MB by objective and number of draws."""
        found: dict[str, dict[int, dict[str, float]]] = defaultdict(dict)
        for settings, result in self.of("memory"):
            found[settings["objective"]][settings["mc_samples"]] = result
        return dict(found)

    def moves(self) -> list[dict[str, Any]]:
        """Part 4's moves of all seeds, smallest first."""
        moves = [move | {"seed": s["config"]["seed"]} for s, result in self.of("gap") for move in result["moves"]]
        return sorted(moves, key=lambda move: move["delta"])


def _variance(drawn: dict[str, Any], signal: float) -> Variance:
    products, cross = np.array(drawn["products"]), np.array(drawn["with_reference"])
    n = len(products)

    def relative(kept: np.ndarray) -> float:
        part, m = products[np.ix_(kept, kept)], len(kept)
        return float((np.trace(part) - part.sum() / m) / (m - 1) / signal)

    def bias(kept: np.ndarray) -> float:
        """<mean, mean> over pairs of different draws, so that their own noise does not enter."""
        part, m = products[np.ix_(kept, kept)], len(kept)
        own = (part.sum() - np.trace(part)) / (m * (m - 1))
        return float((own - cross[kept].sum(1).mean()) / signal + 1)

    spread = float(np.sqrt(np.mean(drawn["value_variance"])))
    return Variance(*jackknife(relative, n), *jackknife(bias, n), spread)
