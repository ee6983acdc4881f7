"""The runs, newest first, with what one wants to know of each at a glance; drawn from the live store."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def run_list() -> gr.HTML:
    return module("run_list", elem_id="bgpo-run-list")
