"""Every step's groups: one problem with its completions side by side, filters, search, one prompt through training."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def rollouts() -> gr.HTML:
    return module("rollouts", elem_id="bgpo-rollouts")
