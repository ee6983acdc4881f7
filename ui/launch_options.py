"""What is chosen beside the knobs: when a run may start, and whether it is a sweep of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from bgpo.config import KNOBS, TrainConfig
from bgpo.jobs import sweeps
from bgpo.jobs.queueing import PRIORITIES
from bgpo.jobs.times import parse_time
from storage.runs import Run
from ui import run_times, run_words
from ui.tabs import PLAIN


class OptionError(ValueError):
    """A choice that cannot be, in a sentence."""


@dataclass(frozen=True)
class Choice:
    """What the controls say: the row's place in the queue, and the lines of a sweep, empty for one run."""

    place: dict[str, Any]
    lines: str
    samples: int


def build() -> dict[str, Component]:
    """The controls inside the current Blocks context, folded."""
    with gr.Accordion("When it starts", open=False, elem_id="new-run-when"):
        priority = gr.Dropdown(
            [("High", "high"), ("Normal", "normal"), ("Low", "low")], value="normal", label="Priority",
            filterable=False, info="Runs of a higher priority go first.",
        )
        at = gr.Textbox(label="Not before", placeholder="22:30, tomorrow 7:00, in 90 min", max_lines=1,
                        info="The clock of the machine that this app runs on. Empty: when it is its turn.")
        after = gr.Textbox(label="After run", placeholder="12", max_lines=1,
                           info="Waits until that run has ended, however it ends.")
    with gr.Accordion("Sweep: many runs at once", open=False, elem_id="new-run-sweep"):
        knob = gr.Dropdown([("Choose a knob", "")] + [(name, name) for name in KNOBS], value="", label="Add a knob",
                           elem_id="sweep-knob")
        lines = gr.Textbox(
            label="Knobs and their values", lines=3, max_lines=10, elem_id="sweep-lines",
            placeholder="mc_samples = 1, 4, 16\nseed = 0..2\nlearning_rate = 1e-5..1e-3 log",
            info="One knob a line. Values, whole numbers from..to, or a range to draw from.",
        )
        samples = gr.Number(0, label="Samples", precision=0,
                            info=f"0: every combination. Else so many drawn at random, at most {sweeps.MOST_RUNS}.")
    knob.input(add_line, [knob, lines], [knob, lines], **PLAIN)
    return {"priority": priority, "at": at, "after": after, "lines": lines, "samples": samples}


def add_line(name: str, lines: str) -> tuple[str, str]:
    """A line for the chosen knob, with its default to go on from."""
    if name not in KNOBS:
        return "", lines
    default = run_words.value_words(KNOBS[name].default)
    written = "\n".join(filter(None, [*(lines or "").splitlines(), f"{name} = {default}, "]))
    return "", written


def read(given: Mapping[str, Any], now: float) -> Choice:
    """Raises OptionError."""
    after = str(given["after"] or "").strip()
    if after and not (after.isdecimal() and len(after) < 10):
        raise OptionError(f"After run: {after[:20]!r} is not a run's number; give one, such as 12.")
    try:
        start = parse_time(given["at"] or "", now)
    except ValueError as error:
        raise OptionError(f"Not before: {error}") from None
    place: dict[str, Any] = {"priority": PRIORITIES.get(given["priority"], 0), "start_at": start}
    if after:
        place["after_id"] = int(after)
    return Choice(place, (given["lines"] or "").strip(), int(given["samples"] or 0))


def preview(config: TrainConfig, choice: Choice, runs: Sequence[Run], slots: int) -> list[str]:
    """What the choice means for the launch, in sentences. Raises SweepError."""
    words = []
    count = 1
    if choice.lines:
        planned = sweeps.plan(config, choice.lines, choice.samples)
        count = len(planned.configs)
        first = ", ".join(f"{name} {run_words.value_words(value)}" for name, value in planned.changes[0].items())
        words.append(f"A sweep of {count} runs, the first with {first}.")
    each = run_times.expected(config, runs)
    if each is not None:
        whole = run_times.span_words(each.times(count / min(slots, count)))
        lasts = f"{whole} in all, {run_times.span_words(each)} each" if count > 1 else whole
        words.append(f"Takes {lasts}, {run_times.judged_words(each)}.")
    elif choice.lines:
        words.append("How long it takes cannot be said before one such run has finished.")
    return words
