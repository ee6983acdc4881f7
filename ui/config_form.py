"""TrainConfig <-> controls. A control is made from each knob's declaration, so a new knob appears by itself.

Nothing here needs a browser. No control is given a minimum or maximum of its own where Gradio would enforce it
with a pop-up: `read` is the one judge, and its sentences go to the fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import GROUPS, KNOBS, ConfigError, Knob, TrainConfig
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.models.registry import MODELS
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS
from bgpo.training.examples import examples_problems
from bgpo.training.hardware import hardware_problems
from bgpo.training.plugins import file_problems

FIELD = "knob-"  # element id of a knob's control is FIELD + its name
_TITLES = {"task": TASKS, "model": MODELS, "objective": OBJECTIVES}
_GROUP_HELP = {
    "Task": "What is learned, by which model.",
    "Model": "Which weights it starts from, which are trained, and in how much memory.",
    "Objective": "What each update maximises, and how finely it is estimated.",
    "Rollouts": "How much is generated at each step, and how.",
    "Optimiser": "How long and how fast it learns.",
    "Evaluation": "How often held-out problems are tried.",
    "Warm start": "Supervised steps before the first rollout.",
    "Fine-tuning": "What supervised fine-tuning (job finetune) learns from.",
    "Machine": "Where it computes.",
}


class UnjudgedSlider(gr.Slider):
    """A slider that hands on what was typed into its box. Gradio's own answers an empty one with a server error."""

    is_template = True  # to the page it is a slider

    def preprocess(self, payload: Any) -> Any:
        return payload


# ---- controls ------------------------------------------------------------------------------------------------------


def build() -> dict[str, Component]:
    """Every knob's control inside the current Blocks context, by group, rare ones folded. Keys are knob names."""
    controls: dict[str, Component] = {}
    for group in GROUPS:
        with gr.Column(elem_classes="knob-group"):
            gr.Markdown(f"### {group}\n{_GROUP_HELP.get(group, '')}", elem_classes="knob-heading")
            for rare, knobs in _split(group):
                with gr.Accordion(fold_title(group), open=False) if rare else gr.Row(elem_classes="knob-grid"):
                    controls |= {knob.name: control(knob) for knob in knobs}
    return {name: controls[name] for name in KNOBS}


def control(knob: Knob) -> Component:
    """The control that fits a knob: Dropdown, Checkbox, Slider for a short range of decimals, else Number."""
    settings: dict[str, Any] = {
        "label": label(knob), "value": knob.default, "elem_id": FIELD + knob.name, "info": info(knob), "min_width": 160,
    }
    if knob.choices:
        return gr.Dropdown(choices=[(choice_label(knob, c), c) for c in knob.choices], filterable=False, **settings)
    if knob.kind is bool:
        return gr.Checkbox(**settings)
    if knob.kind is str:
        return gr.Textbox(max_lines=1, placeholder="none", **settings)
    if has_slider(knob):
        return UnjudgedSlider(knob.low, knob.high, step=0.05 if knob.high > 1 else 0.01, buttons=[], **settings)
    return gr.Number(step=1 if knob.kind is int else _nudge(knob.default), **settings)


def edits(controls: Iterable[Component]) -> list[Any]:
    """The events by which a person changes these controls."""
    listed = list(controls)
    # an emptied slider takes its least value when it is left, and tells only `change`
    return [c.input for c in listed] + [c.change for c in listed if isinstance(c, gr.Slider)]


def has_slider(knob: Knob) -> bool:
    """Decimals in a short range are dragged; those over many magnitudes, such as learning rates, are typed."""
    short = knob.high is not None and knob.high <= 10 and (knob.low == 0 or knob.high / knob.low <= 100)
    return knob.kind is float and short and not knob.rare


def label(knob: Knob) -> str:
    """The knob's name for people, with its unit unless the name says it."""
    words = knob.label.replace("Mc ", "MC ").replace("Lr ", "LR ")
    return words if not knob.unit or words.endswith(knob.unit) else f"{words} ({knob.unit})"


def info(knob: Knob) -> str:
    """The help sentence with the range behind it."""
    if knob.choices or knob.kind in (bool, str):
        return knob.help
    return f"{knob.help} {_number(knob.low)} to {_number(knob.high)}."


def choice_label(knob: Knob, choice: str) -> str:
    entry = _TITLES.get(knob.name, {}).get(choice)
    return entry.title if entry else choice.replace("_", " ")


def _split(group: str) -> Iterator[tuple[bool, list[Knob]]]:
    for rare in (False, True):
        knobs = [knob for knob in KNOBS.values() if knob.group == group and knob.rare == rare]
        if knobs:
            yield rare, knobs


def fold_title(group: str) -> str:
    """The line under which a group's rare knobs are folded."""
    names = [label(knob).partition(" (")[0] for knob in KNOBS.values() if knob.group == group and knob.rare]
    return "More: " + ", ".join(name if name[:2].isupper() else name.lower() for name in names)


def _nudge(default: float) -> float:
    """What one press of an arrow key adds: a tenth of the default's magnitude."""
    return 10.0 ** (math.floor(math.log10(default)) - 1) if default > 0 else 0.01


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and value >= 1000 else f"{value:g}"


# ---- reading -------------------------------------------------------------------------------------------------------


def read(values: Mapping[str, Any]) -> TrainConfig:
    """The config that a filled-in form means.

    Raises:
        ConfigError: one sentence per field at fault, empty ones included; all of them at once.
    """
    try:
        config = TrainConfig.parse(values)
    except ConfigError as error:
        raise ConfigError(error.problems | _empty(values, error.problems)) from None
    if problems := file_problems(config) | examples_problems(config) | hardware_problems(config):
        raise ConfigError(problems)
    return config


def _empty(values: Mapping[str, Any], problems: Mapping[str, str]) -> dict[str, str]:
    return {
        name: f"{label(KNOBS[name])} is empty; give {KNOBS[name].allowed}."
        for name in problems
        if name in KNOBS and values.get(name) in (None, "")
    }


@dataclass(frozen=True)
class Prefill:
    """What an address asks the form to show. `ignored`: sentences on what could not be put into a field."""

    preset: str
    values: dict[str, Any]
    ignored: list[str]


def prefill(query: Mapping[str, str]) -> Prefill | None:
    """`?preset=adder&train_steps=3` as values for the controls, or None when the address names neither.

    A number out of range is put into its field, where the form says what is wrong with it; what no field can
    hold is left out, with a sentence.
    """
    named = {name: query[name] for name in KNOBS if name in query}
    if not named and "preset" not in query:
        return None
    ignored: list[str] = []
    preset = query.get("preset") or next(iter(PRESETS))
    if preset not in PRESETS:
        ignored.append(f"There is no preset {preset[:40]!r}; choose one of {', '.join(PRESETS)}.")
        preset = next(iter(PRESETS))
    values = PRESETS[preset].config().model_dump()
    for name, text in named.items():
        try:
            values[name] = field_value(KNOBS[name], text)
        except ValueError:
            ignored.append(f"{name} = {text[:40]} from the address was left out; give {KNOBS[name].allowed}.")
    return Prefill(preset, values, ignored)


def field_value(knob: Knob, text: str) -> Any:
    """What the control can show of a text; raises ValueError when that is nothing."""
    if knob.choices:
        if text not in knob.choices:
            raise ValueError(text)
        return text
    if knob.kind is bool:
        return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[_known(text)]
    if knob.kind is str:
        return text
    number = float(text)
    if not math.isfinite(number) or (has_slider(knob) and not knob.low <= number <= knob.high):
        raise ValueError(text)
    return int(number) if knob.kind is int and number == int(number) else number


def _known(text: str) -> str:
    if text.lower() not in ("true", "1", "yes", "false", "0", "no"):
        raise ValueError(text)
    return text.lower()


# ---- words ---------------------------------------------------------------------------------------------------------


def plan_words(config: TrainConfig) -> list[str]:
    """What the run will do, in sentences with the figures multiplied out."""
    if config.job == "finetune":
        return _finetune_words(config)
    if config.job == "evaluate":
        return _evaluation_words(config)
    c = config
    completions = c.prompts_per_step * c.group_size
    batch = f"{c.prompts_per_step} \u00d7 {c.group_size} = {_count(completions, 'completion')}"
    estimates = f"{_count(completions * c.mc_samples, 'ELBO estimate')} per step"
    held = OBJECTIVES[c.objective].memory if c.objective in OBJECTIVES else "by the rules of objective_file"
    evaluations = 1 + math.ceil(c.train_steps / c.eval_every)
    return [
        _beginning(c),
        f"{_count(c.train_steps, 'training step')} of {batch}.",
        f"{estimates} ({_count(c.mc_samples, 'mask draw')} each), {held}.",
        f"{_count(evaluations, 'held-out evaluation')} on {c.eval_problems} problems, each with a checkpoint."
        + _pass_words(c),
        *published_words(c),
    ]


def _finetune_words(c: TrainConfig) -> list[str]:
    evaluations = 1 + math.ceil(c.train_steps / c.eval_every)
    return [
        f"Starts from {c.start_from}." if c.start_from else "Starts from the model as it is.",
        f"{_count(c.train_steps, 'step')} of {_count(c.examples_per_step, 'example')} from {c.examples}, each under "
        "one mask draw.",
        f"{_count(evaluations, 'measurement')} of the loss on the {c.validation_share:.1%} of examples kept back, each "
        "with a checkpoint.",
    ]


def _pass_words(c: TrainConfig) -> str:
    """What each evaluation measures besides the reward; nothing where that was not asked for."""
    lengths = eval_lengths(c)
    if lengths == [c.completion_length] and c.eval_samples == 1:
        return ""
    tries = f" and pass@{c.eval_samples}" if c.eval_samples > 1 else ""
    return f" Each measures pass@1{tries} at {', '.join(map(str, lengths))} tokens."


def _evaluation_words(c: TrainConfig) -> list[str]:
    lengths = eval_lengths(c)
    tries = f"{c.eval_samples} tries each at T = {c.temperature:g}"
    return [
        f"Measures {c.start_from or c.model_path or 'the model with random weights'}; nothing is trained.",
        f"{_count(c.eval_problems, 'held-out problem')}, {tries if c.eval_samples > 1 else 'one greedy try each'}, at "
        f"{_count(len(lengths), 'completion length')}: {', '.join(map(str, lengths))} tokens.",
        "pass@1 with its interval then stands under Evaluations.",
    ]


def _beginning(c: TrainConfig) -> str:
    if c.start_from:
        return f"Starts from {c.start_from}; no warm start."
    built_in = MODELS[c.model].built_in
    begins = "random weights" if built_in else f"the weights of {c.model_path}, downloaded if they are not here yet"
    if not c.warmup_steps:
        return f"No warm start: the model begins with {begins}."
    warm = f"{_count(c.warmup_steps, 'supervised step')} of warm start"
    return f"{warm}, skipped where the same one was made before." if built_in else f"{warm} on {begins}."


def published_words(config: TrainConfig) -> list[str]:
    """What the objective's paper sets otherwise than this config, as at most one sentence."""
    objective = OBJECTIVES.get(config.objective)
    if objective is None:
        return []
    given = {name: getattr(config, name) for name in objective.published}
    if "clip_epsilon" in given and not config.clip_epsilon:  # 0 takes the published one
        given["clip_epsilon"] = objective.published["clip_epsilon"]
    other = [f"{name} {value}" for name, value in objective.published.items() if given[name] != value]
    return [f"{objective.title} was published ({objective.source}) with {', '.join(other)}."] if other else []


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
