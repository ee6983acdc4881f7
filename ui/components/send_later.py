"""Enter while an answer is under way: what was written is sent once its stream has ended."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def send_later(**settings: str) -> gr.HTML:
    """`settings`: element ids, `body` of all that an answer reads, `prompt` of the text, `button` of what sends it."""
    return module("send_later", **settings)
