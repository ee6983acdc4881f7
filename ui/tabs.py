"""What happens when one of the areas is opened: by a press on its tab, or by an address, which presses it too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from gradio.context import get_render_context

# For every event that answers once: a request of its own. Over Gradio's queue all share a stream that ends when none is
# left, and an event that comes while it ends is never answered.
PLAIN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "queue": False}

# the address goes first into the callback; what else it reads follows
_WITH_ADDRESS = "(...values) => [location.search, ...values.slice(1)]"


def on_open(callback: Callable[..., Any], outputs: Sequence[Any], inputs: Sequence[Any] = ()) -> Any:
    """Calls `callback(search, *inputs)` whenever the tab around the current context is opened.

    `search` is the address's query, such as "?tab=chat&checkpoint=3". Returns the event, to go on from.
    """
    search = gr.Textbox("", visible=False)
    return _tab().select(callback, [search, *inputs], list(outputs), js=_WITH_ADDRESS, **PLAIN)


def _tab() -> gr.Tab:
    block = get_render_context()
    while block is not None and not isinstance(block, gr.Tab):
        block = block.parent
    if block is None:
        raise RuntimeError("A page must be built inside a gr.Tab.")
    return block
