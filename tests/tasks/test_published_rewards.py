"""Prompts and rewards of the published tasks: totals, named parts, reasons, hostile texts."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations, product

import pytest

from bgpo.tasks.base import PARTS, Problem
from bgpo.tasks.countdown_numbers import evaluate, plain_expression
from bgpo.tasks.registry import TASKS
from tests.tasks.published import opened

LISTED = ("gsm8k", "math", "countdown_numbers", "sudoku")
FORMED = "<reasoning>\nI think\nhard.\n</reasoning>\n<answer>\n{}\n</answer>\n"


def of(task: str, row: dict, protocol: str = "auto"):
    """A task and the problem of one row."""
    task = opened(task, protocol=protocol)
    return task, task.problem_of(row)


GSM = {"question": "Three boxes of 24?", "answer": "3 * 24 = 72\n#### 72"}


@pytest.mark.parametrize("protocol, completion, total, correct, reason", [
    ("bgpo", "It is \\boxed{72}.", 1.0, 1.0, "the answer 72 is right"),
    ("bgpo", "It is \\boxed{72.00}", 1.0, 1.0, "right"),
    ("bgpo", "It is \\boxed{71} or \\boxed{72}", 1.0, 1.0, "right"),
    ("bgpo", "It is \\boxed{72} or \\boxed{71}", 0.0, 0.0, "the answer 71 is not 72"),
    ("bgpo", "It is 72.", 0.0, 0.0, "no answer was found; 72 is expected"),
    ("bgpo", "It is \\boxed{72", 0.0, 0.0, "no answer"),
    ("d1", FORMED.format(72), 4.0, 1.0, "right"),
    ("d1", FORMED.format("\\$72"), 3.5, 1.0, "right"),
    ("d1", FORMED.format(71), 2.0, 0.0, "71 is not 72"),
    ("d1", "<answer>72</answer>", 2.5, 1.0, "right"),
    ("d1", "72", 0.0, 0.0, "no answer"),
    ("espo", "The answer is 72.", 1.0, 1.0, "right"),
    ("espo", "#### 72", 1.0, 1.0, "right"),
    ("espo", "so \\boxed{72}", 1.0, 1.0, "right"),
    ("espo", "first 72, then 80", 0.0, 0.0, "80 is not 72"),
])
def test_gsm8k(protocol, completion, total, correct, reason):
    task, problem = of("gsm8k", GSM, protocol)
    verdict = task.reward(problem, completion)
    assert (verdict.total, verdict.parts["correct"], verdict.solved) == (total, correct, bool(correct))
    assert reason in verdict.reason


def test_prompts_are_as_published():
    for protocol, start, end in (
        ("bgpo", "Three boxes", "of 24?"),
        ("d1", "Respond in the following format:\n<reasoning>", "</answer>\n\nThree boxes of 24?"),
        ("espo", "Three boxes of 24?\nPlease reason", "within \\boxed{}."),
    ):
        prompt = of("gsm8k", GSM, protocol)[1].prompt
        assert prompt.startswith(start) and prompt.endswith(end)


@pytest.mark.parametrize("protocol, completion, total", [
    ("bgpo", "\\boxed{\\frac{1}{2}}", 1.0), ("bgpo", "\\boxed{0.5}", 1.0), ("bgpo", "\\boxed{2}", 0.0), ("bgpo", "1/2",
    0.0), ("d1", "<answer>\\boxed{1/2}</answer>", 3.0), ("d1", "<answer>\\boxed{2}</answer>", 1.0), ("d1",
    "\\boxed{.5}", 2.5), ("d1", "nothing", 0.25), ("espo", "\\boxed{50\\%}", 1.0),
])
def test_math(protocol, completion, total):
    task, problem = of("math", {"problem": "Half?", "solution": "\\boxed{\\frac12}"}, protocol)
    assert task.reward(problem, completion).total == total


NUMBERS = {"nums": [30, 100, 93], "target": 23}


@pytest.mark.parametrize("answer, total, reason", [
    ("30 - (100 - 93)", 1.0, "gives 23"), ("30-100+93", 1.0, "gives 23"), ("\\boxed{30-100+93}", 1.0, "gives 23"),
    ("30 - 100 + 93 = 23", 1.0, "gives 23"), ("$30 - 100 + 93$", 1.0, "gives 23"),
    ("30+100-93", 0.1, "gives 37, not 23"), ("23", 0.1, "not each of"), ("30-7", 0.1, "not each of"),
    ("30 - 100 + 93 + 30 - 30", 0.1, "not each of"), ("93-100+30*1", 0.1, "not each of"),
    ("30 -", 0.1, "a number is missing"), ("(30-100", 0.1, "a bracket is not closed"),
    ("30/(93-93)", 0.1, "divides by zero"), ("2**9999999", 0.1, "missing before *"),
    ("9**9**9", 0.1, "missing before *"), ("__import__('os')", 0.1, "is not an"),
    ("30 100 93", 0.1, "is not an expression"), ("pow(30,93)", 0.1, "is not an"), ("", 0.1, "is not an expression"),
    ("9" * 1_000_000, 0.1, "more than 200 characters"), ("(" * 199, 0.1, "missing before the end"),
    ("-" * 199, 0.1, "missing"), ("３０-100+93", 0.1, "is not an expression"),
    ("30\0-100+93", 0.1, "is not an expression"),
])
def test_countdown_numbers(answer, total, reason):
    task, problem = of("countdown_numbers", NUMBERS)
    verdict = task.reward(problem, f"<answer>{answer}</answer>")
    assert verdict.total == total and verdict.solved == (total == 1) and reason in verdict.reason
    assert task.reward(problem, answer).total == 0, "outside the tags it is no answer"


def test_countdown_agrees_with_python_on_every_short_expression():
    """Python's own exact arithmetic is the oracle."""
    for a, b, c in permutations((6, 4, 3)):
        for o, p in product("+-*/", repeat=2):
            for text in (f"{a}{o}{b}{p}{c}", f"({a}{o}{b}){p}{c}", f"{a}{o}({b}{p}{c})", f"-{a}{o}{b}{p}-{c}"):
                exact = text
                for number in "643":
                    exact = exact.replace(number, f"F({number})")
                try:
                    wanted = eval(exact, {"__builtins__": {}, "F": Fraction})
                except ZeroDivisionError:
                    continue
                assert evaluate(text) == (wanted, [int(d) for d in text if d.isdigit()]), text


def test_countdown_reads_latex():
    assert plain_expression("\\frac{93+7}{4} \\times 2 = 50") == "((93+7)/(4)) * 2"
    assert evaluate("((93+7)/(4)) * 2")[0] == 50


GRID = {"Puzzle": "0401002010030310", "Solution": "2431312412434312"}


@pytest.mark.parametrize("answer, total, solved, reason", [
    ("2431312412434312", 1.0, True, "9 of 9"), ("2431 3124\n1243 4312", 1.0, True, "9 of 9"),
    ("2431312412434311", 8 / 9, False, "8 of 9"), ("2431", 2 / 9, False, "4 digits were written, not 16; 2 of 9"),
    ("1431312412434312", 8 / 9, False, "8 of 9"), ("2131312412434312", 1.0, False, "a given digit was changed"),
    ("2431312412434312" + "4" * 1_000_000, 1.0, False, "not 16"), ("", 0.0, False, "0 digits"),
    ("２４３１３１２４１２４３４３１２", 0.0, False, "0 digits"), ("\0" * 16, 0.0, False, "0 digits"),
])
def test_sudoku(answer, total, solved, reason):
    task, problem = of("sudoku", GRID)
    verdict = task.reward(problem, f"<answer>\n{answer}\n</answer>")
    assert verdict.total == pytest.approx(total) and verdict.solved == solved and reason in verdict.reason
    assert task.reward(problem, answer).total == 0


def test_espo_shows_sudoku_a_worked_example():
    assert "Example:" in of("sudoku", GRID, "espo")[1].prompt and "Example:" not in of("sudoku", GRID, "d1")[1].prompt


ROWS = {"gsm8k": GSM, "math": {"problem": "Half?", "answer": "\\frac12"}, "countdown_numbers": NUMBERS, "sudoku": GRID}
HOSTILE = [
    "", "\0", "\ud800", "<answer>" * 50_000, "<answer></answer>" * 50_000, "<reasoning>" * 100_000, "\\boxed{" * 50_000,
    "9" * 1_000_000, "<answer>" + "9" * 1_000_000 + "</answer>", "\\boxed{" + "9" * 1_000_000 + "}", "{" * 500_000,
    "<answer>\\boxed{</answer>", "</answer><answer>", "The answer is " * 50_000, "#### " * 50_000, "-" * 500_000,
    "<reasoning>\n" + "\n</reasoning>\n<answer>\n" * 20_000, "<answer>" + "(" * 100_000 + "</answer>",
]


@pytest.mark.parametrize("name, protocol", [(name, p) for name in LISTED for p in TASKS[name].protocols])
def test_hostile_completions_are_never_right_and_every_part_is_explained(name, protocol):
    task, problem = of(name, ROWS[name], protocol)
    for text in HOSTILE:
        verdict = task.reward(problem, text)
        assert not verdict.solved and verdict.reason and len(verdict.reason) < 300, text[:30]
        assert verdict.parts.keys() <= PARTS.keys()


@pytest.mark.parametrize("name", LISTED)
def test_expected_answers_are_right(name):
    task, problem = of(name, ROWS[name])
    answer = "30-100+93" if name == "countdown_numbers" else problem.expected
    assert task.reward(problem, f"<answer>\\boxed{{{answer}}}</answer>").solved
    assert isinstance(problem, Problem) and len(problem.prompt) / 2.5 < task.prompt_length


@pytest.mark.parametrize("row, words", [
    ({"Puzzle": "0401", "Solution": "2431312412434312"}, "no 4x4 puzzle"),
    ({"Puzzle": "0401002010030310", "Solution": "2431312412434311"}, "no 4x4 puzzle"),
    ({"Puzzle": "1401002010030310", "Solution": "2431312412434312"}, "no 4x4 puzzle"),
])
def test_a_wrong_sudoku_row_is_refused(row, words):
    with pytest.raises(ValueError, match=words):
        of("sudoku", row)
