"""What a row from elsewhere may hold: what pages can show, and nothing else comes in."""

from __future__ import annotations

import pytest

from storage.alerts import Alert
from storage.checkpoints import Checkpoint
from storage.completions import Completion
from storage.imports import KEPT, kept_of, row_of
from storage.metrics import Point
from storage.rollouts import Rollout
from storage.runs import RunEvent

INF, NAN = float("inf"), float("nan")
RUN = {"created_at": 1.5, "started_at": None, "finished_at": 2, "step": 3, "seconds": 0.5, "reason": "",
       "failure_kind": "nan"}  # fmt: skip
TRACE = '[[1, 0, "a", 0.5], [0, 1, "", null]]'
GOOD = [
    Point("reward/mean", 1, 0.5, None),
    RunEvent(1.0, "user", "", "queued", "created", None),
    Alert(1, "collapse", "serious", "It fell.", 1.0),
    Checkpoint(1, 1, 15, "stop", "step-000015", 1.0, None, True),
    Completion(2, "held_out", 0, "", "a\nb", "", 1.0, "", TRACE, None),
    Rollout(2, 0, 1, "", "a\nb", "", None, 0.5, 1, "", {"right": 1, "short": None}, "", False),
]
WRONG = {
    Point: [
        ("step", "abc"), ("step", -1), ("step", 1.5), ("step", 2**31), ("step", True), ("step", [1]), ("seconds", INF),
        ("seconds", "x"), ("seconds", None), ("seconds", -1), ("value", "x"), ("value", NAN), ("value", 10**400),
        ("value", True), ("metric", 5), ("metric", ""), ("metric", "m" * 201), ("metric", "a\x1b[31m"),
    ],
    RunEvent: [("time", "abc"), ("time", 1e300), ("time", None), ("why", 5), ("step", "q"), ("who", None)],
    Alert: [("time", "x"), ("time", INF), ("message", None), ("step", -1)],
    Checkpoint: [("reward", "abc"), ("reward", INF), ("step", "x"), ("step", 2**70), ("pinned", 2)],
    Completion: [
        ("kind", None), ("reward", "much"), ("solved", 5), ("trace", 5), ("trace", "not json"), ("trace", "{}"),
        ("trace", "[[1]]"), ("trace", '[["1", 0, "a", 0.5]]'), ("trace", '[[1, 0, "a", NaN]]'),
        ("trace", '[[1, 99999999, "a", 1]]'), ("trace", '[[1, 0, 7, 1]]'), ("trace", "[" * 100_000),
    ],
    Rollout: [
        ("reward", NAN), ("advantage", "x"), ("tokens", None), ("solved", "yes"), ("parts", [1]), ("parts", {"a": "b"}),
        ("parts", {"a": INF}), ("trace", None),
    ],
}
WRONG_RUN = [
    ("created_at", INF), ("created_at", "abc"), ("created_at", None), ("created_at", 1e300), ("started_at", "abc"),
    ("finished_at", -1), ("step", [1]), ("step", 2**70), ("step", None), ("seconds", NAN), ("seconds", "abc"),
    ("reason", 5), ("failure_kind", "<b>"), ("failure_kind", ["nan"]), ("failure_kind", None),
]


def values(item) -> dict:
    return item._asdict() if isinstance(item, Point) else dict(vars(item))


@pytest.mark.parametrize("item", GOOD, ids=lambda item: type(item).__name__)
def test_what_is_kept_comes_back(item):
    assert row_of(type(item), values(item) | {"more": "of a later version"}) == item


@pytest.mark.parametrize("item, name, value", [
    (item, name, value) for item in GOOD for name, value in WRONG[type(item)]
], ids=lambda value: f"{value!r:.20}")  # fmt: skip
def test_a_value_that_no_page_could_show(item, name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* is not ") as refused:
        row_of(type(item), values(item) | {name: value})
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("item", GOOD, ids=lambda item: type(item).__name__)
def test_a_row_that_is_none(item):
    name = next(iter(values(item)))
    with pytest.raises(ValueError, match=f"{name} is missing"):
        row_of(type(item), {key: value for key, value in values(item).items() if key != name})
    with pytest.raises(ValueError, match=r"\[1\] is no object"):
        row_of(type(item), [1])


@pytest.mark.parametrize("name, value", WRONG_RUN)
def test_a_run_that_no_list_could_show(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* is not "):
        kept_of(RUN | {name: value})


def test_a_run_needs_all_that_is_kept_of_it():
    assert kept_of(RUN | {"pid": 1}) == RUN
    for name in KEPT:
        with pytest.raises(ValueError, match=f"{name} is missing"):
            kept_of({key: value for key, value in RUN.items() if key != name})


def test_sentences_are_plain_lines():
    """They are printed in terminals, which obey what they are told."""
    bad, plain = "a\n 9 \x1b]0;b\x07\u202e" + "y" * 9000, "a 9 ]0;b " + "y" * 9000
    event = row_of(RunEvent, values(GOOD[1]) | {"why": bad, "who": bad})
    alert = row_of(Alert, values(GOOD[2]) | {"message": bad, "name": bad})
    said = {event.why, event.who, alert.message, alert.name, kept_of(RUN | {"reason": bad})["reason"]}
    assert said == {plain[:2000]}
