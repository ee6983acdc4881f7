"""The end of the selected run's log, following it."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def log_tail() -> gr.HTML:
    return module("log_tail", elem_id="bgpo-log-tail")
