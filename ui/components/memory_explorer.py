"""Memory against the number of mask draws, computed and measured on demand; figures from `ui/memory_view.py`."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def memory_explorer() -> gr.HTML:
    return module("memory_explorer", elem_id="bgpo-memory-explorer")
