"""What is shown of the selected runs: a header with the buttons, and one tab for each way of looking at them."""

from __future__ import annotations

import gradio as gr

from ui.components.bound_monitor import bound_monitor
from ui.components.chart_board import SECTIONS, board_tools, chart_board
from ui.components.checkpoint_list import checkpoint_list
from ui.components.evaluations import evaluations
from ui.components.held_out import held_out
from ui.components.log_tail import log_tail
from ui.components.memory_explorer import memory_explorer
from ui.components.rollouts import rollouts
from ui.components.run_config import run_config
from ui.components.run_header import run_header
from ui.components.sweep_plots import sweep_plots
from ui.services import Services


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    run_header()
    with gr.Tabs(elem_id="bgpo-run-tabs", overflow_behavior="wrap"):
        with gr.Tab("Curves", id="curves", elem_id="run-curves"):
            board_tools()
            chart_board(("reward",), leads=True)
            held_out()
            chart_board(tuple(name for name in SECTIONS if name not in ("reward", "monitor")))
        with gr.Tab("Rollouts", id="rollouts", elem_id="run-rollouts"):
            rollouts()
        with gr.Tab("Compare", id="compare", elem_id="run-compare"):
            sweep_plots()
        with gr.Tab("Bound", id="bound", elem_id="run-bound"):
            bound_monitor()
            board_tools("bgpo-bound-tools")
            chart_board(("monitor",))
        with gr.Tab("Memory", id="memory", elem_id="run-memory"):
            memory_explorer()
        with gr.Tab("Config", id="config", elem_id="run-config"):
            run_config()
        with gr.Tab("Log", id="log", elem_id="run-log"):
            log_tail()
        with gr.Tab("Checkpoints", id="checkpoints", elem_id="run-checkpoints"):
            checkpoint_list()
        with gr.Tab("Evaluations", id="evaluations", elem_id="run-evaluations"):
            evaluations()
