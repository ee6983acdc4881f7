"""Status, progress and buttons of the selected run; what differs, when several are selected."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def run_header() -> gr.HTML:
    return module("run_header", elem_id="bgpo-run-header")
