"""Sampler settings of one answer, checked; and why an answer cannot be given. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgpo.config import EVAL_ORDERS, KNOBS
from bgpo.models.decoding import CACHES, SCHEDULES, SamplerSettings


@dataclass(frozen=True)
class Piece:
    """One token as a trace shows it, for traces that hold no ids."""

    text: str


Locks = Sequence[tuple[int, int | str | Piece]]  # what stands from the start: position and token id, text or piece


class ChatError(ValueError):
    """Why an answer cannot be given, in one sentence. `field` names the setting at fault, if one is."""

    def __init__(self, sentence: str, field: str = ""):
        self.field = field
        super().__init__(sentence)


@dataclass(frozen=True)
class ChatSettings:
    """Checked sampler settings of one answer; `temperature` 0 is greedy."""

    completion_length: int
    denoising_steps: int
    block_length: int
    temperature: float
    remasking: str
    seed: int
    schedule: str = KNOBS["schedule"].default
    cache: str = KNOBS["cache"].default
    confidence_threshold: float = KNOBS["confidence_threshold"].default
    cfg_scale: float = 0.0
    stop_at_eos: bool = KNOBS["stop_at_eos"].default

    @property
    def sampler(self) -> SamplerSettings:
        return SamplerSettings(
            self.completion_length, self.denoising_steps, self.block_length, self.temperature, self.remasking,
            self.schedule, self.confidence_threshold, cache=self.cache, cfg_scale=self.cfg_scale,
            stop_at_eos=self.stop_at_eos,
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ChatSettings:
        """Raises ChatError with the field and a sentence for the first value out of range.

        Args:
            values: schedule, cache, confidence_threshold, cfg_scale and stop_at_eos may be left out.
        """
        checked: dict[str, Any] = {
            name: _number(values, name, KNOBS[name].low, KNOBS[name].high, int)
            for name in ("completion_length", "denoising_steps", "block_length", "seed")
        }
        checked["temperature"] = _number(values, "temperature", 0, KNOBS["temperature"].high, float)
        for name in ("confidence_threshold", "cfg_scale"):
            if name in values:
                checked[name] = _number(values, name, KNOBS[name].low, KNOBS[name].high, float)
        for name, choices in (("remasking", EVAL_ORDERS), ("schedule", SCHEDULES), ("cache", CACHES)):
            checked[name] = values.get(name, KNOBS[name].default) if name != "remasking" else values.get(name)
            if checked[name] not in choices:
                raise ChatError(
                    f"{name} = {checked[name]!s:.40} is not known; choose one of {', '.join(choices)}.", name
                )
        checked["stop_at_eos"] = values.get("stop_at_eos", KNOBS["stop_at_eos"].default)
        if not isinstance(checked["stop_at_eos"], bool):
            raise ChatError(f"stop_at_eos = {checked['stop_at_eos']!s:.40} is not allowed; give true or false.",
                            "stop_at_eos")
        settings = cls(**checked)
        if problem := settings.sampler.problem():
            raise ChatError(problem[1], problem[0])
        return settings


def _number(values: Mapping[str, Any], name: str, low: float, high: float, kind: type) -> Any:
    given = values.get(name)
    try:
        number = kind(given)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != float(given) or not low <= number <= high:
        noun = "a whole number" if kind is int else "a number"
        shown = f"{noun} from {low:.0f} to {high:.0f}" if kind is int else f"{noun} from {low:g} to {high:g}"
        raise ChatError(f"{name} = {given!s:.40} is not allowed; give {shown}.", name)
    return number
