"""The Chat page without a browser, over a real (untrained) checkpoint and the real sampler."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from bgpo.jobs.chat import Chat
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from bgpo.tasks.registry import TASKS
from storage.checkpoints import add_checkpoint, all_checkpoints
from storage.runs import list_runs
from ui import chat_page
from ui.chat_page import ChatPage

REQUEST = SimpleNamespace(session_hash="here")


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "step-000005"
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 5, 1.0, 1), None)
    return folder


@pytest.fixture
def page(services, new_run, saved) -> ChatPage:
    """A page over two runs: adder with two checkpoints, stack_programs with one."""
    adder, stack = new_run(), new_run(preset="stack_programs")
    add_checkpoint(services.db, adder.id, 0, "warm_start", str(saved), 0.25)
    add_checkpoint(services.db, adder.id, 5, "evaluation", str(saved), 0.84)
    add_checkpoint(services.db, stack.id, 0, "warm_start", str(saved))
    with gr.Blocks(), gr.Tabs(), gr.Tab("Chat"):
        return ChatPage(replace(services, chat=Chat()))


def given(page: ChatPage, prompt: str = "37+48", checkpoint: int = 2, **changes) -> dict:
    values = {"denoising_steps": 8, "block_length": 8, "temperature": 1.0, "remasking": "random", "seed": 3} | changes
    controls = (page.steps, page.block, page.temperature, page.remasking, page.seed)
    return dict(zip(controls, (values[name] for name in chat_page.SETTINGS))) | {
        page.checkpoint: checkpoint, page.prompt: prompt,
    }


def answered(page: ChatPage, **question) -> tuple[list[dict], dict]:
    """(events on the stage at the end, sentences at the fields)."""
    updates = list(page.answer(given(page, **question), REQUEST))
    shown = [update for update in updates if isinstance(update[0], dict) and "events" in update[0]]
    return (shown[-1][0]["events"] if shown else []), [u[1] for u in updates if "problems" in u[1]][-1]["problems"]


# ---- choosing ----


def test_choices_are_newest_first_and_say_what_they_are(page):
    choices = chat_page.checkpoint_choices(list_runs(page.services.db), all_checkpoints(page.services.db))
    assert [label for label, _ in choices] == [
        "Run 2 stack_programs \u00b7 step 0 \u00b7 warm start",
        "Run 1 adder \u00b7 step 5 \u00b7 evaluation \u00b7 reward 0.84",
        "Run 1 adder \u00b7 step 0 \u00b7 warm start \u00b7 reward 0.25",
    ]


@pytest.mark.parametrize(("search", "current", "chosen"), [
    ("?tab=chat&checkpoint=1", None, 1), ("?checkpoint=1", 2, 1), ("?tab=chat", 2, 2), ("", None, 3),
    ("?checkpoint=99", None, 3), ("?checkpoint=-1", 2, 2), ("?checkpoint=<b>", 99, 3),
    ("?checkpoint=" + "9" * 500, 2, 2),
])
def test_the_address_chooses_then_the_last_choice_then_the_newest(search, current, chosen):
    assert chat_page.chosen_id(search, [("c", 3), ("b", 2), ("a", 1)], current) == chosen


def test_without_checkpoints_the_page_says_what_to_do(services):
    with gr.Blocks(), gr.Tabs(), gr.Tab("Chat"):
        empty = ChatPage(replace(services, chat=Chat()))
    stage, dropdown, button, *_ = empty.opened("?tab=chat", None, "")
    assert stage["events"][0]["text"].startswith("Start a run first")
    assert dropdown["value"] is None and not button["interactive"]
    _, problems = answered(empty, checkpoint=None)
    assert "Start a run first" in problems["checkpoint"]


def test_another_task_brings_its_own_held_out_examples_and_prompt(page):
    prompt, examples, *_ = page.checkpoint_chosen(3, "37+48")
    assert prompt["value"] == examples["samples"][0][0] != "37+48"
    for (example,) in examples["samples"]:
        TASKS["stack_programs"].problem_from(example)
    assert page.checkpoint_chosen(2, "37+48")[0]["value"] == "37+48"  # its own task keeps what was typed


def test_a_deleted_checkpoint_is_a_sentence(page):
    assert "deleted" in page.checkpoint_chosen(99, "37+48")[-1]["problems"]["checkpoint"]


# ---- answering ----


def test_events_come_in_order_and_fill_every_position_once(page):
    events, problems = answered(page)
    assert problems == {}
    assert [event["kind"] for event in events] == ["loading", "start", *["step"] * 8, "end"]
    assert sorted(commit[0] for event in events[2:-1] for commit in event["commits"]) == list(range(8))
    assert events[1]["prompt"] == "37+48" and events[-1]["verdict"]["reason"]


def test_same_seed_same_answer_another_seed_another(page):
    texts = [answered(page, seed=seed)[0][-1]["text"] for seed in (3, 3, 4)]
    assert texts[0] == texts[1] != texts[2]


def test_buttons_are_given_back_at_the_end(page):
    updates = list(page.answer(given(page), REQUEST))
    assert (updates[0][2]["interactive"], updates[0][3]["interactive"]) == (False, True)
    assert (updates[-1][2]["interactive"], updates[-1][3]["interactive"]) == (True, False)


def test_a_prompt_that_is_no_problem_of_the_task_is_answered_but_not_judged(page):
    events, problems = answered(page, prompt="11+1")
    assert problems == {} and events[-1]["kind"] == "end" and events[-1]["verdict"] is None


@pytest.mark.parametrize(("question", "field"), [
    ({"prompt": ""}, "prompt"), ({"prompt": "\u00e9"}, "prompt"), ({"prompt": "9" * 100}, "prompt"),
    ({"seed": None}, "seed"), ({"seed": 1.5}, "seed"), ({"temperature": 99}, "temperature"),
    ({"temperature": None}, "temperature"), ({"denoising_steps": 9}, "denoising_steps"),
    ({"block_length": 3}, "block_length"),
    ({"remasking": "<b>"}, "remasking"), ({"checkpoint": 99}, "checkpoint"),
])
def test_bad_input_is_a_sentence_at_its_field(page, question, field):
    events, problems = answered(page, **question)
    assert list(problems) == [field] and problems[field].endswith(".")
    assert not any(event["kind"] == "end" for event in events)


def test_a_damaged_checkpoint_is_a_sentence(page, services, saved, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(saved, damaged)
    (damaged / "config.json").write_text("{}")
    found = add_checkpoint(services.db, 1, 7, "evaluation", str(damaged))
    events, problems = answered(page, checkpoint=found.id)
    assert "damaged" in problems["checkpoint"] and events[-1]["kind"] == "error"


def test_stop_ends_an_answer_at_its_next_step_and_only_that_one(page, monkeypatch):
    monkeypatch.setattr(chat_page, "PUSH_EVERY", 0)  # an update per event
    stopped: list[dict] = []
    for update in page.answer(given(page), REQUEST):
        if isinstance(update[0], dict) and "events" in update[0]:
            stopped = update[0]["events"]
            if stopped[-1]["kind"] == "step" and stopped[-1]["step"] == 3:
                page.stop_pressed(REQUEST)
    assert [event["kind"] for event in stopped][-1] == "stopped"
    assert max(event.get("step", 0) for event in stopped) in (3, 4)
    events, _ = answered(page)
    assert events[-1]["kind"] == "end"
