"""The card beside the New run form, and the preset cards above it. Their values are made here, without a browser."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from bgpo.config import KNOBS, ConfigError, TrainConfig, differences
from bgpo.jobs.command import command_line
from bgpo.presets import PRESETS, Preset
from bgpo.tasks.preview_child import KNOBS_READ
from bgpo.tasks.registry import TASKS
from ui import config_form
from ui.components.module import module
from ui.launch_options import FOLDS, LABELS
from ui.memory_words import estimate_card
from ui.run_words import config_file, value_words


def preset_cards(chosen: str) -> gr.HTML:
    """Cards of all presets; a press triggers `click` with {"preset": name}."""
    return module("preset_cards", preset_choice(chosen))


def launch_card() -> gr.HTML:
    return module("launch_card")


def config_drop() -> gr.HTML:
    """Takes a config file; one that is dropped or chosen triggers `click` with {"name", "text"}."""
    return module("config_file", elem_id="new-run-file")


def task_preview() -> gr.HTML:
    """The task's problems and its grader to try, folded; the card tells it which task is chosen."""
    return module("task_preview", elem_id="new-run-task")


def preset_choice(chosen: str) -> dict[str, Any]:
    def card(preset: Preset) -> dict[str, Any]:
        example = TASKS[preset.config().task].example
        return {"name": preset.name, "title": preset.title, "summary": preset.summary, "example": example,
                "gpu": preset.needs_gpu}

    return {"presets": [card(preset) for preset in PRESETS.values()], "chosen": chosen}


def review(
    values: Mapping[str, Any], preset: str, database_url: str, starts: Callable[[TrainConfig], tuple[str, TrainConfig]],
    *, notes: Sequence[str] = (), refused: str = "", group: Sequence[str] = (),
    problems: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The card's value for a filled-in form: its problems, or what Start will do.

    Args:
        starts: the line that says when it begins, and on what, and the config with the folder of the checkpoint that it
            starts from; raises ConfigError for what only the app can judge, such as whether a run has a checkpoint.
        notes: sentences on what an address asked for in vain.
        refused: why the last press of Start came to nothing.
        group: sentences on how long it takes, and the sweep that it is.
        problems: of the options beside the knobs, by the option's name.
    """
    shown: dict[str, Any] = {
        "prefix": config_form.FIELD, "names": [*KNOBS, *LABELS], "problems": dict(problems or {}),
        "notes": list(notes), "refused": refused,
        "group": list(group), "task": {name: values.get(name) or "" for name in KNOBS_READ},
        "labels": {name: config_form.label(knob) for name, knob in KNOBS.items()} | LABELS,
        "folds": {name: config_form.fold_title(knob.group) for name, knob in KNOBS.items() if knob.rare} | FOLDS,
    }
    try:
        config = config_form.read(values)
        begins, settled = starts(config)
    except ConfigError as error:
        return shown | {"problems": error.problems | shown["problems"]}
    if shown["problems"]:
        return shown
    return shown | {"starts": begins} | _plan(config, settled, preset, database_url)


def _plan(config: TrainConfig, settled: TrainConfig, preset: str, database_url: str) -> dict[str, Any]:
    changed = differences(PRESETS[preset].config(), config)
    return {
        "plan": config_form.plan_words(config),
        "preset": PRESETS[preset].title,
        "changes": [[name, value_words(before), value_words(after)] for name, (before, after) in changed.items()],
        "command": command_line(config, database_url),
        "config": config_file(config),
        "memory": estimate_card(settled),
    }
