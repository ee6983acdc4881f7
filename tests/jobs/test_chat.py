"""Chat over a real checkpoint: events, sameness, refusals, giving the model back."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from bgpo.jobs.chat import Chat, ChatError
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from tests.waiting import PATIENCE, wait_until

SETTINGS = {
    "completion_length": 8, "denoising_steps": 4, "block_length": 4, "temperature": 1.0, "remasking": "low_confidence",
    "seed": 3,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("chat") / "step-000000"
    model = build_tiny(torch.Generator().manual_seed(0))
    save_checkpoint(folder, model, TrainingState("training", 0, 0.0, 1), None)
    return str(folder)


@pytest.fixture
def chat():
    chat = Chat()
    yield chat
    chat._hold()


def ask(chat, checkpoint, prompt="37+48", **changes) -> list[dict]:
    return list(chat.answer(checkpoint, "adder", prompt, SETTINGS | changes))


def test_events_tell_the_whole_story(chat, checkpoint):
    start, *steps, end = ask(chat, checkpoint)
    assert start["kind"] == "start" and start["prompt_tokens"] == list("37+48") and start["steps"] == 4
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    committed: dict[int, str] = {}
    for step in steps:
        for position, piece, confidence in step["commits"]:
            assert position not in committed and 0 < confidence <= 1
            committed[position] = piece
        block = range(0, 4) if step["step"] <= 2 else range(4, 8)
        assert {position for position, _, _ in step["ghosts"]} == set(block) - set(committed)
    assert set(committed) == set(range(8))
    text = "".join(committed[i] for i in range(8)).split("<eos>")[0]
    assert end["kind"] == "end" and end["text"] == text and end["nfe"] == 4
    assert end["verdict"]["reward"] in (0.0, 1.0) and end["verdict"]["reason"]
    json.dumps([start, *steps, end], allow_nan=False)


def test_adaptive_schedules_caches_and_guidance_are_heard(chat, checkpoint):
    sure = {"schedule": "threshold", "confidence_threshold": 0.01}
    steps = ask(chat, checkpoint, **sure, cache="dual", denoising_steps=3)[1:-1]
    assert [len(step["commits"]) for step in steps] == [4, 4], "every token is surer than 0.01, block by block"
    guided, plain = (ask(chat, checkpoint, cfg_scale=scale)[1]["commits"] for scale in (4, 0))
    assert guided != plain


def test_same_seed_same_answer(chat, checkpoint):
    def answer(seed):
        return [event.get("commits") for event in ask(chat, checkpoint, seed=seed)]

    assert answer(3) == answer(3) != answer(4)


def test_a_prompt_that_states_no_problem_is_answered_without_a_verdict(chat, checkpoint):
    assert ask(chat, checkpoint, prompt="abc")[-1]["verdict"] is None


@pytest.mark.parametrize("changes, field", [
    ({"denoising_steps": 3}, "denoising_steps"), ({"denoising_steps": 9, "block_length": 8}, "denoising_steps"),
    ({"block_length": 3}, "block_length"), ({"temperature": float("nan")}, "temperature"),
    ({"temperature": -1}, "temperature"), ({"seed": 1.5}, "seed"), ({"seed": None}, "seed"),
    ({"remasking": "<b>"}, "remasking"), ({"schedule": "<b>"}, "schedule"), ({"cache": "block_causal"}, "cache"),
    ({"cfg_scale": -1}, "cfg_scale"), ({"confidence_threshold": 2}, "confidence_threshold"),
    ({"completion_length": 4096, "block_length": 4096, "denoising_steps": 4096}, "completion_length"),
    ({"completion_length": "8"}, None), ({"prompt": "  "}, "prompt"), ({"prompt": "é+1"}, "prompt"),
    ({"prompt": "1+" * 50}, "prompt"),
])
def test_refusals_name_the_field(chat, checkpoint, changes, field):
    if field is None:
        assert ask(chat, checkpoint, **changes)
        return
    with pytest.raises(ChatError) as refused:
        ask(chat, checkpoint, **changes)
    assert refused.value.field == field and str(refused.value).endswith(".")
    assert ask(chat, checkpoint), "a refusal must not block the next question"


def test_a_folder_that_is_no_checkpoint_is_a_sentence(chat, tmp_path):
    with pytest.raises(ChatError, match="Choose another one"):
        ask(chat, str(tmp_path))


def test_stop_ends_it_between_steps(chat, checkpoint):
    events = list(chat.answer(checkpoint, "adder", "37+48", SETTINGS, stopped=lambda: True))
    assert [event["kind"] for event in events] == ["start", "step"]


def test_two_questions_take_turns_and_an_abandoned_one_lets_go(chat, checkpoint):
    first = chat.answer(checkpoint, "adder", "37+48", SETTINGS)
    next(first)
    done = threading.Event()
    other = threading.Thread(target=lambda: (ask(chat, checkpoint), done.set()))
    other.start()
    assert not done.wait(0.3)
    first.close()
    assert done.wait(PATIENCE)
    other.join()


def test_the_model_is_given_back_when_idle(checkpoint):
    chat = Chat(idle_seconds=0.05)
    ask(chat, checkpoint)
    wait_until(lambda: chat.loaded_checkpoint is None, "the model to be given back")
