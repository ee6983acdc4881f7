"""The frame of the pages, as far as it reaches into Gradio."""

from __future__ import annotations

import asyncio

import gradio as gr
import pytest
from fastapi import FastAPI

from ui import pages


def test_gradios_queue_waits_as_long_as_the_pages_ask(monkeypatch):
    """The pages set a private attribute: a Gradio that has dropped it would look a thousand times a second again."""
    with gr.Blocks() as blocks:
        gr.Button()
    pages.look_seldom(blocks)
    gr.mount_gradio_app(FastAPI(), blocks, path="/", ssr_mode=False)
    queue, waits = blocks._queue, []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        queue.stopped = len(waits) == 3

    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(StopIteration):  # nothing in it waits any more, so it goes through without a loop of its own
        queue.start_processing().send(None)
    assert waits == [pages.QUEUE_LOOKS_EVERY] * 3
