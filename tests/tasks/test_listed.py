"""Tasks that read data: columns as published, splits that share nothing, sentences for what cannot be read."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from bgpo.tasks.base import SPLITS, TaskError, problems, step_problems
from bgpo.tasks.listed import words_of
from bgpo.tasks.sudoku import grids
from tests.tasks.published import COUNTDOWN, COUNTDOWN_TEST, GSM8K, MATH, MATH_500, opened, write


def keys(task, split: str) -> set[str]:
    return {task.split_key(problem) for problem in task.problems(split)}


def shared(task) -> set[str]:
    train, validation, held_out = (keys(task, split) for split in SPLITS)
    return train & validation | train & held_out | validation & held_out


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_gsm8k_reads_the_published_columns_from_any_kind_of_file(tmp_path, ending):
    write(tmp_path / f"train.{ending}", GSM8K)
    write(tmp_path / f"test.{ending}", GSM8K[:10])
    task = opened("gsm8k", tmp_path)
    assert [problem.prompt for problem in task.problems("held_out")] == [row["question"] for row in GSM8K[:10]]
    assert task.problems("held_out")[0].expected == "1201"
    assert not shared(task), "what is held out is taken out of training"
    assert len(task.problems("train")) + len(task.problems("validation")) == 90 and task.problems("validation")


def test_math_takes_the_last_box_of_the_solution_or_the_answer(tmp_path):
    write(tmp_path / "train.jsonl", MATH)
    write(tmp_path / "test.jsonl", MATH_500)
    task = opened("math", tmp_path)
    assert {problem.expected for problem in task.problems("held_out")} == {row["answer"] for row in MATH_500}
    assert all(problem.expected.startswith("\\frac{") for problem in task.problems("train"))


def test_copies_with_other_spacing_and_case_count_as_the_same(tmp_path):
    row = GSM8K[0]
    copies = [row, row | {"question": row["question"].upper()}, row | {"question": "  " + row["question"] + "\u200b !"}]
    write(tmp_path / "train.jsonl", copies + GSM8K[1:])
    write(tmp_path / "test.jsonl", copies[2:])
    task = opened("gsm8k", tmp_path)
    assert not shared(task) and len(task.problems("train")) + len(task.problems("validation")) == len(GSM8K) - 1


@pytest.mark.parametrize("one, other", [("2 + 3", "2 - 3"), ("x^2", "x*2"), ("[1, 2)", "(1, 2)"), ("a < b", "a > b")])
def test_signs_tell_problems_apart(one, other):
    assert words_of(one) != words_of(other)


def test_one_file_is_split_by_hash_into_three(tmp_path):
    task = opened("gsm8k", write(tmp_path / "mine.jsonl", GSM8K))
    sizes = {split: len(task.problems(split)) for split in SPLITS}
    assert sum(sizes.values()) == len(GSM8K) and all(sizes.values()) and sizes["train"] > 70
    assert not shared(task)
    again = opened("gsm8k", write(tmp_path / "other_order.jsonl", GSM8K[::-1]))
    assert keys(task, "held_out") == keys(again, "held_out"), "the split does not depend on the order of rows"


@pytest.fixture(scope="module")
def sudoku():
    """The task on the puzzles that it makes itself, all of which it makes when it is first asked."""
    return opened("sudoku")


def test_sudoku_splits_share_no_solution(sudoku):
    """A split by puzzle, as in d1's file, would show most held-out solutions in training."""
    task = sudoku
    solutions = {split: {problem.expected for problem in task.problems(split)} for split in SPLITS}
    assert not shared(task) and sum(map(len, solutions.values())) == len(grids()) == 288
    assert len(task.problems("train")) > 10_000 and len(task.problems("held_out")) > 500


def test_sudoku_from_files_keeps_train_clear_of_held_out_solutions(sudoku, tmp_path):
    made = [p for split in SPLITS for p in sudoku.problems(split)[:400]]
    rows = [{"Puzzle": problem.given["puzzle"], "Solution": problem.expected} for problem in made]
    random.Random(0).shuffle(rows)
    write(tmp_path / "train.csv", rows[50:])
    write(tmp_path / "test.csv", rows[:50])  # a split by puzzle, as published
    task = opened("sudoku", tmp_path)
    assert len(task.problems("held_out")) == 50 and task.problems("train") and not shared(task)
    assert any(problem.given["puzzle"].startswith("0") for problem in task.problems("held_out")), "zeros are not lost"


def test_countdown_reads_both_published_files_and_leaves_rows_of_four_out(tmp_path):
    write(tmp_path / "train.jsonl", [*COUNTDOWN, {"target": 10, "nums": [1, 2, 3, 4]}])
    write(tmp_path / "test.jsonl", COUNTDOWN_TEST)
    task = opened("countdown_numbers", tmp_path)
    assert [problem.given["numbers"] for problem in task.problems("held_out")] == [[30, 100, 93], [20, 3, 2]]
    assert "[30, 100, 93], create an arithmetic expression that evaluates to exactly 23." in (
        task.problems("held_out")[0].prompt
    )
    assert not shared(task) and "[20, 3, 2] 21" not in keys(task, "train")
    assert {len(problem.given["numbers"]) for problem in task.problems("train")} == {3}


def test_countdown_is_made_here_without_data():
    task = opened("countdown_numbers")
    assert len(task.problems("train")) >= 20_000 and len(task.problems("held_out")) >= 256 and not shared(task)
    assert task.problems("train")[:5] == opened("countdown_numbers").problems("train")[:5]


def test_training_goes_through_all_problems_epoch_by_epoch(tmp_path):
    task = opened("gsm8k", write(tmp_path / "mine.jsonl", GSM8K))
    size = len(task.problems("train"))

    def steps(first: int, last: int) -> list[str]:
        def random_of(purpose: str, number: int) -> random.Random:
            return random.Random(f"{purpose}{number}")

        return [problem.prompt for step in range(first, last) for problem in step_problems(task, step, 7, random_of)]

    drawn = steps(0, 3 * size)[: 3 * size]
    for epoch in range(3):
        assert set(Counter(drawn[epoch * size : (epoch + 1) * size]).values()) == {1}
    assert drawn[:size] != drawn[size : 2 * size], "each epoch has its own order"
    assert steps(5, 9) == drawn[35:63], "a resumed run draws what an uninterrupted one would"


def test_held_out_problems_are_drawn_without_repeats(tmp_path):
    write(tmp_path / "test.jsonl", GSM8K[:10])
    write(tmp_path / "train.jsonl", GSM8K[10:])
    task = opened("gsm8k", tmp_path)
    drawn = problems(task, "held_out", 10, random.Random(0), distinct=True)
    assert len({problem.prompt for problem in drawn}) == 10
    with pytest.raises(TaskError, match=r"only 10 different problems; 11 were asked for\. Lower eval_problems"):
        problems(task, "held_out", 11, random.Random(0), distinct=True)
    assert len(problems(task, "held_out", 25, random.Random(0))) == 25


@pytest.mark.parametrize("data, words", [
    ("nowhere.jsonl", "no file or folder here"), ("/nowhere/at/all", "no file or folder here"),
    ("just words", "a hub id such as owner/name"), ("../..", "no file named train or test"),
])
def test_data_that_is_not_there_gets_a_sentence(data, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match=words):
        opened("gsm8k", data).problems("train")


@pytest.mark.parametrize("name, text, words", [
    ("a.jsonl", "{not json\n", "cannot be read as jsonl"), ("a.jsonl", "", "cannot be read as jsonl|no train problems"),
    ("a.parquet", "PAR1 not", "cannot be read as parquet"), ("a.txt", "hello", "ends in none of .jsonl"),
    ("a.jsonl", '{"text": "x"}\n', "needs question or problem or prompt"),
    ("a.jsonl", '{"question": "", "answer": "5"}\n', "has an empty question"),
    ("a.jsonl", '{"question": "x", "answer": ""}\n', "has an empty answer"),
    ("a.csv", "", "cannot be read as csv"),
])
def test_data_that_cannot_be_read_gets_a_sentence(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(TaskError, match=words) as caught:
        problems(opened("gsm8k", tmp_path / name), "train", 1, random.Random(0))
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 600


def test_a_hub_that_does_not_answer_gets_a_sentence(monkeypatch):
    """The real loader, told by its own switch that there is no network."""
    import datasets.config
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for task, data in (("gsm8k", ""), ("math", ""), ("gsm8k", "someone/something:main")):
        with pytest.raises(TaskError, match="give the file or folder as data"):
            opened(task, data).problems("train")


def test_problems_with_long_prompts_are_left_out_of_training_but_not_of_the_score(tmp_path):
    task = opened("gsm8k", write(tmp_path / "mine.jsonl", GSM8K))
    held_out = len(task.problems("held_out"))
    assert task.leave_out(lambda prompt: "Tom has 6" in prompt) == len(GSM8K) - held_out
    assert not task.problems("train") and len(task.problems("held_out")) == held_out
    with pytest.raises(TaskError, match="has no train problems"):
        problems(task, "train", 1, random.Random(0))
