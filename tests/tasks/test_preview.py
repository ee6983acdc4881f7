"""What a page shows of a task before a run: real problems, and the grader on a typed text."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.tasks.base import TaskError
from bgpo.tasks.preview import preview, try_grader
from tests.tasks.published import GSM8K, write


def config(**knobs) -> TrainConfig:
    return TrainConfig().model_copy(update=knobs)


def test_problems_of_a_file_with_their_answers(tmp_path):
    given = config(task="gsm8k", data=str(write(tmp_path / "mine.jsonl", GSM8K)))
    seen = preview(given, 4)
    assert len(seen.problems) == 4 and sum(seen.sizes.values()) == len(GSM8K)
    assert seen.problems[:2] == preview(given, 2).problems, "fewer are the first of more"
    for problem in seen.problems:
        assert try_grader(given, problem.index, f"so \\boxed{{{problem.expected}}}").solved
        wrong = try_grader(given, problem.index, "so \\boxed{-1}")
        assert not wrong.solved and wrong.total == 0 and problem.expected in wrong.reason and "correct" in wrong.parts


def test_problems_that_are_made_here():
    given = config(task="adder")
    seen = preview(given)
    assert len(seen.problems) == 5 and seen.sizes == {}
    assert try_grader(given, 2, seen.problems[2].expected).solved and not try_grader(given, 2, "").solved


@pytest.mark.parametrize("index", [-1, 100, 10**9])
def test_an_index_that_is_not_shown_gets_a_sentence(index):
    with pytest.raises(TaskError, match="choose one of those shown"):
        try_grader(config(task="adder"), index, "x")


def test_data_that_is_missing_gets_a_sentence():
    with pytest.raises(TaskError, match="no file or folder here"):
        preview(config(task="gsm8k", data="/nowhere.jsonl"))
