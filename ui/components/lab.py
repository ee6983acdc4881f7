"""The denoising lab as one component; `ui/lab_routes.py` answers it."""

from __future__ import annotations

import gradio as gr

from bgpo.config import EVAL_ORDERS
from ui.components.module import module


def lab() -> gr.HTML:
    return module("lab", elem_id="bgpo-lab", orders=list(EVAL_ORDERS))
