"""The queue: what waits, in which order, and why; hidden while nothing waits."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def queue_card() -> gr.HTML:
    return module("queue_card", elem_id="bgpo-queue")
