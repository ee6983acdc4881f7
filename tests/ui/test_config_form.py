"""The form and the New run page without a browser: controls from knobs, sentences at fields, nothing half-started."""

from __future__ import annotations

import math
from types import SimpleNamespace

import gradio as gr
import pytest

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.presets import PRESETS, adder
from storage.runs import list_runs
from tests.databases import new_database
from ui import config_form
from ui.components.launch_card import review
from ui.config_form import UnjudgedSlider
from ui.new_run_page import NewRunPage
from ui.run_words import onward_query


@pytest.fixture
def page(tmp_path):
    db = new_database(tmp_path / "bgpo.db")
    runs_folder = tmp_path / "runs"
    runs_folder.mkdir()
    services = SimpleNamespace(db=db, runs_folder=runs_folder, database_url=db.url)
    with gr.Blocks(), gr.Tabs(), gr.Tab("New run"):
        built = NewRunPage(services)
    yield built
    db.close()


def filled(page, **changes):
    """The dict that Gradio hands to a callback in set form."""
    values = adder().model_dump() | changes
    named = {component: values[name] for name, component in page.controls.items()}
    return named | {page.preset: "adder", page.name: ""}


# ---- controls ----


def test_every_knob_has_a_control_with_its_default_help_and_id():
    with gr.Blocks():
        controls = config_form.build()
    assert list(controls) == list(KNOBS)
    for name, knob in KNOBS.items():
        assert controls[name].value == knob.default
        assert knob.help in controls[name].info
        assert controls[name].elem_id == f"knob-{name}"


@pytest.mark.parametrize(("name", "kind"), [
    ("task", gr.Dropdown), ("share_masks", gr.Checkbox), ("temperature", UnjudgedSlider),
    ("mc_samples", gr.Number), ("learning_rate", gr.Number), ("weight_decay", gr.Number),
    ("correct_fraction", UnjudgedSlider),
])
def test_control_fits_the_declaration(name, kind):
    with gr.Blocks():
        assert type(config_form.control(KNOBS[name])) is kind


def test_number_fields_leave_judging_to_read():
    # a bound or a precision on the control would answer with a pop-up, or round 3.5 to 4 unasked
    with gr.Blocks():
        control = config_form.control(KNOBS["mc_samples"])
        slider = config_form.control(KNOBS["temperature"])
    assert control.minimum is None and control.maximum is None
    assert control.preprocess(3.5) == 3.5
    assert slider.preprocess(99) == 99 and slider.preprocess(None) is None


def test_labels_carry_units_once():
    assert config_form.label(KNOBS["completion_length"]) == "Completion length (tokens)"
    assert config_form.label(KNOBS["train_steps"]) == "Train steps"
    assert config_form.label(KNOBS["mc_samples"]) == "MC samples"


# ---- reading ----


@pytest.mark.parametrize("given", [0, 1025, 3.5, None, "", "many", math.nan, math.inf, [4], "1e99"])
def test_a_bad_value_gets_one_sentence_at_its_field(given):
    with pytest.raises(ConfigError) as caught:
        config_form.read(adder().model_dump() | {"mc_samples": given})
    (name, sentence), = caught.value.problems.items()
    assert name == "mc_samples"
    assert "from 1 to 1024" in sentence.replace(",", "") and sentence.endswith(".") and "None" not in sentence


def test_all_bad_fields_are_named_at_once():
    with pytest.raises(ConfigError) as caught:
        config_form.read(adder().model_dump() | {"mc_samples": 0, "train_steps": None, "temperature": math.nan})
    assert set(caught.value.problems) == {"mc_samples", "train_steps", "temperature"}
    assert caught.value.problems["train_steps"].startswith("Train steps is empty; give a whole number")


def test_what_the_form_holds_is_the_config():
    values = adder().model_dump() | {"mc_samples": 16.0, "learning_rate": 1e-3}  # browsers send 16 and 16.0 alike
    assert config_form.read(values) == adder().with_values(mc_samples=16, learning_rate=1e-3)


# ---- address ----


def test_address_fills_the_form():
    wanted = config_form.prefill({"tab": "new", "preset": "stack_programs", "train_steps": "3", "objective": "elbo",
                                  "share_masks": "true", "learning_rate": "1e-3"})
    expected = PRESETS["stack_programs"].config().with_values(
        train_steps=3, objective="elbo", share_masks=True, learning_rate=1e-3)
    assert config_form.read(wanted.values) == expected
    assert wanted.preset == "stack_programs" and wanted.ignored == []


def test_address_without_knobs_changes_nothing():
    assert config_form.prefill({"tab": "new", "run": "3"}) is None


def test_out_of_range_in_an_address_is_shown_at_its_field():
    wanted = config_form.prefill({"mc_samples": "0"})
    assert wanted.values["mc_samples"] == 0 and wanted.ignored == []
    with pytest.raises(ConfigError):
        config_form.read(wanted.values)


@pytest.mark.parametrize(("name", "text"), [
    ("seed", "abc"), ("seed", "nan"), ("seed", "1e999"), ("task", "sudokku"), ("share_masks", "maybe"),
    ("temperature", "99"), ("preset", "<script>"),
])
def test_what_no_field_can_hold_is_left_out_with_a_sentence(name, text):
    wanted = config_form.prefill({name: text})
    assert config_form.read(wanted.values) == adder()
    assert len(wanted.ignored) == 1 and text[:40] in wanted.ignored[0]


# ---- words ----


def test_plan_multiplies_the_figures_out():
    config = TrainConfig(prompts_per_step=4, group_size=8, mc_samples=16, train_steps=11)
    words = " ".join(config_form.plan_words(config))
    assert "4 \u00d7 8 = 32 completions" in words and "512 ELBO estimates per step" in words
    assert "4 held-out evaluations" in words  # at steps 0, 5, 10 and 11
    assert "all held until" in " ".join(config_form.plan_words(TrainConfig(objective="elbo")))
    assert "random weights" in config_form.plan_words(TrainConfig(warmup_steps=0))[0]


def at_once(config):
    return "Starts now", config


def test_review_shows_differences_and_the_command():
    values = adder().model_dump() | {"mc_samples": 16}
    def starts(config):
        return f"Starts with {config.mc_samples}", config

    card = review(values, "adder", "sqlite:////tmp/a b/runs.db", starts)
    assert card["changes"] == [["mc_samples", "4", "16"]] and card["problems"] == {}
    assert "--mc-samples 16" in card["command"] and "'sqlite:////tmp/a b/runs.db'" in card["command"]
    assert card["starts"] == "Starts with 16"


def test_review_of_a_contradiction_names_both_knobs():
    card = review(adder().model_dump() | {"block_length": 3}, "adder", "sqlite:///runs.db", at_once)
    sentence = card["problems"]["block_length"]
    assert "block_length = 3" in sentence and "completion_length = 8" in sentence
    assert "command" not in card


def test_review_never_shows_a_password():
    card = review(adder().model_dump(), "adder", "postgresql://me:hunter2@host/db", at_once)
    assert "hunter2" not in str(card)


def test_review_of_fine_tuning_says_what_it_learns_from():
    card = review(PRESETS["finetune_adder"].config().model_dump(), "finetune_adder", "sqlite:///runs.db", at_once)
    assert card["problems"] == {} and "32 examples from examples/adder.jsonl" in card["plan"][1]


def test_review_of_a_file_without_examples_names_the_line(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"prompt": "1+1", "answer": "2"}\n{"prompt": "1+1"}\n')
    values = PRESETS["finetune_adder"].config().model_dump() | {"examples": str(tmp_path / "rows.jsonl")}
    assert "line 2" in review(values, "finetune_adder", "sqlite:///runs.db", at_once)["problems"]["examples"]


def test_the_address_that_goes_on_from_a_checkpoint_fills_the_form():
    config = PRESETS["finetune_adder"].config().with_values(completion_length=16, denoising_steps=16, task="countdown")
    filled = config_form.prefill(onward_query(config, 12, 40))
    assert filled.preset == "countdown" and not filled.ignored
    wanted = {"job": "train", "start_from": "run:12@40", "completion_length": 16, "denoising_steps": 16, "examples": ""}
    assert filled.values | wanted == filled.values


# ---- the page ----


def test_the_page_checks_where_a_run_starts_from(page):
    _, card = page.start_pressed(filled(page, start_from="run:99@1"))
    assert "run:99@1" in card["problems"]["start_from"]


def test_a_run_that_begins_with_the_end_of_another_one_waits_for_it(page):
    first, _ = page.start_pressed(filled(page))
    for given in (f"run:{first}", f"run:{first}@best"):
        assert page.edited(filled(page, start_from=given))["starts"] == f"Starts after run {first} has ended"


def test_start_queues_exactly_one_run_with_the_form_s_config(page):
    run_id, card = page.start_pressed(filled(page, mc_samples=8, train_steps=3))
    (run,) = list_runs(page.services.db)
    assert run.id == run_id and run.status == "queued"
    assert TrainConfig.from_json(run.config_json) == adder().with_values(mc_samples=8, train_steps=3)
    assert card["problems"] == {}


@pytest.mark.parametrize("change", [{"mc_samples": None}, {"train_steps": 0}, {"block_length": 3}, {"group_size": 1}])
def test_start_with_a_problem_starts_nothing(page, change):
    run_id, card = page.start_pressed(filled(page, **change))
    assert run_id == 0 and next(iter(change)) in card["problems"]
    assert list_runs(page.services.db) == [] and list(page.services.runs_folder.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_sentence_on_the_card(page):
    page.services.runs_folder.rmdir()
    page.services.runs_folder.write_text("not a folder")
    run_id, card = page.start_pressed(filled(page))
    assert run_id == 0 and card["refused"].endswith(".")
    assert list_runs(page.services.db) == []


def test_coming_back_to_the_tab_keeps_edits_and_a_new_address_replaces_them(page):
    edited = list((adder().model_dump() | {"mc_samples": 64}).values())
    first = page.opened("?tab=new&preset=stack_programs", "", "adder", *edited)
    assert first[1] == "stack_programs" and first[4] == "stack_programs"  # preset, then the first control: task
    again = page.opened("?tab=new&preset=stack_programs", "?tab=new&preset=stack_programs", "stack_programs", *edited)
    assert again[4:] == [gr.skip()] * len(KNOBS)
    assert ["mc_samples", "4", "64"] in again[3]["changes"]


def test_an_unknown_preset_press_falls_back_to_the_first(page):
    answer = page.preset_chosen(SimpleNamespace(preset="rm -rf"))
    assert answer[0] == next(iter(PRESETS)) and len(answer) == 3 + len(KNOBS)


def test_the_plan_says_what_the_paper_sets_otherwise():
    espo = adder().with_values(objective="espo", advantage="leave_one_out")
    (words,) = config_form.published_words(espo)
    assert words.startswith("ESPO was published (arXiv 2512.03759) with kl_coefficient 0.001")
    assert "advantage" not in words and "clip_epsilon" not in words
    assert config_form.published_words(espo.with_values(objective="custom", objective_file="mine.py")) == []


def test_a_file_that_holds_no_objective_is_refused_at_its_field(tmp_path):
    mine = tmp_path / "mine.py"
    values = adder().model_dump() | {"objective": "custom", "objective_file": str(mine)}
    with pytest.raises(ConfigError) as missing:
        config_form.read(values)
    assert "cannot be read" in missing.value.problems["objective_file"]
    mine.write_text("def objective(elbo, old_elbo, advantage):\n    raise SystemExit  # never run by the form\n")
    assert config_form.read(values).objective_file == str(mine)
