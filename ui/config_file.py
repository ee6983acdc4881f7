"""A config file, such as the `config.json` in a run's folder, as values for the form."""

from __future__ import annotations

import json
from difflib import get_close_matches
from typing import Any

from bgpo.config import KNOBS, TrainConfig
from bgpo.presets import PRESETS
from ui.config_form import Prefill, field_value, label
from ui.run_words import preset_name, value_words

_MOST_NOTES = 12


def read_file(text: str) -> Prefill:
    """What a file asks the form to show. A knob that it does not name has its default, as everywhere.

    A number out of range is put into its field, where the form says what is wrong with it; what no field can hold and
    what is no knob is left out, with a sentence.

    Raises:
        ValueError: when it is no config at all, in a sentence.
    """
    given = _knobs_in(text)
    values, notes = TrainConfig().model_dump(), []
    for name, value in given.items():
        if name not in KNOBS:
            notes.append(_unknown(name))
            continue
        try:
            values[name] = field_value(KNOBS[name], _text(value))
        except ValueError:
            shown = json.dumps(value)[:40]
            notes.append(f"{label(KNOBS[name])}: {shown} was left out; give {KNOBS[name].allowed}.")
    if missing := [name for name in KNOBS if name not in given]:
        notes.append(_missing(missing, values))
    if len(notes) > _MOST_NOTES:
        notes[_MOST_NOTES:] = [f"And {len(notes) - _MOST_NOTES} more of this kind."]
    preset = preset_name(values["job"], values["task"]) or next(iter(PRESETS))
    return Prefill(preset, values, notes)


def _knobs_in(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("This is not JSON; give the config.json of a run.") from None
    if isinstance(found, dict) and isinstance(found.get("config"), dict):
        found = found["config"]  # what the command line says of a run
    if not isinstance(found, dict) or not any(name in KNOBS for name in found):
        raise ValueError('This file names no knob; give the config.json of a run, or knobs such as {"mc_samples": 16}.')
    return found


def _text(value: Any) -> str:
    """A JSON value as it would be typed; raises ValueError for what nobody types."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str):
        return str(value)
    raise ValueError(value)


def _unknown(name: str) -> str:
    near = get_close_matches(name[:60], KNOBS, 1)
    return f"There is no knob {name[:40]!r}, so it was left out." + (f" Did you mean {near[0]}?" if near else "")


def _missing(names: list[str], values: dict[str, Any]) -> str:
    if len(names) > 3:
        return f"{len(names)} of the {len(KNOBS)} knobs are not in the file and have their defaults."
    usual = ", ".join(f"{name} {value_words(values[name])}" for name in names)
    return f"Not in the file, so as by default: {usual}."
