"""The memory that a run is expected to need, in words and parts for a page. Torch-free."""

from __future__ import annotations

from typing import Any

from bgpo.config import TrainConfig
from bgpo.training.hardware import room_for
from bgpo.training.memory_estimate import Estimate, estimate
from ui.system_page import size_words

PROCESS = 0.6e9  # what Python and torch take beside the tensors of a run on the CPU, in bytes


def estimate_card(config: TrainConfig) -> dict[str, Any]:
    """The estimate beside what is free: parts in bytes and words, and a warning where it does not fit."""
    room = room_for(config)
    found = estimate(config, room)
    if found is None:
        words = "The memory cannot be estimated before the model's config.json is on this machine."
        return {"words": words, "parts": []}
    free = f"{size_words(room.free)} of {size_words(room.total)} are free" + (
        f" on the {room.name}" if room.kind == "cuda" else " on this machine"
    )
    return {
        "words": f"About {size_words(found.total)} at the highest point of a step; {free}.",
        "parts": [[part.name, part.label, part.size, size_words(part.size)] for part in found.parts],
        "total": found.total, "free": room.free,
        "detail": f"{found.tokens:,} tokens in a pass; {size_words(found.saved)} held for its backward pass; "
        f"{size_words(found.logits)} of logits at one time.",
        "warning": warning(found, room.free),
    }


def warning(found: Estimate, free: float) -> str:
    """A sentence where the estimate is more than what is free, with the knob that helps most."""
    if found.total <= free:
        return ""
    advice = f"{found.advice[:1].upper()}{found.advice[1:]}."
    return f"This does not fit: about {size_words(found.total)} into {size_words(free)}. {advice}"


def beside_measured(config: TrainConfig, tokens: int, peak_mb: float | None, used_mb: float | None) -> dict[str, Any]:
    """The estimate for the pass that the run has taken, beside what was measured: (what, estimated, measured)."""
    room = room_for(config)
    found = estimate(config, room, tokens)
    if found is None:
        return {"rows": []}
    rows = [["Held for backward", size_words(found.saved), size_words(peak_mb * 2**20) if peak_mb else "not yet"]]
    whole = found.total if room.kind == "cuda" else found.total + PROCESS
    name = "GPU peak" if room.kind == "cuda" else "Process, with its libraries"
    rows.append([name, size_words(whole), size_words(used_mb * 2**20) if used_mb else "not yet"])
    return {"rows": rows, "tokens": found.tokens}
