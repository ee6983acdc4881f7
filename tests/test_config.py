"""Every knob: its range, its sentence, its way there and back."""

from __future__ import annotations

import json
import math

import pytest

from bgpo.config import GROUPS, KNOBS, ConfigError, TrainConfig, differences
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS


def sentence(values: dict) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        TrainConfig.parse(values)
    return caught.value.problems


@pytest.mark.parametrize("knob", KNOBS.values(), ids=KNOBS)
def test_every_knob_is_fully_declared(knob):
    assert knob.help.endswith(".") and knob.group in GROUPS
    assert knob.choices or knob.kind in (bool, str) or (knob.low is not None and knob.high is not None)


NUMBERS = [k for k in KNOBS.values() if not k.choices and k.kind not in (bool, str)]


@pytest.mark.parametrize("knob", NUMBERS, ids=lambda k: k.name)
@pytest.mark.parametrize("wrong", ["below", "above", math.nan, math.inf, "abc", "", None, [], {}, "9" * 400])
def test_a_value_outside_the_range_gets_one_sentence_at_its_field(knob, wrong):
    value = {"below": knob.low - 1, "above": knob.high * 10}.get(wrong, wrong) if isinstance(wrong, str) else wrong
    problems = sentence({knob.name: value})
    assert set(problems) == {knob.name}
    text = problems[knob.name]
    assert text.startswith(knob.name) and "give" in text and f"from {knob.low:g} to" in text and len(text) < 200


@pytest.mark.parametrize("knob", [k for k in KNOBS.values() if k.choices], ids=lambda k: k.name)
def test_an_unknown_choice_lists_the_known_ones(knob):
    text = sentence({knob.name: "sudokku"})[knob.name]
    assert "sudokku" in text and all(choice in text for choice in knob.choices)


@pytest.mark.parametrize("values, field, both", [
    ({"completion_length": 8, "block_length": 3}, "block_length", ("completion_length", "block_length")),
    ({"block_length": 4, "denoising_steps": 3}, "denoising_steps", ("denoising_steps", "block_length")),
    ({"denoising_steps": 16}, "denoising_steps", ("denoising_steps", "completion_length")),
    ({"remasking": "low_confidence"}, "remasking", ("remasking", "eval_remasking")),
    ({"cache": "dual"}, "cache", ("cache", "eval_cache")),
    ({"cache": "block_causal"}, "cache", ("cache", "model")),
    ({"cfg_scale": 1.5}, "cfg_scale", ("cfg_scale", "eval_cfg_scale")),
    ({"eval_lengths": "8,12"}, "eval_lengths", ("eval_lengths", "block_length")),
    ({"eval_lengths": "8,many"}, "eval_lengths", ("eval_lengths", "completion_length")),
    ({"group_size": 1}, "group_size", ("group_size", "advantage")),
    ({"group_size": 1, "advantage": "none", "updates_per_rollout": 2}, "updates_per_rollout",
     ("updates_per_rollout", "group_size")),
    ({"objective": "custom"}, "objective_file", ("objective", "objective_file")),
    ({"objective_file": "mine.py"}, "objective_file", ("objective", "objective_file")),
    ({"objective": "wd1", "mask_draws": "iid"}, "mask_draws", ("objective", "mask_draws")),
    ({"token_budget": 9}, "token_budget", ("token_budget", "completion_length")),
    ({"completion_length": 2, "block_length": 2, "denoising_steps": 2}, "completion_length",
     ("completion_length", "task")),
    ({"task": "gsm8k"}, "task", ("task", "model")),
    ({"task": "gsm8k"}, "warmup_steps", ("warmup_steps", "task")),
    ({"data": "some.jsonl"}, "data", ("data", "task")),
    ({"protocol": "d1"}, "protocol", ("protocol", "task")),
    ({"completion_length": 512, "block_length": 8, "denoising_steps": 64}, "completion_length",
     ("completion_length", "model")),
])
def test_contradictions_name_both_knobs_and_two_ways_out(values, field, both):
    text = sentence(values)[field]
    assert all(name in text for name in both) and " or " in text


@pytest.mark.parametrize("knob", [k for k in KNOBS.values() if k.kind is str and not k.choices], ids=lambda k: k.name)
@pytest.mark.parametrize("wrong", [3, None, [], "x" * 1001])
def test_a_text_that_is_none_or_too_long_gets_one_sentence(knob, wrong):
    assert sentence({knob.name: wrong})[knob.name].endswith("give a text of at most 1000 characters.")


def test_what_rollouts_may_not_do_evaluation_may():
    """An adaptive schedule needs no division of steps; a config that trains nothing may approximate."""
    adaptive = dict(schedule="threshold", remasking="max_prob", denoising_steps=5, completion_length=8, block_length=4)
    TrainConfig(**adaptive, eval_schedule="threshold")
    TrainConfig(**adaptive, eval_tokens_per_pass=1)
    assert "denoising_steps" in sentence(adaptive)  # held-out checks fill a fixed number a step
    TrainConfig(eval_cache="dual", eval_cfg_scale=1.5, eval_remasking="low_confidence", eval_lengths="8,16")


def test_all_problems_come_at_once():
    problems = sentence({"mc_samples": 0, "learning_rate": 7, "nonsense": 1})
    assert set(problems) == {"mc_samples", "learning_rate", "nonsense"}


@pytest.mark.parametrize("text", ["", "[1", "[]", "3", "null", '{"mc_samples": 1e400}', '{"mc_samples": NaN}'])
def test_bad_json_is_a_sentence(text):
    with pytest.raises(ConfigError):
        TrainConfig.from_json(text)


def test_json_round_trip():
    config = TrainConfig(mc_samples=16, learning_rate=1e-4, share_masks=True)
    assert TrainConfig.from_json(config.to_json()) == config
    assert set(json.loads(config.to_json())) == set(KNOBS)


def test_strings_from_forms_and_command_lines_are_read():
    config = TrainConfig.parse({"mc_samples": "16", "learning_rate": "1e-4", "share_masks": "true"})
    assert (config.mc_samples, config.learning_rate, config.share_masks) == (16, 1e-4, True)


def test_differences():
    assert differences(TrainConfig(), TrainConfig(mc_samples=16)) == {"mc_samples": (4, 16)}


def test_frozen():
    with pytest.raises(ValueError):
        TrainConfig().mc_samples = 3


@pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
def test_presets_are_valid(preset):
    assert TrainConfig.from_json(preset.config().to_json()) == preset.config()


LARGE = {name: preset for name, preset in PRESETS.items() if preset.needs_gpu}


@pytest.mark.parametrize("preset", LARGE.values(), ids=LARGE)
def test_a_preset_of_a_large_model_says_what_it_needs(preset):
    config, task = preset.config(), TASKS[preset.config().task]
    assert "NVIDIA GPU of about" in preset.summary and "a download of" in preset.summary
    read = [config.data] if config.data else [table.hub for table in getattr(task, "published", {}).values()]
    assert all(hub in preset.summary for hub in read)
    assert read or "made here" in preset.summary
    assert ("sandbox" in preset.summary) == (task.name in ("mbpp", "humaneval"))


def test_presets_have_the_settings_of_the_paper():
    """arXiv 2510.11683, section 4.1 and table 5: (n_t, completion, denoising steps, steps)."""
    assert {name: (c.mc_samples, c.completion_length, c.denoising_steps, c.train_steps) for name in LARGE
            if (c := PRESETS[name].config()).job == "train" and c.model == "llada"} == {
        "llada_gsm8k": (16, 512, 256, 700), "llada_math": (16, 512, 256, 700), "llada_code": (16, 512, 512, 560),
        "llada_countdown": (16, 256, 128, 560), "llada_sudoku": (32, 256, 128, 400),
    }
    for preset in LARGE.values():
        c = preset.config()
        assert (c.block_length, c.eval_lengths) == (32, "128,256,512")
        if c.job == "train":
            assert (c.prompts_per_step, c.group_size, c.learning_rate, c.advantage) == (16, 8, 5e-7, "std")
        else:
            assert c.eval_samples == 1 and c.eval_tokens_per_pass == 1
