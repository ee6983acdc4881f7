"""A few held-out problems at every evaluation: the careless answer turning into the right one."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def held_out() -> gr.HTML:
    return module("held_out", elem_id="bgpo-held-out")
