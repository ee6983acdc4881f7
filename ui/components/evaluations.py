"""Evaluated checkpoints by tasks and completion lengths, with their intervals."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def evaluations() -> gr.HTML:
    return module("evaluations", elem_id="bgpo-evaluations")
