"""The Lab: how checkpoints denoise, side by side, with words fixed, from any step, and to take away."""

from __future__ import annotations

from ui.components.lab import lab
from ui.services import Services


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    lab()
