"""How long runs take, judged by finished ones of the same kind: a range, or nothing where nothing is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bgpo.config import TrainConfig
from storage.runs import Run
from ui import run_words

_KIND = ("job", "task", "model", "model_path")
# what the time of one step depends on most
_WORK = ("prompts_per_step", "group_size", "mc_samples", "completion_length", "denoising_steps", "device")
_NEWEST = 5  # finished runs that are looked at


@dataclass(frozen=True)
class Span:
    """Seconds, from the least to the most. `runs`: how many it is judged by. `same`: whether their steps did as much
    work as this run's will."""

    low: float
    high: float
    runs: int = 1
    same: bool = True

    def __add__(self, other: Span) -> Span:
        return Span(self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> Span:
        return Span(self.low * factor, self.high * factor, self.runs, self.same)


def expected(config: TrainConfig, runs: Sequence[Run]) -> Span | None:
    """How long a run of `config` takes by the newest finished runs of its kind; None without one."""
    kin = [(run, other) for run, other in _finished(runs) if _alike(config, other, _KIND)]
    same = [(run, other) for run, other in kin if _alike(config, other, _WORK)]
    judged = (same or kin)[:_NEWEST]
    if not judged:
        return None
    seconds = [run.seconds / run.train_steps * config.train_steps for run, _ in judged]
    return Span(min(seconds), max(seconds), len(judged), bool(same))


def remaining(run: Run, runs: Sequence[Run]) -> Span | None:
    """How long a run that has begun or waits still takes; None where nothing tells."""
    if run.status == "running" and run.phase == "training" and run.phase_rate:
        left = run_words.eta_seconds(run) or 0.0
        return Span(left, left)
    if run.status == "running" and run.step and run.seconds:
        left = run.seconds / run.step * max(0, run.train_steps - run.step)
        return Span(left, left)
    config = run_words.config_of(run)
    whole = expected(config, runs) if config else None
    if whole is None:
        return None
    return Span(max(0.0, whole.low - run.seconds), max(0.0, whole.high - run.seconds), whole.runs, whole.same)


def span_words(span: Span) -> str:
    """"about 1 h 40", or "20 to 40 min" where the two ends differ by more than a quarter."""
    low, high = duration(span.low), duration(span.high)
    if low == high or span.high <= 1.25 * span.low:
        return f"about {duration((span.low + span.high) / 2)}"
    (number, _, unit), (_, _, other) = low.partition(" "), high.partition(" ")
    return f"{number} to {high}" if unit == other else f"{low} to {high}"


def judged_words(span: Span) -> str:
    """What the time was judged by."""
    by = "one finished run" if span.runs == 1 else f"{span.runs} finished runs"
    return f"judging by {by} of this kind" + ("" if span.same else ", whose steps were of another size")


def duration(seconds: float) -> str:
    """Seconds as one would say them: 45 s, 12 min, 1 h 40."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(round(minutes, -1) if minutes < 600 else 60 * round(minutes / 60), 60)
    return f"{hours} h {minutes}" if minutes else f"{hours} h"


def _finished(runs: Sequence[Run]) -> list[tuple[Run, TrainConfig]]:
    """Finished runs that took time, newest first, with their configs."""
    done = sorted((run for run in runs if run.status == "finished" and run.seconds and run.train_steps),
                  key=lambda run: -run.id)
    return [(run, config) for run in done if (config := run_words.config_of(run))]


def _alike(left: TrainConfig, right: TrainConfig, knobs: Sequence[str]) -> bool:
    return all(getattr(left, name) == getattr(right, name) for name in knobs)
