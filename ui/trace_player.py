"""A trace as one HTML file that plays it without a network: the page's own stage, with everything it needs inside."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

from ui.theme import DARK, LIGHT, MONO, SANS

_FOLDER = Path(__file__).parent / "components"
_MODULES = ("dom", "denoise_trace", "denoise_strip", "conversation", "stage_link", "denoise_stage")
_IMPORT = re.compile(r'"\./(\w+)\.js"')
MOST_POSITIONS, MOST_STEPS = 4096, 4096


class BadTrace(ValueError):
    """Events that are no trace, in a sentence."""


def check_events(events: Any) -> list[dict[str, Any]]:
    """The events of one completion, as the sampler's pages make them. Raises BadTrace."""
    if not isinstance(events, list) or not events or not all(isinstance(event, dict) for event in events):
        raise BadTrace("That is no trace: it holds no list of events. Give a file that the Lab has exported.")
    start = events[0]
    length, steps = start.get("length"), [event for event in events if event.get("kind") == "step"]
    if start.get("kind") != "start" or type(length) is not int or not 0 < length <= MOST_POSITIONS:
        raise BadTrace(f"The trace must begin with a start that has a length from 1 to {MOST_POSITIONS}.")
    if len(steps) > MOST_STEPS:
        raise BadTrace(f"The trace has {len(steps)} steps; at most {MOST_STEPS} can be played.")
    for number, event in enumerate(steps, 1):
        if event.get("step") != number or not _all_placed(event.get("commits"), length):
            raise BadTrace(f"Step {number} is damaged: its commits must be [position, token, probability].")
        if not _all_placed(event.get("filled", []), length):
            raise BadTrace(f"Step {number} is damaged: what was filled up must be [position, token, token id].")
    if not _all_placed(start.get("locked", []), length):
        raise BadTrace("What stood from the start must be [position, token, token id].")
    ends = start.get("ends", [])
    if not isinstance(ends, list) or not all(isinstance(token, str) for token in ends):
        raise BadTrace("The trace's end tokens must be a list of texts.")
    return events


def _all_placed(items: Any, length: int) -> bool:
    return isinstance(items, list) and all(_placed(item, length) for item in items)


def _placed(item: Any, length: int) -> bool:
    return (
        isinstance(item, list) and len(item) >= 2 and type(item[0]) is int and 0 <= item[0] < length
        and isinstance(item[1], str) and (len(item) < 3 or item[2] is None or isinstance(item[2], int | float))
    )


def player(events: list[dict[str, Any]]) -> str:
    """The file. Model text is in it as JSON that no HTML parser can read as a tag, and reaches the page as text."""
    data = json.dumps(events, ensure_ascii=True).replace("<", "\\u003c")
    modules = {name: "data:text/javascript;base64," + base64.b64encode(_source(name).encode()).decode()
               for name in _MODULES}
    css = (_FOLDER / "denoise_stage.css").read_text()
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>A denoising</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'">
<style>:root{{{_tokens(LIGHT)}--bgpo-radius:8px;--bgpo-mono:{MONO};--bgpo-sans:{SANS};}}
@media (prefers-color-scheme: dark){{:root{{{_tokens(DARK)}}}}}
body{{margin:0;padding:24px;background:var(--bgpo-bg);color:var(--bgpo-text)}} main{{max-width:1100px;margin:0 auto;
background:var(--bgpo-surface);border:1px solid var(--bgpo-line);border-radius:8px;padding:18px}}
.bgpo-chip{{display:inline-flex;font:600 12px/1.2 var(--bgpo-sans);padding:4px 7px;border-radius:5px;
background:var(--bgpo-surface-2)}} .bgpo-chip.good{{background:var(--bgpo-good-soft);color:var(--bgpo-good)}}
.bgpo-chip.bad{{background:var(--bgpo-bad-soft);color:var(--bgpo-bad)}}
.bgpo-sr{{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}}
{css}</style>
<script type="importmap">{json.dumps({"imports": modules})}</script></head>
<body><main id="stage"></main><script type="application/json" id="trace">{data}</script>
<script type="module">
import {{ Stage }} from "denoise_stage";
const stage = new Stage(document.getElementById("stage"));
stage.load(JSON.parse(document.getElementById("trace").textContent), {{ play: true }});
</script></body></html>
"""


def _source(name: str) -> str:
    """A module that finds the others by name, and asks for no style sheet: the file holds it already."""
    text = _IMPORT.sub(r'"\1"', (_FOLDER / f"{name}.js").read_text())
    return text.replace("export function styles(name) {", "export function styles() { return;")


def _tokens(colours: dict[str, str]) -> str:
    return "".join(f"--bgpo-{name}:{value};" for name, value in colours.items())
