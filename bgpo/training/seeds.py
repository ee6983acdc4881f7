"""Randomness by name: every draw of a run comes from (seed, purpose, step).

There is no generator state to carry along, so a resumed run draws what an uninterrupted one would have.
Nothing seeds a global generator.
"""

from __future__ import annotations

import hashlib
import random

import torch


def derived_seed(seed: int, purpose: str, step: int = 0) -> int:
    """A 63-bit seed that differs for each (seed, purpose, step)."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{purpose}/{step}".encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    return torch.Generator(device).manual_seed(derived_seed(seed, purpose, step))


def python_random(seed: int, purpose: str, step: int = 0) -> random.Random:
    return random.Random(derived_seed(seed, purpose, step))
