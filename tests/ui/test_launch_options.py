"""What stands beside the knobs: planned starts and sweeps, previewed and launched from the form."""

from __future__ import annotations

import time

import gradio as gr
import pytest

from bgpo.config import KNOBS, TrainConfig
from storage.runs import list_runs, transition
from storage.sweeps import sweep_names
from ui import launch_options
from ui.launch_options import OptionError
from ui.new_run_page import NewRunPage

NOTHING = {"priority": "normal", "at": "", "after": "", "lines": "", "samples": 0}


@pytest.fixture
def form(services):
    """Presses Start with some options: (run id or 0, card)."""
    with gr.Blocks(), gr.Tab("New"):
        page = NewRunPage(services)

    def press(start: bool = True, **options):
        values = TrainConfig().model_dump()
        given = {page.controls[name]: values[name] for name in KNOBS}
        given |= {page.options[name]: value for name, value in (NOTHING | options).items()}
        given |= {page.preset: "adder", page.name: "named"}
        return page.start_pressed(given) if start else (0, page.edited(given))

    return press


def test_a_run_is_planned_on_the_form(form, services):
    first, _ = form()
    id, card = form(priority="high", at="in 2 h", after=str(first))
    run = next(run for run in list_runs(services.db) if run.id == id)
    assert (run.priority, run.after_id) == (1, first) and run.start_at > time.time() + 7000
    assert card["starts"] == f"Starts after run {first} has ended"


def test_a_sweep_is_previewed_and_launched(form, services):
    _, card = form(start=False, lines="mc_samples = 1, 4\nseed = 0..2")
    assert card["group"][0] == "A sweep of 6 runs, the first with mc_samples 1, seed 0."
    assert "cannot be said" in card["group"][1] and list_runs(services.db) == []
    id, _ = form(lines="mc_samples = 1, 4\nseed = 0..2")
    runs = list_runs(services.db)
    assert len(runs) == 6 and id == min(run.id for run in runs) and sweep_names(services.db) == {1: "named"}


def test_the_time_is_judged_by_the_last_run_of_the_kind(form, services):
    id, _ = form()
    for before, after in (("queued", "launching"), ("launching", "running"), ("running", "finished")):
        transition(services.db, id, (before,), after, seconds=600.0)
    assert form(start=False)[1]["group"] == ["Takes about 10 min, judging by one finished run of this kind."]
    card = form(start=False, lines="seed = 1..6")[1]
    assert card["group"][1] == "Takes about 60 min in all, about 10 min each, judging by one finished run of this kind."


@pytest.mark.parametrize("options, sentence", [
    ({"at": "soon"}, "'soon' is no time"), ({"after": "one"}, "is not a run's number"),
    ({"lines": "x = 1"}, "names no knob"), ({"after": "99"}, "Run 99 does not exist"),
    ({"lines": "seed = 0..999"}, "at most 200"), ({"lines": "seed = 1, 2", "samples": -1}, "from 0 to 200"),
])
@pytest.mark.parametrize("start", [False, True])
def test_what_cannot_be_is_said_at_its_field_and_starts_nothing(form, services, options, sentence, start):
    """At once, before Start is pressed; and the card does not say that something would start."""
    id, card = form(start, **options)
    field = list(options)[-1]
    assert id == 0 and list_runs(services.db) == [] and "starts" not in card
    assert list(card["problems"]) == [field] and sentence in card["problems"][field]
    assert field in card["names"] and card["labels"][field] and card["folds"][field]


def test_a_chosen_knob_becomes_a_line():
    assert launch_options.add_line("mc_samples", "seed = 1, 2") == ("", "seed = 1, 2\nmc_samples = 4, ")
    assert launch_options.add_line("", "x") == ("", "x")
    with pytest.raises(OptionError):
        launch_options.read(NOTHING | {"after": "-1"}, 0.0)
