"""Completions: model text comes back as it was written, except what no database can hold."""

from dataclasses import replace

from storage.completions import Completion, completions_of
from storage.metrics import flush

SHOWN = Completion(0, "held_out", 0, "12+34=", "64", "46", 0.5, "one digit is right", "[[1, 0, 6, 0.9]]")


def test_completions_come_by_step_and_index_and_after_a_step(db, new_run):
    id = new_run().id
    later = [replace(SHOWN, step=5, index=index) for index in (1, 0)]
    flush(db, id, [], later)
    flush(db, id, [], [SHOWN])
    assert [(c.step, c.index) for c in completions_of(db, id)] == [(0, 0), (5, 0), (5, 1)]
    assert [(c.step, c.index) for c in completions_of(db, id, after_step=0)] == [(5, 0), (5, 1)]
    assert completions_of(db, id + 1) == []


def test_a_completion_written_again_is_replaced(db, new_run):
    id = new_run().id
    flush(db, id, [], [SHOWN])
    flush(db, id, [], [replace(SHOWN, completion="46", reward=1.0)])
    assert completions_of(db, id) == [replace(SHOWN, completion="46", reward=1.0)]


def test_hostile_model_text_is_kept(db, new_run):
    id = new_run().id
    text = "<img src=x onerror=alert(1)>\x00\ud800 ${1+1} {{ 7*7 }} \x1b[31m \u202e'; DROP TABLE completion;--\n" * 1000
    flush(db, id, [], [replace(SHOWN, completion=text, reward=float("nan"))])
    (stored,) = completions_of(db, id)
    assert stored.completion == text.replace("\x00", "\ufffd").replace("\ud800", "\ufffd")
    assert stored.reward is None
