"""A gr.HTML that hands its element to one of our JavaScript modules and stays out of the way.

The template is constant: what a model, a file or a user wrote reaches the page through `textContent` in the
module, never through a template, because Gradio evaluates templates as code.
"""

from __future__ import annotations

import re
from typing import Any

import gradio as gr

from ui.assets import address

_NAME = re.compile(r"[a-z_]+")


def module(name: str, value: Any = None, **settings: Any) -> gr.HTML:
    """Mounts `<name>.js`, which exports `mount(element, props, watch, trigger)`.

    `settings` are gr.HTML's own arguments (`elem_id`, ...) and any further props for the module.

    Raises:
        ValueError: when `name` is not made of lower-case letters and underscores.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"A module's name is made of lower-case letters and underscores; got {name!r}.")
    return gr.HTML(
        value=value,
        html_template=f"<div class='bgpo-module bgpo-{name.replace('_', '-')}'></div>",
        js_on_load=(
            # the whole address: code made from a string may keep the base of another page of this browser
            f"import(location.origin + '{address(name + '.js')}').then("
            "m => m.mount(element.querySelector('.bgpo-module'), props, watch, trigger))"
        ),
        apply_default_css=False,
        **settings,
    )
