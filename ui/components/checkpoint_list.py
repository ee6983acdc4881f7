"""The selected run's checkpoints, each a click away from talking to it."""

from __future__ import annotations

import gradio as gr

from ui.components.module import module


def checkpoint_list() -> gr.HTML:
    return module("checkpoint_list", elem_id="bgpo-checkpoint-list")
