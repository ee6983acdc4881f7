"""A config file fills the form, or says in a sentence why not."""

from __future__ import annotations

import json

import pytest

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.presets import PRESETS
from ui import config_form, run_words
from ui.config_file import read_file


@pytest.mark.parametrize("preset", PRESETS)
def test_a_config_comes_back_from_its_file_as_it_was(preset):
    config = PRESETS[preset].config().model_copy(update={"seed": 7, "learning_rate": 3e-4})
    for text in (run_words.config_file(config), config.to_json(), json.dumps({"id": 1, "config": config.model_dump()})):
        found = read_file(text)
        assert found.values == config.model_dump() and found.ignored == []
        assert PRESETS[found.preset].config().task == config.task


def test_what_cannot_be_taken_is_said():
    given = {"mc_sample": 8, "task": "<b>no</b>", "seed": [1], "share_masks": None, "group_size": 4}
    found = read_file(json.dumps(given))
    unknown, task, seed, masks, rest = found.ignored
    assert "'mc_sample'" in unknown and "mc_samples" in unknown
    assert task.startswith("Task: ") and "<b>no</b>" in task and seed.startswith("Seed: [1]") and "null" in masks
    assert rest.startswith(f"{len(KNOBS) - 4} of the {len(KNOBS)} knobs")
    assert found.values == TrainConfig(group_size=4).model_dump()


def test_a_number_out_of_range_is_shown_at_its_field():
    found = read_file(json.dumps(TrainConfig().model_dump() | {"mc_samples": 0}))
    assert found.values["mc_samples"] == 0 and found.ignored == []
    with pytest.raises(ConfigError):
        config_form.read(found.values)


def test_many_complaints_stay_few():
    found = read_file(json.dumps({f"x{number}": 1 for number in range(500)} | {"seed": 1}))
    assert len(found.ignored) == 13 and found.ignored[-1].startswith("And 4")


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "7", "null", '{"a": 1}', "[" * 60_000, '{"seed": NaN' + "}" * 9])
def test_what_is_no_config_gets_a_sentence(text):
    with pytest.raises(ValueError, match=r"give the config\.json of a run"):
        read_file(text)


def test_a_value_that_is_no_number_is_left_out():
    assert "left out" in read_file('{"seed": NaN}').ignored[0]
