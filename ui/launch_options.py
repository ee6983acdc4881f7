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
from ui.config_form import FIELD
from ui.tabs import PLAIN

LABELS = {"at": "Not before", "after": "After run", "lines": "Knobs and their values", "samples": "Samples"}
_WHEN, _SWEEP = "When it starts", "Sweep: many runs at once"
FOLDS = {"at": _WHEN, "after": _WHEN, "lines": _SWEEP, "samples": _SWEEP}


class OptionError(ValueError):
    """A choice that cannot be, in a sentence; `field` is the control that it is made with."""

    def __init__(self, field: str, sentence: str):
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True)
class Choice:
    """What the controls say: the row's place in the queue, and the lines of a sweep, empty for one run."""

    place: dict[str, Any]
    lines: str
    samples: int


def build() -> dict[str, Component]:
    """The controls inside the current Blocks context, folded."""
    with gr.Accordion(_WHEN, open=False, elem_id="new-run-when"):
        priority = gr.Dropdown(
            [("High", "high"), ("Normal", "normal"), ("Low", "low")], value="normal", label="Priority",
            filterable=False, info="Runs of a higher priority go first.",
        )
        at = gr.Textbox(label=LABELS["at"], placeholder="22:30, tomorrow 7:00, in 90 min", max_lines=1,
                        elem_id=f"{FIELD}at",
                        info="The clock of the machine that this app runs on. Empty: when it is its turn.")
        after = gr.Textbox(label=LABELS["after"], placeholder="12", max_lines=1, elem_id=f"{FIELD}after",
                           info="Waits until that run has ended, however it ends.")
    with gr.Accordion(_SWEEP, open=False, elem_id="new-run-sweep"):
        knob = gr.Dropdown([("Choose a knob", "")] + [(name, name) for name in KNOBS], value="", label="Add a knob",
                           info="Writes its line below, to go on from.")
        lines = gr.Textbox(
            label=LABELS["lines"], lines=3, max_lines=10, elem_id=f"{FIELD}lines",
            placeholder="mc_samples = 1, 4, 16\nseed = 0..2\nlearning_rate = 1e-5..1e-3 log",
            info="One knob a line. Values, whole numbers from..to, or a range to draw from.",
        )
        samples = gr.Number(0, label=LABELS["samples"], precision=0, elem_id=f"{FIELD}samples",
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
        raise OptionError("after", f"{after[:20]!r} is not a run's number; give one, such as 12.")
    try:
        start = parse_time(given["at"] or "", now)
    except ValueError as error:
        raise OptionError("at", str(error)) from None
    samples = int(given["samples"] or 0)
    if not 0 <= samples <= sweeps.MOST_RUNS:
        raise OptionError("samples", f"{samples} is not allowed; give a whole number from 0 to {sweeps.MOST_RUNS}.")
    place: dict[str, Any] = {"priority": PRIORITIES.get(given["priority"], 0), "start_at": start}
    if after:
        place["after_id"] = int(after)
    return Choice(place, (given["lines"] or "").strip(), samples)


def preview(config: TrainConfig, choice: Choice, runs: Sequence[Run], slots: int) -> list[str]:
    """What the choice means for the launch, in sentences. Raises OptionError."""
    after = choice.place.get("after_id")
    if after is not None and all(run.id != after for run in runs):
        raise OptionError("after", f"Run {after} does not exist.")
    words = []
    count = 1
    if choice.lines:
        try:
            planned = sweeps.plan(config, choice.lines, choice.samples)
        except sweeps.SweepError as error:
            raise OptionError("lines", str(error)) from None
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
