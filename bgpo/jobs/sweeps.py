"""Sweeps: one config, some knobs with several values each, and the runs that come of it.

    mc_samples = 1, 4, 16              each of these
    seed = 0..4                        whole numbers, both ends included
    learning_rate = 1e-5..1e-3 log     a range to draw from, evenly in its logarithm with `log`

Without a number of samples every combination is a run; with one, so many combinations are drawn at random.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any

from bgpo.config import KNOBS, ConfigError, Knob, TrainConfig
from bgpo.jobs.control import NAME_LIMIT, ControlError, delete, one_line_name, submit
from bgpo.jobs.ends import one_line
from storage.database import Database, StorageError
from storage.runs import Run, get_run, transition
from storage.sweeps import create_sweep

MOST_RUNS = 200
_LONGEST = 4000  # characters
_RANGE = re.compile(r"(\S+)\s*\.\.\s*(\S+?)(\s+log)?")


class SweepError(ValueError):
    """A sweep that cannot be launched, in a sentence."""


@dataclass(frozen=True)
class Axis:
    """One knob and what it takes: `values`, or anything from `low` to `high`."""

    knob: Knob
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    def draw(self, generator: random.Random) -> Any:
        if self.values:
            return generator.choice(self.values)
        if self.log:
            return math.exp(generator.uniform(math.log(self.low), math.log(self.high)))
        return generator.uniform(self.low, self.high)


@dataclass(frozen=True)
class Plan:
    """The runs of a sweep: for each its config and the values in which it differs from the others."""

    configs: tuple[TrainConfig, ...]
    changes: tuple[dict[str, Any], ...]


def plan(base: TrainConfig, text: str, samples: int = 0) -> Plan:
    """What the lines of a sweep make of a config. Raises SweepError; nothing is queued then."""
    axes = parse(text)
    changes = _drawn(base, axes, samples) if samples else _grid(axes)
    configs, problems = [], []
    for change in changes:
        try:
            configs.append(base.with_values(**change))
        except ConfigError as error:
            problems.append(f"{_words(change)}: {one_line(error)}")
    if problems:
        more = f" (and {len(problems) - 1} more like it)" if len(problems) > 1 else ""
        raise SweepError(f"Not every combination can run{more}. {problems[0]}")
    return Plan(tuple(configs), tuple(changes))


def parse(text: str) -> list[Axis]:
    """The axes of a sweep, one line each. Raises SweepError."""
    if len(text) > _LONGEST:
        raise SweepError(f"The sweep has {len(text)} characters; use at most {_LONGEST}.")
    axes: list[Axis] = []
    for line in filter(None, (line.strip() for line in text.splitlines())):
        name, sign, values = line.partition("=")
        knob = KNOBS.get(name.strip())
        if not sign or knob is None:
            raise SweepError(f"{line[:60]!r} names no knob; write knob = value, value, one knob a line.")
        if any(axis.knob is knob for axis in axes):
            raise SweepError(f"{knob.name} is there twice; give all its values in one line.")
        axes.append(_axis(knob, values.strip()))
    if not axes:
        raise SweepError("The sweep names no knob; write one a line, such as mc_samples = 1, 4, 16.")
    return axes


def launch(
    db: Database, base: TrainConfig, text: str, samples: int, runs_folder: Path, name: str = "", **place: Any
) -> list[Run]:
    """Queues every run of a sweep, or none. Raises SweepError, ConfigError, and ControlError as `submit` does."""
    planned = plan(base, text, samples)
    knobs = ", ".join(axis.knob.name for axis in parse(text))
    name = one_line_name(name or f"{base.task} over {knobs}"[:NAME_LIMIT])
    group = create_sweep(db, name, json.dumps({"lines": text, "samples": samples, "runs": len(planned.configs)}))
    names = [one_line_name(f"{name}: {_words(change)}"[:NAME_LIMIT]) for change in planned.changes]
    runs: list[Run] = []
    try:
        for config, words in zip(planned.configs, names):
            # paused: no app begins with the first before it is sure that there is a last
            runs.append(submit(db, config, runs_folder, words, sweep_id=group.id, status="paused", **place))
        for run in runs:
            transition(db, run.id, ("paused",), "queued", who="user", start_at=run.start_at)
    except BaseException:  # Ctrl-C as well
        _take_back(db, runs)
        raise
    return [get_run(db, run.id) for run in runs]


def _take_back(db: Database, runs: Sequence[Run]) -> None:
    """Deletes what was made of a sweep, as far as that can be done now; the rest is paused or says that it works."""
    for run in reversed(runs):
        with contextlib.suppress(ControlError, StorageError):
            delete(db, run.id)


def _axis(knob: Knob, text: str) -> Axis:
    match = _RANGE.fullmatch(text)
    if match is None or knob.kind not in (int, float):
        values = tuple(_value(knob, part.strip()) for part in text.split(",") if part.strip())
        if not values:
            raise SweepError(f"{knob.name} has no value; write {knob.name} = value, value.")
        return Axis(knob, tuple(dict.fromkeys(values)))
    low, high = _value(knob, match[1]), _value(knob, match[2])
    if low > high or (match[3] and low <= 0):
        raise SweepError(f"{knob.name} = {text[:40]} is no range; give the lower end first, above 0 with log.")
    if not knob.low <= low <= high <= knob.high:  # so for nan, and for a number with hundreds of digits
        raise SweepError(f"{knob.name} = {text[:40]} goes beyond what is allowed; give {knob.allowed}.")
    if knob.kind is int and not match[3]:
        if high - low >= 10 * MOST_RUNS:
            raise SweepError(f"{knob.name} = {text[:40]} has {high - low + 1} values; name fewer.")
        return Axis(knob, tuple(range(low, high + 1)))
    return Axis(knob, (), float(low), float(high), bool(match[3]))


def _value(knob: Knob, text: str) -> Any:
    """A value as the config would read it. Raises SweepError."""
    try:
        return getattr(TrainConfig.model_validate({knob.name: text}), knob.name)
    except ValueError:
        pass  # alone it may contradict the defaults; the whole config is checked later
    if knob.kind is bool:
        raise SweepError(f"{knob.name} = {text[:40]} is not allowed; give {knob.allowed}.")
    try:
        return knob.kind(text)
    except ValueError:
        raise SweepError(f"{knob.name} = {text[:40]} is not allowed; give {knob.allowed}.") from None


def _grid(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    ranges = [axis.knob.name for axis in axes if not axis.values]
    if ranges:
        raise SweepError(f"{ranges[0]} is a range, of which a grid would be endless; name its values, or give samples.")
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_RUNS:
        raise SweepError(f"These are {count:,} combinations; at most {MOST_RUNS} are launched at once. Give samples.")
    names = [axis.knob.name for axis in axes]
    return [dict(zip(names, values)) for values in product(*(axis.values for axis in axes))]


def _drawn(base: TrainConfig, axes: Sequence[Axis], samples: int) -> list[dict[str, Any]]:
    """Distinct combinations, the same for the same seed."""
    if not 1 <= samples <= MOST_RUNS:
        raise SweepError(f"samples = {samples} is not possible; give a whole number from 1 to {MOST_RUNS}.")
    generator = random.Random(base.seed)

    def endless():
        while True:
            yield {axis.knob.name: _rounded(axis, axis.draw(generator)) for axis in axes}

    found: dict[str, dict[str, Any]] = {}
    for change in islice(endless(), 50 * samples):  # a small grid may not have so many different ones
        found.setdefault(json.dumps(change), change)
        if len(found) == samples:
            break
    return list(found.values())


def _rounded(axis: Axis, value: Any) -> Any:
    if axis.values:
        return value
    return round(value) if axis.knob.kind is int else float(f"{value:.3g}")


def _words(change: dict[str, Any]) -> str:
    shown = {name: f"{value:g}" if isinstance(value, float) else str(value) for name, value in change.items()}
    return ", ".join(f"{name} {value}" for name, value in shown.items())
