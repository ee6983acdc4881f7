"""A run's own problems and grader for the pages: real data, the real child process, the real sandbox."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs.grading import InProcess, TaskDesk
from bgpo.tasks.base import TaskError
from bgpo.tasks.registry import TASKS
from bgpo.tasks.sudoku import _made_rows
from bgpo.training.plugins import keep_copies

MODEL = {"model": "llada", "model_path": "a/b", "warmup_steps": 0, "completion_length": 64, "denoising_steps": 64}


def maths_run(tmp_path: Path, **more) -> TrainConfig:
    file = tmp_path / "problems.jsonl"
    rows = [{"question": f"How many are {n} and {n} pens?", "answer": f"So #### {2 * n}"} for n in range(200)]
    file.write_text("\n".join(map(json.dumps, rows)))
    return TrainConfig.parse(MODEL | {"task": "gsm8k", "data": str(file)} | more)


@pytest.fixture
def desk():
    made = TaskDesk()
    yield made
    made.close()


def test_examples_are_the_runs_held_out_problems_and_answers_are_judged_as_in_training(desk, tmp_path):
    config = maths_run(tmp_path, protocol="d1")
    pages = [desk.examples(config, str(tmp_path), 4, page) for page in (0, 1)]
    shown = [example.question for page in pages for example in page]
    assert len(set(shown)) == 8 and all(question.startswith("How many are") for question in shown)
    grader = desk.grader(config, str(tmp_path))
    asked = grader.asked(f"  {shown[0].upper()} ")
    assert asked == pages[0][0].prompt and asked != shown[0], "the protocol's instructions are around it"
    expected = 2 * int(shown[0].split()[3])
    right = grader.verdict(f"<reasoning>\nso\n</reasoning>\n<answer>\n{expected}\n</answer>\n")["verdict"]
    assert right["solved"] and right["reward"] > 2 and ["Correct", 1.0] in right["parts"]
    assert str(expected) in right["reason"]
    assert grader.verdict("<answer>\nno\n</answer>")["verdict"]["solved"] is False
    other = desk.grader(config, str(tmp_path))
    assert other.asked(" Why? ") == "Why?" and "no problem of the task" in other.verdict("so")["unjudged"]


def test_data_that_cannot_be_read_is_a_sentence_and_the_answer_is_only_not_judged(desk, tmp_path):
    config = maths_run(tmp_path)
    Path(config.data).unlink()
    with pytest.raises(TaskError, match="is no file or folder here"):
        desk.examples(config, str(tmp_path), 4)
    grader = desk.grader(config, str(tmp_path))
    assert grader.asked("How many?") == "How many?" and "is no file" in grader.verdict("4")["unjudged"]


def test_a_grader_that_hangs_or_dies_is_ended_and_the_next_question_is_answered(tmp_path):
    file = tmp_path / "task.py"
    file.write_text(
        "import os\n"
        "def problems(split):\n    return [{'question': f'{split} {n}?', 'answer': n} for n in range(9)]\n"
        "def prompt(problem):\n    return problem['question']\n"
        "def reward(problem, completion):\n"
        "    while completion == 'hang': pass\n"
        "    if completion == 'die': os._exit(3)\n"
        "    while completion == 'dying': os.closerange(0, 99)\n"
        "    print('noise')\n    return {'correct': float(completion == str(problem['answer']))}\n"
    )
    config = TrainConfig.parse(MODEL | {"task": "own_file", "task_file": str(file)})
    keep_copies(config, tmp_path)
    file.unlink()  # what runs is the run's copy
    desk = TaskDesk()
    grader = desk.grader(config, str(tmp_path))
    assert grader.asked("held_out 3?") == "held_out 3?"
    assert grader.verdict("3")["verdict"]["reward"] == 1
    assert "ended the process" in grader.verdict("die")["unjudged"]
    assert "ended the process" in grader.verdict("dying")["unjudged"], "its pipe has closed, the process is still there"
    assert grader.verdict("3")["verdict"]["solved"]
    desk._seconds = 1
    assert "within 1 seconds" in grader.verdict("hang")["unjudged"]
    desk.close()


def test_a_runs_own_reward_judges_and_a_built_in_task_is_judged_here(desk, tmp_path):
    file = tmp_path / "reward.py"
    file.write_text("def reward(prompt, expected, completion):\n    return {'short': 0.5, 'correct': 0.25}\n")
    config = TrainConfig.parse({"reward_file": str(file)})
    keep_copies(config, tmp_path)
    grader = desk.grader(config, str(tmp_path))
    assert grader.asked("37+48") == "37+48"
    assert grader.verdict("085")["verdict"] | {"reason": ""} == {
        "reward": 0.75, "solved": False, "reason": "", "parts": [["short", 0.5], ["Correct", 0.25]],
    }
    plain = desk.grader(TrainConfig.parse({}), "")
    assert isinstance(plain, InProcess) and plain.asked("37+48") == "37+48"
    assert plain.verdict("085")["verdict"]["reward"] == 1
    assert len({example.prompt for page in (0, 1) for example in desk.examples(TrainConfig.parse({}), "", 6, page)}) > 6


grids = functools.cache(_made_rows)
# task -> the n-th of its rows as published; its question; a right and a wrong answer
PUBLISHED = {
    "math": lambda n: (
        {"problem": f"Half of {n}?", "solution": f"So $\\boxed{{\\frac{{{n}}}{{2}}}}$."},
        f"Half of {n}?", f"\\boxed{{{n / 2}}}", f"\\boxed{{{n + 1}}}",
    ),
    "countdown_numbers": lambda n: (
        {"nums": [n + 1, 2, 1], "target": n + 4},
        f"[{n + 1}, 2, 1] {n + 4}", f"<answer>\n(1 + 2) + {n + 1}\n</answer>", f"<answer>{n + 4}</answer>",
    ),
    "sudoku": lambda n: (
        grids()[n], grids()[n]["Puzzle"],
        f"<answer>\n{grids()[n]['Solution']}\n</answer>", f"<answer>{'1' * 16}</answer>",
    ),
    "mbpp": lambda n: (
        {"task_id": n, "text": f"Write f{n}.", "code": f"def f{n}(x):\n    return x + {n}",
         "test_list": [f"assert f{n}(1) == {n + 1}"]},
        f"Write f{n}.", f"def f{n}(x):\n    return {n} + x\n[DONE]", f"def f{n}(x):\n    return {n}\n[DONE]",
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", [name if name == "math" else pytest.param(name, marks=pytest.mark.slow)
                                  for name in PUBLISHED])
def test_a_local_file_of_a_published_task_gives_problems_and_verdicts(desk, tmp_path, task):
    rows = [PUBLISHED[task](n) for n in range(64)]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(row) for row, *_ in rows))
    config = TrainConfig.parse(MODEL | {"task": task, "data": str(file)})
    answers = {question: (right, wrong) for _, question, right, wrong in rows}
    grader = desk.grader(config, str(tmp_path))
    for example in desk.examples(config, str(tmp_path), 3):
        right, wrong = answers[example.question]
        assert grader.asked(example.question) == grader.asked(example.prompt) == example.prompt
        assert grader.verdict(right)["verdict"]["solved"]
        judged = grader.verdict(wrong)["verdict"]
        assert not judged["solved"] and judged["reason"] and judged["parts"]


@pytest.mark.skipif(not shutil.which("bwrap"), reason="without bubblewrap: apt-get install bubblewrap")
def test_programs_run_in_the_sandbox_alone(desk, tmp_path):
    rows = [{"prompt": f"Write f{n}(x): x plus {n}.", "answer": f"assert f{n}(1) == {n + 1}"} for n in range(40)]
    (tmp_path / "code.jsonl").write_text("\n".join(map(json.dumps, rows)))
    knobs = {"task": "own_data", "checker": "code", "data": str(tmp_path / "code.jsonl")}
    config = TrainConfig.parse(MODEL | knobs)
    question = desk.examples(config, str(tmp_path), 1)[0].question
    number = question.split("(")[0].removeprefix("Write f")
    grader = desk.grader(config, str(tmp_path))
    assert grader.asked(question) == question
    right = grader.verdict(f"```python\ndef f{number}(x):\n    return x + {number}\n```")["verdict"]
    assert right["solved"] and "1 of 1 tests passed" in right["reason"]
    hostile = f"```python\ndef f{number}(x):\n    open('{tmp_path}/touched', 'w')\n    return x + {number}\n```"
    assert not grader.verdict(hostile)["verdict"]["solved"] and not (tmp_path / "touched").exists()
    assert TASKS["own_data"].reads_words
