"""Intervals, curves read at a point, and the sentences that numbers allow. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# 97.5 % quantiles of Student's t for 1, 2, ... degrees of freedom
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)


@dataclass(frozen=True)
class Interval:
    """A mean, half the width of its 95 % interval (None from a single value), and how many values it is made of."""

    mean: float
    half: float | None
    count: int

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)

    @property
    def sign(self) -> int:
        """1 or -1 when the interval lies on one side of 0, else 0."""
        if self.half is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    def text(self, digits: int = 2, plus: bool = False) -> str:
        mean = f"{self.mean:{'+' if plus else ''}.{digits}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{digits}f}"


def t_quantile(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else 1.96 + 2.5 / freedom


def t_interval(values: Sequence[float]) -> Interval:
    """Student's 95 % interval of the mean of independent values, such as one per seed."""
    n, mean = len(values), float(np.mean(values))
    half = t_quantile(n - 1) * float(np.std(values, ddof=1)) / n**0.5 if n > 1 else None
    return Interval(mean, half, n)


def jackknife(estimate: Callable[[np.ndarray], float], count: int) -> tuple[float, float]:
    """(estimate from all, its standard error) of a statistic of `count` draws, given as a function of kept indices."""
    every = np.arange(count)
    left_out = np.array([estimate(np.delete(every, i)) for i in every])
    error = ((count - 1) / count * np.square(left_out - left_out.mean()).sum()) ** 0.5
    return estimate(every), float(error)


@dataclass(frozen=True)
class Curve:
    """One run's held-out reward at its evaluations."""

    step: np.ndarray
    tokens: np.ndarray
    greedy: np.ndarray
    sampled: np.ndarray

    @classmethod
    def of(cls, points: Sequence[dict[str, float]]) -> Curve:
        return cls(*(np.array([point[name] for point in points], float)
                     for name in ("step", "tokens", "greedy", "sampled")))

    def at(self, marks: Sequence[float], against: str = "step", reward: str = "greedy") -> np.ndarray:
        """Rewards at marks, on straight lines between evaluations."""
        return np.interp(marks, getattr(self, against), getattr(self, reward))

    def mean_to(self, end: float, against: str = "step", reward: str = "greedy") -> float:
        """The reward averaged over the way from the warm start to `end`: high when it is learnt early."""
        marks = np.linspace(0, end, 101)
        return float(np.trapezoid(self.at(marks, against, reward), marks) / end)


def paired(left: dict[int, float], right: dict[int, float]) -> Interval | None:
    """left - right over the seeds that both have: warm start, problems and rollout noise are then the same."""
    seeds = sorted(set(left) & set(right))
    return t_interval([left[seed] - right[seed] for seed in seeds]) if seeds else None


def verdict(difference: Interval | None, better: str, worse: str, open_: str) -> str:
    """The sentence for a difference: one of three, chosen by the side of 0 on which its interval lies."""
    if difference is None:
        return open_
    return {1: better, -1: worse, 0: open_}[difference.sign]
