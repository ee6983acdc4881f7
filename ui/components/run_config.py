"""Every knob of the selected run, the exact command, and what happened to the run."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def run_config() -> gr.HTML:
    return module("run_config", elem_id="bgpo-run-config")
