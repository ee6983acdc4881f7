"""Code tasks and tasks of one's own: published columns, prompts, rewards; refusals in a sentence."""

from __future__ import annotations

import random

import pytest

from bgpo.tasks import sandbox as sandboxes
from bgpo.tasks.base import PARTS, SPLITS, TaskError, problems, rewards
from bgpo.tasks.code import code_in, one_block_at_the_end
from tests.tasks.published import opened, write


@pytest.fixture(autouse=True, scope="module")
def _sandbox():
    found = sandboxes.find_sandbox()
    if found.sandbox is None:
        pytest.skip(found.words)


MBPP = [
    {"task_id": n, "text": f"Write a function to add {n} to a number.", "code": f"def add_{n}(x):\n    return x + {n}",
     "test_list": [f"assert add_{n}(1) == {1 + n}", f"assert add_{n}(2) == {2 + n}", f"assert add_{n}(0) != 1"],
     "test_setup_code": "", "challenge_test_list": []}
    for n in range(600, 640)
]
PAIR = {
    "text": "Write a function to sum the first of pairs.", "test_setup_code": "",
    "code": "class Pair(object):\n    def __init__(self, a, b):\n        self.a, self.b = a, b\n"
            "def sum(pairs):\n    t = 0\n    for p in pairs: t += p.a\n    return t",
    "test_list": ["assert sum([Pair(1, 2), Pair(3, 4)]) == 4", "assert set([sum([])]) == set([0])"],
}
HEAD = "import math\n\n\ndef double(x: int):\n    return 2 * x\n\n\n" \
       "def quad(x: int) -> int:\n    \"\"\" Four times x.\n    \"\"\"\n"
HUMANEVAL = {
    "task_id": "HumanEval/0", "prompt": HEAD, "entry_point": "quad",
    "canonical_solution": "    return double(double(x))\n",
    "test": "\n\nMETADATA = {}\n\n\ndef check(candidate):\n    assert candidate(1) == 4\n    for x in range(5):\n"
            "        assert candidate(x) == double(double(x)), x\n    assert math.fabs(candidate(3) - 12) < 1e-6\n",
}
GOOD = "Here:\n```python\ndef add_600(x):\n    return x + 600\n```"
BAD = "```python\ndef add_600(x):\n    return 601\n```"
BROKEN = "```python\ndef add_600(x) return\n```"


def of(task: str, row: dict, protocol: str = "auto", **knobs):
    task = opened(task, protocol=protocol, **knobs)
    return task, task.problem_of(row)


@pytest.mark.parametrize("protocol, completion, total, correct", [
    ("bgpo", GOOD, 1, 1), ("bgpo", BAD, 0, 0), ("bgpo", BROKEN, 0, 0), ("bgpo", "no", 0, 0),
    ("bgpo", "[BEGIN]\ndef add_600(x):\n    return x + 600\n[DONE]", 1, 1),
    ("bgpo", "def add_600(x):\n    return x + 600", 1, 1),
    ("bgpo", GOOD.removesuffix("```"), 1, 1), ("bgpo", "import sys; sys.exit(0)", 0, 0),
    ("d1", GOOD, 1, 1), ("d1", BAD, 2 / 3, 0), ("d1", "<answer>\n" + GOOD + "\n</answer>", 1.5 + 0.125, 1),
    ("coupled", GOOD, 2.5, 1), ("coupled", BAD, 4 / 3 + 0.5, 0), ("coupled", BROKEN, 0.25, 0),
    ("coupled", GOOD + "\nDone.", 0, 1),
    ("espo", GOOD, 2, 1), ("espo", BROKEN, 0.5, 0),
])
def test_mbpp(protocol, completion, total, correct):
    task, problem = of("mbpp", MBPP[0], protocol)
    verdict = task.reward(problem, completion)
    assert verdict.total == pytest.approx(total) and verdict.parts["correct"] == correct, verdict
    assert verdict.parts.keys() <= PARTS.keys() and verdict.reason


def test_mbpp_reasons_name_the_first_test_that_fails():
    task, problem = of("mbpp", MBPP[0])
    assert task.reward(problem, BAD).reason == "2 of 3 tests passed; test 2: the assertion does not hold"
    assert "SyntaxError" in task.reward(problem, BROKEN).reason
    assert "3 of 3" in task.reward(problem, GOOD).reason


def test_mbpp_functions_named_like_builtins_and_classes_of_the_program():
    task, problem = of("mbpp", PAIR)
    assert problem.given["tests"].names == ("Pair", "sum")
    assert task.reward(problem, f"```python\n{PAIR['code']}\n```").solved
    cheat = PAIR["code"] + "\ndef set(x): return 0\n"
    assert task.reward(problem, f"```python\n{cheat.replace('return t', 'return 4')}\n```").parts["tests"] == 0.5


def test_mbpp_prompts():
    prompt = of("mbpp", MBPP[0])[1].prompt
    assert prompt.count("[BEGIN]") == 4 and prompt.count("[DONE]") == 3
    assert prompt.endswith("assert add_600(0) != 1\n[BEGIN]")
    assert of("mbpp", MBPP[0], "d1")[1].prompt.startswith("Respond in the following format:")
    assert "```python" in of("mbpp", MBPP[0], "coupled")[1].prompt


def test_mbpp_reads_its_tables_and_judges_a_batch(tmp_path):
    for table, rows in (("train", MBPP[:20]), ("validation", MBPP[20:25]), ("test", MBPP[23:40])):
        write(tmp_path / f"{table}.jsonl", rows)
    task = opened("mbpp", tmp_path)
    assert [len(task.problems(split)) for split in SPLITS] == [20, 3, 17]
    drawn = problems(task, "train", 6, random.Random(0), distinct=True)
    completions = [text for problem in drawn for text in (f"```\n{problem.expected}\n```", GOOD)]
    judged = rewards(task, [problem for problem in drawn for _ in range(2)], completions)
    assert [v.solved for v in judged][::2] == [True] * 6 and sum(v.solved for v in judged) <= 7


@pytest.mark.parametrize("completion, right", [
    ("    return double(double(x))\n", True), ("```python\n    return 4 * x\n```", True),
    ("```python\nreturn 4 * x\n```", True),
    (f"```python\n{HEAD}    return double(double(x))\n```", True),
    ("```python\ndef quad(x):\n    return 4*x\n```", True),
    ("```python\ndef double(x): return 0\ndef quad(x): return 0\n```", False),
    ("```python\ndef quad(x): return 4\n```", False),
    ("```python\ndef check(candidate): pass\ndef quad(x): return 0\n```", False), ("", False),
    ("```python\nimport math\nmath.fabs = lambda x: 0\ndef quad(x): return [4, 4, 8][x-1] if x else 0\n```", False),
])
def test_humaneval(completion, right):
    """Helpers in the head of the prompt and the tests' imports are out of the program's reach."""
    task, problem = of("humaneval", HUMANEVAL)
    completion = f"```python\n{completion}```" if completion.startswith("    ") else completion
    assert task.reward(problem, completion).solved == right


def test_humaneval_is_for_evaluation_only(tmp_path):
    task = opened("humaneval", write(tmp_path / "test.jsonl", [HUMANEVAL]))
    assert [len(task.problems(split)) for split in SPLITS] == [0, 0, 1]
    with pytest.raises(TaskError, match="for evaluation only"):
        problems(task, "train", 1, random.Random(0))


@pytest.mark.parametrize("text, found", [
    ("```python\na = 1\n```\nthen\n```python\ndef f(): pass\n```\nand\n```\noutput\n```", "def f(): pass"),
    ("```py\nx = 1\n```", "x = 1"), ("```\nx = 1", "x = 1"), ("say nothing", None), ("", None), ("``` ```", None),
    ("```python\n" + "x" * 60_000 + "\n```", None), ("```" * 100_000, None),
    ("[BEGIN]\nx = 1\n[DONE]\nmore", "x = 1"),
])
def test_code_is_found(text, found):
    assert code_in(text) == found


def test_one_block_at_the_end():
    assert one_block_at_the_end(GOOD) and not one_block_at_the_end(GOOD + "\nx") and not one_block_at_the_end(GOOD * 2)


def test_without_a_sandbox_code_tasks_refuse_and_others_do_not(monkeypatch, tmp_path):
    monkeypatch.setattr(sandboxes, "_FOUND", [sandboxes.Found(None, "No safe sandbox here; install bubblewrap.")])
    task = opened("mbpp", write(tmp_path / "train.jsonl", MBPP))
    with pytest.raises(TaskError, match="No safe sandbox here; install bubblewrap"):
        task.problems("train")
    with pytest.raises(TaskError, match="No safe sandbox"):
        task.reward(task.problem_of(MBPP[0]), GOOD)
    mine = opened("own_data", write(tmp_path / "own.jsonl", [{"prompt": f"{n}?", "answer": n} for n in range(40)]))
    assert mine.problems("train")


# ---- one's own -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checker, expected, right, wrong", [
    ("exact", "Paris", ("Paris", " paris\n", "<answer>Paris</answer>", "so \\boxed{Paris}"),
    ("Paris!", "It is Paris", "")),
    ("contains", "Paris", ("It is paris.",), ("It is Rome", "")),
    ("math", "1/2", ("0.5", "so \\boxed{\\frac{1}{2}}", "<answer>50\\%</answer>", "it is 0.50"),
    ("2", "\\boxed{2} not 0.5", "")),
    ("code", "assert f(1) == 2\nassert f(2) == 3", ("```python\ndef f(x): return x + 1\n```",),
    ("```python\ndef f(x): return 2\n```",)),
])
def test_own_data_by_each_checker(tmp_path, checker, expected, right, wrong):
    rows = [{"prompt": f"Question {n}?", "answer": expected} for n in range(40)]
    task = opened("own_data", write(tmp_path / "own.jsonl", rows), checker=checker)
    problem = task.problems("train")[0]
    assert problem.prompt.startswith("Question")
    for text in right:
        assert task.reward(problem, text).solved, text
    for text in wrong:
        verdict = task.reward(problem, text)
        assert not verdict.solved and verdict.reason, text


def test_own_data_with_functions_that_check_and_helpers():
    row = {"prompt": "Sort.", "setup": "import random", "tests": [
        "def check():\n    for _ in range(5):\n        v = [random.random() for _ in range(4)]\n        assert sort(v) "
        "== sorted(v)\ncheck()",
    ]}
    task, problem = of("own_data", row, checker="code")
    assert problem.given["tests"].names == ("sort",)
    assert task.reward(problem, "```python\ndef sort(v): return sorted(v)\n```").solved
    assert not task.reward(problem, "```python\ndef sort(v): return v\n```").solved


OWN_FILE = """
def problems(split):
    return [{"q": f"{n} + {n}?", "answer": 2 * n} for n in range({"train": 50, "validation": 0, "held_out": 10}[split])]

def prompt(problem):
    return problem["q"]

def reward(problem, completion):
    return {"correct": float(completion == str(problem["answer"])), "total": 0.5}
"""


def test_own_file(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(OWN_FILE)
    task = opened("own_file", task_file=str(file))
    sizes = [len(task.problems(split)) for split in SPLITS]
    assert sum(sizes) == 50 and sizes[2] == 10, "what is held out is taken out of training"
    problem = task.problems("held_out")[3]
    assert (problem.prompt, problem.expected) == ("3 + 3?", "6")
    verdict = task.reward(problem, "6")
    assert (verdict.total, verdict.solved, task.reward(problem, "7").solved) == (0.5, True, False)


@pytest.mark.parametrize("text, words", [
    ("", "defines no function problems"), ("1/0", "failed while it was loaded: ZeroDivisionError"),
    ("def (", "SyntaxError"),
    (OWN_FILE.replace("return problem[", "return 3 or problem["), "prompt.* gave 3"),
    (OWN_FILE.replace("return [{", "return 1 or [{"), "return a list"),
    (OWN_FILE.replace('problem["q"]', 'problem["x"]'), "prompt.* failed: KeyError"),
    (OWN_FILE.replace('"total": 0.5', '"total": float("nan")'), "return a finite number"),
])
def test_an_own_file_with_a_mistake_gets_a_sentence(tmp_path, text, words):
    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(TaskError, match=words):
        task = opened("own_file", task_file=str(file))
        task.reward(task.problems("train")[0], "x")
