"""Sentences at the fields they are about, for controls whose element id is a prefix and a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import gradio as gr

from ui.components.module import module


def field_errors(**settings: Any) -> gr.HTML:
    """An invisible component; give it `problems_at(...)` as its value."""
    return module("field_errors", **settings)


def problems_at(prefix: str, names: Iterable[str], problems: Mapping[str, str]) -> dict[str, Any]:
    """`names` are all fields that may show a sentence; those without a problem are cleared."""
    return {"prefix": prefix, "names": list(names), "problems": dict(problems)}
