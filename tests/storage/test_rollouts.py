"""Rollouts: read by step, group and prompt; any text searched; written twice without harm; gone with the run."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select, text

from storage.metrics import flush
from storage.rollouts import (
    Group,
    Rollout,
    StepOfGroups,
    group_of,
    groups_of,
    last_rollout_step,
    prompt_through_training,
    rollout_id,
    rollout_steps,
    rollouts_of_step,
    run_range,
    trace_of,
    whole_rollouts,
)
from storage.runs import delete_run
from storage.search import LONGEST, search_rollouts
from storage.tables import rollout, rollout_group

TRACE = json.dumps([[1, 0, "0", 0.5], [2, 1, "8", 0.25]])


def made(step, problem, index, completion="085", reward=0.0, prompt=None, parts=None, **more):
    values = {
        "prompt": prompt or f"{problem}+{step}", "expected": "085", "advantage": 0.5, "tokens": 3,
        "reason": "wrong", "parts": {"correct": reward} if parts is None else parts, "trace": TRACE,
    }
    solved = {"solved": reward == 1.0} | more
    return Rollout(step, problem, index, completion=completion, reward=reward, **values | solved)


def group(step, problem, rewards, **more):
    """Completions of one problem with these rewards."""
    return [made(step, problem, index, reward=reward, **more) for index, reward in enumerate(rewards)]


def found(db, run_id, looked_for, **more):
    return [item.completion for item in search_rollouts(db, run_id, looked_for, **more)[0]]


def test_a_step_is_read_by_reward_and_by_group(db, new_run):
    id = new_run().id
    written = [*group(1, 0, [0.0, 1.0, 0.25]), *group(1, 1, [0.5, None])]
    flush(db, id, [], rollouts=written)
    flush(db, id, [], rollouts=group(2, 0, [1.0]))
    by_reward = rollouts_of_step(db, id, 1)
    assert [(r.problem_index, r.completion_index, r.reward) for r in by_reward] == [
        (0, 1, 1.0), (1, 0, 0.5), (0, 2, 0.25), (0, 0, 0.0), (1, 1, None),
    ]
    assert {r.trace for r in by_reward} == {""}  # lists do not carry them
    assert whole_rollouts(db, id, limit=5)[0] == written
    assert [r.reward for r in rollouts_of_step(db, id, 1, order="group")] == [0.0, 1.0, 0.25, 0.5, None]
    assert trace_of(db, id, 1, 1, 0) == TRACE
    assert trace_of(db, id, 1, 1, 7) is None
    assert last_rollout_step(db, id) == 2
    assert group_of(db, id, 1, 1) == [r for r in rollouts_of_step(db, id, 1, order="group") if r.problem_index == 1]


def test_groups_without_a_signal_are_told_apart(db, new_run):
    id = new_run().id
    both = [made(3, 3, 0, parts={"format": 1.0, "correct": 0.0}, reward=0.5), made(3, 3, 1, reward=0.5)]
    form = [made(3, 4, index, parts={"tags": 1.0}, reward=2.0 - index, solved=False) for index in range(2)]
    best = [made(3, 5, index, reward=0.5, parts={}, solved=True) for index in range(2)]  # a task's own idea of right
    flush(db, id, [], rollouts=[*group(3, 0, [1.0, 1.0]), *group(3, 1, [0.0, 0.0]), *group(3, 2, [0.0, 1.0]), *both])
    flush(db, id, [], rollouts=[*form, *best])

    def kinds(kind):
        return [item.problem_index for item in groups_of(db, id, kind=kind)]

    assert (kinds("right"), kinds("wrong"), kinds("mixed"), kinds("disagree")) == ([5, 0], [4, 3, 1], [2], [3])
    assert kinds("flat") == [5, 3, 1, 0]
    assert kinds("any") == [5, 4, 3, 2, 1, 0]
    assert {r.problem_index for r in rollouts_of_step(db, id, 3, kind="wrong")} == {1, 3, 4}
    assert groups_of(db, id, kind="mixed") == [Group(3, 2, "2+3", "085", 2, 0.0, 0.5, 1.0, 1, 0)]
    assert rollout_steps(db, id) == [StepOfGroups(3, 6, 2, 3, 4.0 / 6)]
    with pytest.raises(ValueError, match="unknown kind of group 'odd'; available: any, right, mixed, wrong, flat"):
        groups_of(db, id, kind="odd")


def test_pages_of_groups_go_on_without_a_gap(db, new_run):
    id = new_run().id
    flush(db, id, [], rollouts=[made(step, problem, 0) for step in range(6) for problem in range(3)])
    seen, before = [], None
    while page := groups_of(db, id, before_step=before, limit=4):
        seen += [(item.step, item.problem_index) for item in page]
        before = page[-1].step
    assert seen == [(step, problem) for step in range(5, -1, -1) for problem in (2, 1, 0)]


def test_a_prompt_is_followed_through_training(db, new_run):
    id, other = new_run().id, new_run().id
    for step, reward in ((1, 0.0), (5, 0.5), (9, 1.0)):
        flush(db, id, [], rollouts=group(step, step % 4, [reward], prompt="37+48\ud800"))
        flush(db, other, [], rollouts=group(step, 0, [0.0], prompt="37+48\ud800"))
    line = prompt_through_training(db, id, "37+48\ud800")
    assert [(item.step, item.best) for item in line] == [(1, 0.0), (5, 0.5), (9, 1.0)]
    assert prompt_through_training(db, id, "37+49") == []


def test_writing_again_replaces_and_a_group_may_come_in_two_batches(db, new_run):
    id = new_run().id
    whole = group(4, 2, [0.0, 1.0, 1.0, 0.0])
    flush(db, id, [], rollouts=whole[:3])
    flush(db, id, [], rollouts=whole[3:])
    flush(db, id, [], rollouts=whole)
    assert groups_of(db, id)[0] == Group(4, 2, "2+4", "085", 4, 0.0, 0.5, 1.0, 2, 0)
    flush(db, id, [], rollouts=[made(4, 2, 1, completion="other text", reward=0.25)])
    assert groups_of(db, id)[0].best == 1.0
    assert found(db, id, "other text") == ["other text"]
    assert len(found(db, id, "085")) == 3  # the index has forgotten the replaced one


@pytest.mark.parametrize("looked_for, expected", [
    ("Sum", ["The SUM is 85", "a sum"]), ("um", ["The SUM is 85", "a sum"]), ("100%", ["100% of 5_0"]),
    ("5_", ["100% of 5_0"]), ("%", ["100% of 5_0"]), ("_", ["100% of 5_0"]),
    ('say "', ['say "x" AND NOT y*']), ("AND NOT", ['say "x" AND NOT y*']),
    ("y*", ['say "x" AND NOT y*']), ("a/b", ["a/b \\ (c)"]), ("\\ (c)", ["a/b \\ (c)"]), ("/", ["a/b \\ (c)"]),
    ("naïve", ["naïve ↯ 算术"]), ("算术", ["naïve ↯ 算术"]), ("", []), ("not there", []), ("a\x00", []),
])
def test_a_text_is_looked_for_letter_by_letter(db, new_run, looked_for, expected):
    id, other = new_run().id, new_run().id
    texts = ["a sum", "The SUM is 85", "100% of 5_0", 'say "x" AND NOT y*', "a/b \\ (c)", "naïve ↯ 算术", ""]
    flush(db, id, [], rollouts=[made(1, 0, index, completion=written) for index, written in enumerate(texts)])
    flush(db, other, [], rollouts=[made(1, 0, 0, completion="the sum, 100% \" y* a/b naïve 算术 _")])
    assert found(db, id, looked_for) == expected


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.one_of(st.sampled_from('"*():^-+{}\'\\%_/ANDORNEAR \x00\ud800'), st.characters()), max_size=12))
def test_no_text_is_a_syntax_error(one_run, looked_for):
    db, id = one_run
    search_rollouts(db, id, looked_for)


@pytest.fixture
def one_run(db, new_run):
    id = new_run().id
    flush(db, id, [], rollouts=[made(1, 0, 0, completion="anything")])
    return db, id


def test_whatever_was_written_is_found_by_any_part_of_it(db, new_run):
    id, random_ = new_run().id, random.Random(5)
    alphabet = 'ab"*(%_ é\n算'
    texts = ["".join(random_.choices(alphabet, k=30)) for _ in range(40)]
    flush(db, id, [], rollouts=[made(1, 0, index, completion=written) for index, written in enumerate(texts)])
    for written in texts:
        start = random_.randrange(20)
        part = written[start : start + random_.randint(1, 10)]
        assert set(found(db, id, part, limit=100)) == {t for t in texts if part in t}


def test_found_completions_come_newest_first_in_pages(db, new_run):
    id = new_run().id
    flush(db, id, [], rollouts=[made(step, 0, 0, completion=f"carry {step}") for step in range(10)])
    first, more = search_rollouts(db, id, "carry", limit=4)
    assert [item.step for item in first] == [9, 8, 7, 6]
    rest, end = search_rollouts(db, id, "carry", before=more, limit=6)
    assert ([item.step for item in rest], end) == ([5, 4, 3, 2, 1, 0], None)
    with pytest.raises(ValueError, match=f"has {LONGEST + 1} characters; give at most {LONGEST}"):
        search_rollouts(db, id, "x" * (LONGEST + 1))


def test_all_runs_are_searched_at_once(db, new_run):
    ids = [new_run().id for _ in range(2)]
    for id in ids:
        flush(db, id, [], rollouts=[made(1, 0, 0, completion=f"run {id}")])
    assert found(db, None, "run ") == [f"run {id}" for id in reversed(ids)]


@pytest.mark.parametrize("odd", [
    "NUL \x00 here", "half \ud83d a pair", "\u202eright to left", "\x1b[31mred", "x" * 10**6, "\n" * 10**5,
], ids=["NUL", "surrogate", "RTL", "ANSI", "1 MB line", "100k lines"])
def test_odd_text_is_stored_and_found(db, new_run, odd):
    id = new_run().id
    parts = {"a\x00": float("nan"), "b": float("inf"), "c": 1}
    flush(db, id, [], rollouts=[made(1, 0, 0, completion=odd + "tail", parts=parts, reason=odd[:100])])
    (row,) = search_rollouts(db, id, "tail")[0]
    assert row.completion.endswith("tail") and len(row.completion) == len(odd) + 4
    assert row.parts == {"a\N{REPLACEMENT CHARACTER}": None, "b": None, "c": 1.0}


def test_a_deleted_run_leaves_neither_rollouts_nor_index(db, new_run, monkeypatch):
    monkeypatch.setattr("storage.rollouts._DELETED_AT_ONCE", 7)
    id, other = new_run().id, new_run().id
    for each in (id, other):
        written = [made(step, 0, index, completion="0185") for step in range(5) for index in range(3)]
        flush(db, each, [], rollouts=written)
    delete_run(db, id)
    with db.read() as connection:
        assert connection.scalar(select(func.count()).select_from(rollout)) == 15
        assert connection.scalar(select(func.count()).select_from(rollout_group)) == 5
    assert len(found(db, None, "0185")) == 15
    if db.path:
        with db.write() as connection:  # raises when the index and the table differ
            connection.execute(text("INSERT INTO rollout_text(rollout_text, rank) VALUES ('integrity-check', 1)"))


def test_numbers_keep_the_order_of_training_and_never_meet():
    places = [(run, step, problem, index) for run in (1, 2, 2**21 - 1) for step in (0, 7, 2**20 - 1)
              for problem in (0, 4095) for index in (0, 1023)]  # fmt: skip
    numbers = [rollout_id(*place) for place in places]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] < 2**63
    assert run_range(2) == (rollout_id(2), rollout_id(3) - 1)
    for place in ((2**21, 0, 0, 0), (1, 2**20, 0, 0), (1, 0, 4096, 0), (1, 0, 0, 1024), (1, -1, 0, 0)):
        with pytest.raises(ValueError, match="is not below"):
            rollout_id(*place)
