"""Parallel coordinates and one knob against the outcome, over the selected runs or all of a task."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def sweep_plots() -> gr.HTML:
    return module("sweep_plots", elem_id="bgpo-sweep-plots")
