"""The denoising stage as a Gradio component: what people watch are the sampler's own events, as they are made.

Events are dicts as `bgpo.jobs.chat` yields them: "start", "step" (commits and ghosts), "end"; the page adds "loading",
"stopped" and "error", and "clear", which empties the conversation above the stage. The browser pushes each event once
and paces the show itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui.components.module import module


def denoise_stage(empty: str, **settings: Any) -> gr.HTML:
    """A stage whose value is made by `generation`; `empty` is the sentence it shows before the first one."""
    return module("denoise_stage", empty=empty, **settings)


def generation(
    key: str, events: Sequence[dict], label: str = "", settings: str = "", turn: int = 0, asked: str = ""
) -> dict[str, Any]:
    """A stage's value: all events so far of the generation named `key`, the answer to `asked` in a turn (0-based).

    All of them, not only the new ones: a browser may skip an update, and Gradio sends no more than the
    difference from the last one.
    """
    return {
        "generation": key, "label": label, "settings": settings, "events": list(events), "turn": turn, "asked": asked,
    }
