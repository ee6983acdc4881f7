"""The frame: one Blocks with its areas. Each page builds its own part."""

from __future__ import annotations

import gradio as gr

from ui import chat_page, lab_page, new_run_page, runs_page, system_page
from ui.components.module import module
from ui.services import Services

QUEUE_LOOKS_EVERY = 0.02  # seconds; Gradio's own thousand looks a second take 5 % of a core while nothing happens


def build(services: Services) -> gr.Blocks:
    with gr.Blocks(title="BGPO Studio", analytics_enabled=False, fill_width=True) as blocks:
        module("header", elem_id="bgpo-header")
        with gr.Tabs(elem_id="bgpo-areas", overflow_behavior="wrap"):
            for name, label, page in (
                ("runs", "Runs", runs_page), ("new", "New run", new_run_page), ("chat", "Chat", chat_page),
                ("lab", "Lab", lab_page), ("system", "System", system_page),
            ):
                # the name is in the address (?tab=) and in the button's id, which `live.js` presses
                with gr.Tab(label, id=name, elem_id=f"area-{name}"):
                    page.build(services)
    look_seldom(blocks)
    return blocks


def look_seldom(blocks: gr.Blocks) -> None:
    """There is no public way; tests/ui/test_pages.py tells when Gradio has another one."""
    blocks._queue.sleep_when_free = QUEUE_LOOKS_EVERY
