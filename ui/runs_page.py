"""The home page: presets to start from and the runs on the left, the selected ones on the right.

Selecting several runs is comparing them; which ones are selected, and the axis, are in the page's address.
"""

from __future__ import annotations

import gradio as gr

from ui import run_page
from ui.components.launcher import launcher
from ui.components.queue_card import queue_card
from ui.components.run_list import run_list
from ui.services import Services


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    with gr.Row(elem_id="bgpo-home"):
        with gr.Column(elem_id="bgpo-side", scale=0, min_width=0):
            launcher()
            queue_card()
            run_list()
        with gr.Column(elem_id="bgpo-board", min_width=0):
            run_page.build(services)
