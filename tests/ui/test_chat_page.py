"""The Chat page without a browser, over a real (untrained) checkpoint and the real sampler."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.jobs.chat import Chat
from bgpo.jobs.chat_devices import Seats
from bgpo.jobs.devices import Gpu
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.loading import load
from bgpo.models.tiny import build_tiny
from bgpo.tasks.registry import TASKS
from storage.checkpoints import Checkpoint, add_checkpoint, all_checkpoints
from storage.queue import lease_if_free, leases
from storage.runs import create_run, list_runs
from storage.votes import Counts, vote_counts
from tests.models import published
from ui import chat_page, chat_words
from ui.chat_page import ChatPage
from ui.chat_votes import count_words
from ui.conversation import Conversation, Turn

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


def given(
    page: ChatPage, prompt: str = "37+48", checkpoint: int = 2, second: int = 0, said: Conversation | None = None,
    **changes,
) -> dict:
    values = {"denoising_steps": 8, "block_length": 8, "temperature": 1.0, "remasking": "random", "seed": 3} | changes
    controls = (page.steps, page.block, page.temperature, page.remasking, page.seed)
    return dict(zip(controls, (values[name] for name in chat_page.SETTINGS))) | {
        page.checkpoint: checkpoint, page.checkpoint_b: second, page.prompt: prompt, page.said: said or Conversation(),
        page.held_up: "", page.if_taken: "refuse",
    }


def asked(page: ChatPage, **question) -> tuple[dict, list[dict]]:
    """(the newest update of every component, all updates in their order)."""
    updates = list(page.answer(given(page, **question), REQUEST))
    return {control: value for update in updates for control, value in update.items()}, updates


def answered(page: ChatPage, **question) -> tuple[list[dict], dict]:
    """(events on A's stage at the end, sentences at the fields)."""
    last, _ = asked(page, **question)
    return last.get(page.stage, {"events": []})["events"], last[page.errors]["problems"]


# ---- choosing ----


def test_choices_are_newest_first_and_say_what_they_are(page):
    choices = chat_words.checkpoint_choices(list_runs(page.services.db), all_checkpoints(page.services.db))
    assert [label for label, _ in choices] == [
        "Run 2 \u00b7 step 0 \u00b7 stack_programs, warm start",
        "Run 1 \u00b7 step 5 \u00b7 reward 0.84 \u00b7 adder, evaluation",
        "Run 1 \u00b7 step 0 \u00b7 reward 0.25 \u00b7 adder, warm start",
    ]


@pytest.mark.parametrize(("search", "current", "chosen"), [
    ("?tab=chat&checkpoint=1", None, 1), ("?checkpoint=1", 2, 1), ("?tab=chat", 2, 2), ("", None, 3),
    ("?checkpoint=99", None, 3), ("?checkpoint=-1", 2, 2), ("?checkpoint=<b>", 99, 3),
    ("?checkpoint=" + "9" * 500, 2, 2),
])
def test_the_address_chooses_then_the_last_choice_then_the_newest(search, current, chosen):
    assert chat_words.chosen_id(search, [("c", 3), ("b", 2), ("a", 1)], current) == chosen


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


def test_buttons_are_given_back_once_the_answer_has_ended(page):
    updates = page.answer(given(page), REQUEST)
    first = next(updates)
    assert [first[button]["interactive"] for button in (page.generate, page.stop)] == [False, True]
    assert [update.get("interactive") for update in page.rested("", REQUEST)] == [False, True, None]
    assert not any(page.generate in update for update in updates)
    assert [update["interactive"] for update in page.rested("", REQUEST)[:2]] == [True, False]
    assert page.rested("a", REQUEST)[2]["visible"] and not page.rested("", REQUEST)[2]["visible"]


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
        if page.stage in update:
            stopped = update[page.stage]["events"]
            if stopped[-1]["kind"] == "step" and stopped[-1]["step"] == 3:
                page.stop_pressed(REQUEST)
    assert [event["kind"] for event in stopped][-1] == "stopped"
    assert max(event.get("step", 0) for event in stopped) in (3, 4)
    events, _ = answered(page)
    assert events[-1]["kind"] == "end"


# ---- two checkpoints ----


def test_b_answers_the_same_prompt_from_the_same_noise_after_a(page):
    last, updates = asked(page, second=1)
    a, b = (last[stage]["events"] for stage in (page.stage, page.stage_b))
    assert a[-1]["kind"] == b[-1]["kind"] == "end" and a[-1]["text"] == b[-1]["text"], "they are the same weights"
    assert [event.get("commits") for event in a] == [event.get("commits") for event in b]
    pairs = zip([{}, *updates], updates)
    order = [stage for before, update in pairs for stage in (page.stage, page.stage_b)
             if update.get(stage) != before.get(stage)]
    assert order[0] is page.stage_b and "A" in updates[1][page.stage_b]["events"][0]["text"]  # which waits for A
    assert order[1:] == sorted(order[1:], key=lambda stage: stage is page.stage_b)


def test_what_a_stage_was_given_is_in_every_later_update(page):
    """Else Gradio's difference to the next update takes it away, now and then before the browser has shown it."""
    _, updates = asked(page, second=1)
    for part in (page.stage, page.stage_b, page.errors):
        has = [part in update for update in updates]
        assert has == sorted(has) and has[-1]


def test_a_vote_is_kept_once_and_counted_for_the_pair(page, services):
    last, _ = asked(page, second=1)
    votes = page.votes
    compared = last[votes.compared]
    assert (compared.checkpoint_a, compared.checkpoint_b, compared.prompt) == (2, 1, "37+48")
    assert compared.answer_a == last[page.stage]["events"][-1]["text"] and compared.settings["seed"] == 3
    assert all(last[button]["interactive"] for button in votes.buttons.values())
    after = votes.voted(compared, "a")
    assert after[votes.counts] == "Kept: A is better. A 1 : 0 B" and after[votes.compared] is None
    assert not any(after[button]["interactive"] for button in votes.buttons.values())
    votes.voted(after[votes.compared], "a")
    assert vote_counts(services.db, 2, 1) == Counts(a=1)
    assert page.pair_chosen(1, 2, None)[votes.counts] == "A 0 : 1 B"  # the other way round


def test_the_second_stage_and_the_vote_are_there_only_for_two_checkpoints(page):
    for a, b, shown in ((2, 1, True), (2, 0, False), (2, 2, False), (None, 0, False)):
        update = page.pair_chosen(a, b, None)
        assert {update[part]["visible"] for part in (page.heading, page.second, page.votes.row)} == {shown}
    waiting = asked(page, second=1)[0][page.votes.compared]
    assert page.votes.compared not in page.pair_chosen(2, 1, waiting)  # still the same two: the vote stays open
    assert page.pair_chosen(2, 3, waiting)[page.votes.compared] is None


@pytest.mark.parametrize(("second", "words"), [(2, "same checkpoint as A"), (99, "has been deleted")])
def test_a_second_checkpoint_that_cannot_be_compared_is_a_sentence(page, second, words):
    events, problems = answered(page, second=second)
    assert list(problems) == ["checkpoint_b"] and words in problems["checkpoint_b"] and events == []


def test_a_damaged_second_checkpoint_is_told_at_its_own_field_and_there_is_no_vote(page, services, tmp_path):
    found = add_checkpoint(services.db, 1, 7, "evaluation", str(tmp_path / "gone"))
    last, _ = asked(page, second=found.id)
    assert list(last[page.errors]["problems"]) == ["checkpoint_b"]
    assert last[page.stage]["events"][-1]["kind"] == "end" and last[page.stage_b]["events"][-1]["kind"] == "error"
    assert last[page.votes.compared] is None


def test_b_is_not_asked_when_a_was_stopped(page, monkeypatch):
    monkeypatch.setattr(chat_page, "PUSH_EVERY", 0)
    last: dict = {}
    for update in page.answer(given(page, second=1), REQUEST):
        last |= update
        if page.stage in update and update[page.stage]["events"][-1]["kind"] == "step":
            page.stop_pressed(REQUEST)
    assert last[page.stage]["events"][-1]["kind"] == "stopped"
    assert "was not asked" in last[page.stage_b]["events"][-1]["text"] and last[page.votes.compared] is None


@pytest.mark.parametrize(("counts", "words"), [
    (Counts(), "No votes on this pair yet."), (Counts(3, 1, 2), "A 3 : 1 B, 2 ties"),
    (Counts(0, 0, 1, 2), "A 0 : 0 B, 1 tie, 2 both wrong"),
])
def test_counts_in_words(counts, words):
    assert count_words(counts) == words


# ---- conversations


def newest(updates) -> dict:
    return {control: value for update in updates for control, value in update.items()}


def test_turns_are_kept_replaced_and_begun_anew(page):
    said = asked(page)[0][page.said]
    assert [(turn.asked, set(turn.answers)) for turn in said.turns] == [("37+48", {"a"})]
    said = asked(page, prompt="11+11", said=said)[0][page.said]
    assert [turn.asked for turn in said.turns] == ["37+48", "11+11"]

    editing, prompt, button, note = page.edit_last(said, 2)
    assert prompt == "11+11" and button["value"] == "Keep last" and note["value"] == "The next answer replaces turn 2."
    assert page.edit_last(editing, 2)[0] == said, "pressed again, it stays"
    last = asked(page, prompt="12+12", said=editing)[0]
    assert [turn.asked for turn in last[page.said].turns] == ["37+48", "12+12"] and last[page.stage]["turn"] == 1

    again = newest(page.answer_again(given(page, prompt="", said=last[page.said]), REQUEST))
    assert [turn.asked for turn in again[page.said].turns] == ["37+48", "12+12"] and again[page.seed] != 3
    assert again[page.stage]["events"][-1]["kind"] == "end"
    assert f"seed {again[page.seed]}" in again[page.stage]["settings"]

    fresh = page.begun_anew(2)
    assert fresh[page.said] == Conversation() and fresh[page.stage]["events"][0] == {"kind": "clear"}
    assert "on its own" in fresh[page.note]["value"]


def test_each_side_goes_on_with_its_own_answers_and_one_that_joins_reads_the_other():
    said = Conversation((Turn("1", "one", {"a": "A1"}), Turn("2", "two"), Turn("3", "three", {"a": "A3", "b": "B3"})))
    assert said.earlier("a") == ["one", "A1", "three", "A3"] and said.earlier("b") == ["one", "A1", "three", "B3"]
    assert replace(said, replacing=True).earlier("a") == ["one", "A1"]


def test_a_stopped_turn_stays_visible_and_is_not_read(page, monkeypatch):
    monkeypatch.setattr(chat_page, "PUSH_EVERY", 0)
    last: dict = {}
    for update in page.answer(given(page), REQUEST):
        last |= update
        if page.stage in update and update[page.stage]["events"][-1]["kind"] == "step":
            page.stop_pressed(REQUEST)
    assert last[page.said].turns[0].asked == "37+48" and last[page.said].earlier("a") == []


# ---- a published layout, its own data, a card that a run holds

CARD = Gpu("GPU-1", "NVIDIA H100", 80 * 2**30, 0)


@pytest.fixture
def llada(services, tmp_path) -> tuple[ChatPage, Checkpoint]:
    """A page over a checkpoint in LLaDA's layout, whose run reads pens.jsonl, on a machine with one card."""
    data = tmp_path / "pens.jsonl"
    rows = [{"question": f"How many are {n} pens?", "answer": f"#### {n}"} for n in range(99)]
    data.write_text("\n".join(map(json.dumps, rows)))
    config = TrainConfig.parse({
        "task": "gsm8k", "data": str(data), "model": "llada", "model_path": "a/b", "warmup_steps": 0,
        "completion_length": 16, "denoising_steps": 8, "block_length": 8,
    })
    run = create_run(services.db, name="pens", config_json=config.to_json(), train_steps=60, status="stopped",
                     runs_folder=services.runs_folder)
    save_checkpoint(tmp_path / "step", load(published.llada(tmp_path / "published"), "llada"),
                    TrainingState("training", 5, 1.0, 1), None)
    found = add_checkpoint(services.db, run.id, 5, "evaluation", str(tmp_path / "step"), 0.5)
    chat = Chat(seats=Seats(lambda: leases(services.db), lambda: [CARD]))
    with gr.Blocks(), gr.Tabs(), gr.Tab("Chat"):
        yield ChatPage(replace(services, chat=chat)), found
    chat.close()


def test_a_published_model_talks_about_its_runs_own_problems_and_is_judged(llada, services, new_run):
    page, checkpoint = llada
    holder = new_run()
    assert lease_if_free(services.db, holder, [CARD.uuid])
    _, examples, others, *_ = page.checkpoint_chosen(checkpoint.id, "")
    assert "Reading" in examples["label"] and not others["visible"]
    examples, others, _ = page.examples_read(checkpoint.id, 0)
    questions = [sample[0] for sample in examples["samples"]]
    assert len(questions) == 6 and all(question.startswith("How many are") for question in questions)
    assert page.examples_read(checkpoint.id, 1)[0]["samples"] != examples["samples"]
    form = given(page, questions[0], checkpoint.id, seed=1)

    taken = newest(page.answer(form, REQUEST))
    assert taken[page.held_up] == "a" and page.said not in taken
    sentence = taken[page.stage]["events"][-1]["text"]
    assert sentence == f"Run {holder.id} holds GPU 0 (NVIDIA H100). Run {holder.id} is at step 0 of 60."

    first = newest(page.answer_on_cpu(form, REQUEST))
    start, *_, end = [event for event in first[page.stage]["events"] if event["kind"] != "loading"]
    assert start["device"] == "the CPU" and end["verdict"]["reward"] == 0 and end["verdict"]["parts"]
    assert first[page.prompt] == "" and "whole conversation" in first[page.note]["value"]
    second = newest(page.answer_on_cpu(given(page, "Why?", checkpoint.id, said=first[page.said]), REQUEST))
    start, *_, end = [event for event in second[page.stage]["events"] if event["kind"] != "loading"]
    assert start["turns"] == 1 and questions[0] in "".join(start["prompt_tokens"]).replace("\u2423", " ")
    assert end["verdict"] is None and "no problem of the task" in end["unjudged"]


def test_waiting_for_the_card_says_what_for_and_is_cancelled(llada, services, new_run):
    page, checkpoint = llada
    assert lease_if_free(services.db, new_run(), [CARD.uuid])
    said, last = [], {}
    for update in page.answer_when_free(given(page, "How many?", checkpoint.id), REQUEST):
        last |= update
        if page.stage in update:
            said.append(update[page.stage]["events"][-1].get("text", ""))
            if said[-1].startswith("Waiting."):
                page.stop_pressed(REQUEST)
    assert "Waiting. Run 2 holds GPU 0 (NVIDIA H100). Run 2 is at step 0 of 60." in said
    assert last[page.stage]["events"][-1]["kind"] == "stopped"
    assert page.said not in last and last[page.prompt] == "How many?"
