"""Model families by name. Torch-free: the form lists them, the worker loads them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelFamily:
    """What the rest needs to know of a family before any weight is loaded."""

    name: str
    title: str
    max_completion_length: int


MODELS: dict[str, ModelFamily] = {
    "tiny": ModelFamily("tiny", "Built-in, 343 k parameters, CPU", max_completion_length=256),
}
