"""Chat over a real checkpoint: events, sameness, refusals, giving the model back."""

from __future__ import annotations

import json
import threading

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.jobs import chat as chat_module
from bgpo.jobs.chat import Chat, ChatError
from bgpo.jobs.chat_devices import CPU, GPU, WAIT, GpuTaken, Seat, Seats, pool_of
from bgpo.jobs.devices import Gpu
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.loading import load
from bgpo.models.tiny import build_tiny
from storage.queue import Lease
from tests.models import published
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
    chat.close()


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
    ({"stop_at_eos": 1}, "stop_at_eos"),
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
    wait_until(lambda: not chat.loaded_checkpoints, "the model to be given back")


def test_an_answer_that_is_let_go_of_when_all_is_over_starts_nothing(checkpoint):
    """Such as at the interpreter's end, which would wait for ever for a thread that is started then."""
    chat = Chat()
    events = chat.answer(checkpoint, "adder", "37+48", SETTINGS)
    next(events)
    before = set(threading.enumerate())
    chat.close()
    events.close()
    assert set(threading.enumerate()) <= before


# ---- turns


@pytest.fixture(scope="module")
def llada(tmp_path_factory) -> str:
    """A checkpoint in LLaDA's layout, random weights, 256 tokens of prompt and completion."""
    folder = tmp_path_factory.mktemp("llada")
    save_checkpoint(folder / "step", load(published.llada(folder / "published"), "llada"),
                    TrainingState("training", 0, 0.0, 1), None)
    return str(folder / "step")


def talk(chat, folder, message, earlier=(), **changes) -> list[dict]:
    settings = SETTINGS | {"completion_length": 16, "denoising_steps": 8, "block_length": 8} | changes
    return list(chat.answer(folder, "gsm8k", message, settings, earlier=earlier))


def test_earlier_turns_are_read_by_a_chat_model_and_told(chat, llada):
    start, *_, end = talk(chat, llada, "And 1 more?", ["What is 1+1?", "It is 2."])
    said = "".join(start["prompt_tokens"])
    assert said.index("What is 1+1?") < said.index("It is 2.") < said.index("And 1 more?")
    assert (start["turns"], start["turns_left_out"], start["prompt"]) == (1, 0, "And 1 more?")
    assert end["tokens"] <= 16 and end["nfe"] <= 8 and end["seconds"] > 0 and end["verdict"] is None
    assert {"<|endoftext|>", "<|eot_id|>"} == set(start["ends"])


def test_the_oldest_turns_are_left_out_when_they_do_not_fit(chat, llada):
    earlier = [text for number in range(6) for text in (f"Question {number} about pens", f"Answer {number} is so")]
    start = talk(chat, llada, "And now?", earlier)[0]
    said = "".join(start["prompt_tokens"])
    assert start["turns"] + start["turns_left_out"] == 6 and start["turns"] > 0 < start["turns_left_out"]
    assert "Question 5" in said and "Question 0" not in said
    with pytest.raises(ChatError, match="takes up to 240"):
        talk(chat, llada, "x" * 2000, earlier)


def test_the_built_in_model_reads_each_message_on_its_own(chat, checkpoint):
    alone = ask(chat, checkpoint)
    told = list(chat.answer(checkpoint, "adder", "37+48", SETTINGS, earlier=["1+1", "002"]))
    assert told[0]["prompt_tokens"] == alone[0]["prompt_tokens"] and told[-1]["text"] == alone[-1]["text"]
    assert (told[0]["turns"], told[0]["turns_left_out"]) == (0, 1)


def test_an_ended_answer_is_filled_up_and_what_was_filled_is_told(chat, checkpoint):
    for seed in range(100):  # until one ends in its first block
        ended = ask(chat, checkpoint, seed=seed)
        if any(step["filled"] for step in ended[1:-1]):
            break
    filled = {place: token for step in ended[1:-1] for place, token, _ in step["filled"]}
    written = {commit[0] for step in ended[1:-1] for commit in step["commits"]}
    assert filled == dict.fromkeys(range(4, 8), "<eos>") and written == set(range(4)) and ended[-1]["nfe"] == 2
    whole = ask(chat, checkpoint, seed=seed, stop_at_eos=False)
    assert not any(step["filled"] for step in whole[1:-1]) and whole[-1]["nfe"] == 4
    assert whole[-1]["text"] == ended[-1]["text"]


# ---- devices

CARD = Gpu("GPU-1", "NVIDIA H100", 80 * 2**30, 0)


def test_the_free_card_is_chosen_and_one_that_a_run_or_others_hold_is_not():
    second, crowded = Gpu("GPU-2", "A100", 2**30, 0), Gpu("GPU-3", "A100", 2**30, 2**29, None, ((1, 2**29),))
    held = [Lease("GPU-1", 7, 1, 0.0)]
    assert Seats(lambda: held, lambda: [CARD, second]).choose(GPU) == Seat(GPU, "GPU-2", "GPU 1 (A100)")
    assert Seats(list, lambda: [CARD, second]).choose(GPU, last="GPU-2").uuid == "GPU-2"
    assert Seats(list, list).choose(GPU) == Seat(CPU) and Seats(list, lambda: [CARD]).pool(CPU) == CPU
    with pytest.raises(GpuTaken) as taken:
        Seats(lambda: held, lambda: [CARD, crowded]).choose(GPU)
    assert taken.value.runs == (7,)
    assert str(taken.value) == "Run 7 holds GPU 0 (NVIDIA H100). Programs of others hold GPU 1 (A100)."


def test_checkpoints_answer_where_their_run_computes():
    published_run = {"task": "gsm8k", "model": "llada", "model_path": "a/b", "warmup_steps": 0}
    assert pool_of(TrainConfig.parse({})) == CPU and pool_of(TrainConfig.parse(published_run)) == GPU
    assert pool_of(TrainConfig.parse(published_run | {"device": "cpu"})) == CPU


class CpuCard(Seats):
    """A card that computes on the CPU: everything but CUDA is real."""

    def choose(self, pool, last=""):
        seat = super().choose(pool, last)
        object.__setattr__(seat, "torch_device", lambda: "cpu")
        return seat


@pytest.fixture
def card(monkeypatch):
    """(a chat over one card, the leases of runs)."""
    monkeypatch.setattr(chat_module, "LOOK_EVERY", 0.01)
    held: list[Lease] = []
    chat = Chat(seats=CpuCard(lambda: held, lambda: [CARD]))
    yield chat, held
    chat.close()


def on_card(chat, checkpoint, **more):
    return chat.answer(checkpoint, "adder", "37+48", SETTINGS, pool=GPU, **more)


def test_a_question_waits_for_a_card_that_a_run_holds_and_may_be_cancelled(card, checkpoint):
    chat, held = card
    held.append(Lease("GPU-1", 7, 1, 0.0))
    with pytest.raises(GpuTaken, match="Run 7 holds GPU 0"):
        list(on_card(chat, checkpoint))
    waiting = on_card(chat, checkpoint, if_taken=WAIT)
    told = next(waiting)
    assert (told["kind"], told["runs"], told["ahead"]) == ("waiting", [7], 0)
    left = list(on_card(chat, checkpoint, if_taken=WAIT, stopped=lambda: True))
    assert [event["ahead"] for event in left] == [1], "it is behind the first, and cancelled"
    assert next(on_card(chat, checkpoint, if_taken=CPU))["device"] == "the CPU", "which answers meanwhile"
    held.clear()
    made = [event for event in waiting if event["kind"] != "waiting"]
    assert made[0]["device"] == "GPU 0 (NVIDIA H100)" and made[-1]["kind"] == "end"


def test_a_card_that_a_run_has_taken_is_given_back_at_once_and_each_device_has_its_own_model(card, checkpoint):
    chat, held = card
    ask(chat, checkpoint)
    list(on_card(chat, checkpoint))
    chat.give_way()
    models = [pool.model for pool in chat._pools.values()]
    assert None not in models and models[0] is not models[1]
    held.append(Lease("GPU-1", 7, 1, 0.0))
    chat.give_way()
    assert [pool.model is None for pool in chat._pools.values()] == [False, True]
