"""The first sentence, and the presets: one click chooses, the second starts."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def launcher() -> gr.HTML:
    return module("launcher", elem_id="bgpo-launcher")
