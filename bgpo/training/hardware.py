"""What the machine offers, asked without torch, so that a form can say so before a run is started."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import psutil

from bgpo.config import TrainConfig


@dataclass(frozen=True)
class Card:
    """One graphics card; bytes."""

    index: int
    name: str
    free: int
    total: int


def cards() -> list[Card]:
    """The NVIDIA cards there are, by the driver's own library; none where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return [_card(pynvml, index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:  # a card that falls off the bus in the middle
        return []
    finally:
        pynvml.nvmlShutdown()


@dataclass(frozen=True)
class Room:
    """Where a run would compute, and how many bytes are free there."""

    name: str
    kind: str
    free: int
    total: int


def room_for(config: TrainConfig) -> Room:
    """The card with the most free memory, unless `config` asks for the CPU or there is none."""
    found = cards() if config.device != "cpu" else []
    if found:
        card = max(found, key=lambda card: card.free)
        return Room(card.name, "cuda", card.free, card.total)
    memory = psutil.virtual_memory()
    return Room("this machine's memory", "cpu", memory.available, memory.total)


def bitsandbytes_problem() -> str:
    """Why the library is of no use here, as the end of a sentence; empty when it is."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return "needs the library bitsandbytes, which is not installed (pip install bitsandbytes)"
    return ""


def hardware_problems(config: TrainConfig) -> dict[str, str]:
    """Knobs that ask for what this machine lacks, each with a sentence."""
    problems: dict[str, str] = {}
    wanted = {"quantization": "none", "optimizer": "adamw"}
    asked = {name: usual for name, usual in wanted.items() if getattr(config, name) != usual}
    if not asked:
        return {}
    why = bitsandbytes_problem() or ("" if cards() else "needs an NVIDIA GPU, and this machine shows none")
    for name, usual in asked.items():
        if why:
            problems[name] = f"{name} = {getattr(config, name)} {why}; set {name} to {usual}."
    return problems


def _card(pynvml, index: int) -> Card:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Card(index, name if isinstance(name, str) else name.decode(), memory.free, memory.total)
