"""What bound, objective and gap of the selected runs mean, in words; the charts below come from `chart_board`."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def bound_monitor() -> gr.HTML:
    return module("bound_monitor", elem_id="bgpo-bound-monitor")
