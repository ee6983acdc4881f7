"""The command that a page shows trains exactly the config it is shown for."""

from __future__ import annotations

import argparse
import shlex

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from bgpo.config import KNOBS, ConfigError, Knob, TrainConfig
from bgpo.jobs.command import add_config_arguments, command_line, config_from_arguments, export_command, flag
from bgpo.models.export import parser as export_parser
from bgpo.presets import PRESETS

URL = "sqlite:////home/someone/my runs/it's.db"


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_config_arguments(parser)
    parser.add_argument("--database")
    return parser


def there_and_back(config: TrainConfig) -> TrainConfig:
    words = shlex.split(command_line(config, URL))
    assert words[:3] == ["python", "-m", "bgpo.jobs.worker"]
    arguments = parser().parse_args(words[3:])
    assert arguments.database == URL
    return config_from_arguments(arguments)


def values_of(knob: Knob) -> st.SearchStrategy:
    if knob.choices:
        return st.sampled_from(knob.choices)
    if knob.kind is bool:
        return st.booleans()
    if knob.kind is int:
        return st.integers(int(knob.low), int(knob.high))
    if knob.kind is str:
        return st.text(max_size=40).filter(lambda text: "\0" not in text)
    return st.floats(knob.low, knob.high)


PUBLISHED = {"model": "llada", "model_path": "-a folder"}
WORDS = PUBLISHED | {"task": "gsm8k", "warmup_steps": 0}

# Each of these contradicts the other knobs' defaults unless a second one moves with it.
COMPANIONS = {
    "completion_length": {"completion_length": 16, "block_length": 16},
    "block_length": {"block_length": 4},
    "denoising_steps": {"denoising_steps": 4},
    "token_budget": {"token_budget": 999},
    "group_size": {"group_size": 5},
    "objective": {"objective": "espo"},
    "objective_file": {"objective_file": "my objective.py", "objective": "custom"},
    "reward_file": {"reward_file": "it's mine.py"},
    "remasking": {"remasking": "max_prob"}, "eval_cache": {"eval_cache": "dual"},
    "eval_lengths": {"eval_lengths": "8,16"},
    "cfg_scale": {"cfg_scale": 1.5, "job": "evaluate", "start_from": "a checkpoint"},
    "start_from": {"start_from": "-my checkpoint"},
    "examples": {"examples": "it's mine.jsonl", "job": "finetune"},
    "quantization": {"quantization": "4bit", "adapter": "lora"},
    "model": PUBLISHED, "model_path": PUBLISHED,
    "prompt_style": PUBLISHED | {"prompt_style": "plain"},
    "mask_id": PUBLISHED | {"mask_id": 5},
    "cache": PUBLISHED | {"model": "a2d_block", "attention_block": 4, "block_length": 4, "cache": "block_causal"},
    "attention_block": PUBLISHED | {"model": "a2d_block", "attention_block": 4, "block_length": 4},
    "task_file": WORDS | {"task": "own_file", "task_file": "my task.py"},
    "task": WORDS, "data": WORDS | {"data": "my problems.jsonl"}, "protocol": WORDS | {"protocol": "d1"},
}


@pytest.mark.parametrize("name", KNOBS)
def test_every_knob_survives_the_command_line(name: str):
    knob = KNOBS[name]
    if name in COMPANIONS:
        values = COMPANIONS[name]
    elif knob.choices:
        values = {name: knob.choices[-1]} if name != "job" else {"job": "finetune", "examples": "mine.jsonl"}
    elif knob.kind is str:
        values = {name: "it's my $HOME"}
    elif knob.kind is bool:
        values = {name: not knob.default}
    else:
        values = {name: knob.kind(knob.low + (knob.high - knob.low) / 3)}
    config = TrainConfig().with_values(**values)
    assert there_and_back(config) == config
    if len(knob.choices) != 1 and name not in ("task", "job"):  # those are presets; a family alone is every default
        assert flag(name) in [word.split("=")[0] for word in shlex.split(command_line(config, URL))]


@pytest.mark.slow
@settings(max_examples=150)
@given(st.fixed_dictionaries({}, optional={name: values_of(knob) for name, knob in KNOBS.items()}))
def test_any_config_survives_the_command_line(values: dict):
    try:
        config = TrainConfig.parse(values)
    except ConfigError:
        assume(False)
    assert there_and_back(config) == config


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_shown_by_its_name_alone(name: str):
    config = PRESETS[name].config()
    assert command_line(config, "sqlite:///runs.db") == (
        f"python -m bgpo.jobs.worker --preset {name} --seed {config.seed} --database sqlite:///runs.db"
    )


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:secret@host/db", "postgresql+psycopg://me:secret@host:5432/db?sslmode=require",
     "postgresql://host/db?user=me&password=secret", "postgresql://me:se[cret@host/db"],
)
def test_a_password_is_never_shown(url: str):
    command = command_line(TrainConfig(), url)
    assert "secret" not in command
    assert command.endswith('--database "$BGPO_DATABASE"')


def test_a_url_without_password_is_shown():
    assert command_line(TrainConfig(), "postgresql://me@host/db").endswith("--database postgresql://me@host/db")
    assert command_line(TrainConfig(), "sqlite:////tmp/a:b@c.db").endswith("--database sqlite:////tmp/a:b@c.db")


def test_help_names_every_knob_and_its_sentence():
    text = " ".join(parser().format_help().split())
    for name, knob in KNOBS.items():
        assert flag(name) in text
        assert knob.help.rstrip(".").split(";")[0][:30] in text


def test_unknown_preset_lists_the_known_ones():
    with pytest.raises(ConfigError) as caught:
        config_from_arguments(parser().parse_args(["--preset", "sudokku"]))
    assert str(caught.value) == f"There is no preset named sudokku; the presets are {', '.join(PRESETS)}."


def test_all_wrong_values_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        config_from_arguments(parser().parse_args(["--mc-samples", "many", "--learning-rate", "nan"]))
    assert caught.value.problems.keys() >= {"mc_samples", "learning_rate"}


def test_the_export_command_of_a_checkpoint_is_one_that_the_exporter_takes():
    config = TrainConfig(model="llada", model_path="owner/name", adapter="lora")
    words = shlex.split(export_command(config, "/data/a folder/step-000060", 7, 60))
    assert words[:3] == ["python", "-m", "bgpo.models.export"]
    taken = export_parser().parse_args(words[3:])
    assert (taken.checkpoint, taken.to, taken.merge) == ("/data/a folder/step-000060", "llada-run-7-step-60", True)
    assert "--merge" not in export_command(TrainConfig(), "/data/step-000060", 7, 60)
