"""Answers in maths: every verdict right, hostile texts in bounded time, nothing executed."""

from __future__ import annotations

import threading

import pytest

from bgpo.tasks import maths
from bgpo.tasks.formats import boxed_format, format_parts, tag_count, tagged_answer
from bgpo.tasks.maths import equal_answers, last_boxed, last_number


@pytest.mark.parametrize("expected, answer", [
    ("72", "72"), ("72", "72.0"), ("72", "72."), ("72", " 72 "), ("1000", "1,000"), ("1000", "1 000"), ("-3", "-3"),
    ("\\frac{1}{2}", "0.5"), ("\\frac12", "1/2"), ("\\frac{1}{2}", "\\dfrac{1}{2}"), ("1.5", "1\\frac{1}{2}"),
    ("5", "5\\text{ cm}"), ("5", "5 cm"), ("50", "50\\%"), ("0.5", "50\\%"), ("50\\%", "50"), ("18", "\\$18.00"),
    ("90^\\circ", "90"), ("4", "2**2"), ("512", "2^9"), ("6", "3!"), ("2\\sqrt{3}", "\\sqrt{12}"), ("x+1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"), ("\\{1,2\\}", "\\{2,1\\}"), ("(1,2)", "(1, 2)"), ("[2,5)", "[2, 5)"), ("3", "x=3"),
    ("\\text{Evelyn}", "Evelyn"), ("5", "\\boxed{5}"),
    ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
])
def test_equal_answers(expected, answer):
    assert equal_answers(expected, answer)


@pytest.mark.parametrize("expected, answer", [
    ("72", "73"), ("72", "-72"), ("72", "720"), ("5", ""), ("", ""), ("5", "five"), ("3", "1 2"), ("12", "1 2"),
    ("5", "5 \\text{ or } 6"), ("17", "17\\text{ and }18"), ("(1,2)", "(2,1)"), ("[2,5)", "(2,5)"), ("\\frac12", "2"),
    ("3", "3!"), ("\\text{Evelyn}", "Angela"), ("x+1", "x-1"), ("5", "\\frac{5}{"), ("5", "NaN"), ("5", "\\infty"),
])
def test_different_answers(expected, answer):
    assert not equal_answers(expected, answer)


# these would take for ever: each costs the child its second and a new start
ENDLESS = [
    "9^{9^{9^{9}}}", "2^{99999999999}", "(10^{10^{10}})!", "10^{10^9} + 1", "\\sum_{k=1}^{10^9} k^{k}",
    "\\int_0^1 x^{x^{x^{x}}} dx", "\\prod_{n=1}^{999999999} n", "\\binom{10^9}{5\\cdot 10^8}",
    "{" * 40 + "1" + "}" * 40, "(" * 39 + "1" + ")" * 39,
]
HOSTILE = [
    "2**9999999", "9**9**9", "99999999!", *(pytest.param(text, marks=pytest.mark.slow) for text in ENDLESS),
    "9" * 1_000_000, "(" * 100_000 + "1" + ")" * 100_000,
    "\\sqrt{" * 39 + "2" + "}" * 39, "\\frac{1}{" * 35 + "2" + "}" * 35, "1" + "+1" * 240, "x" * 499, "=" * 400,
    "\0", "5\0", "\ud800", "5\u202e", "\x1b[31m5", "\u200b" * 100, "<" * 400, "1,2,3,4" * 70,
    "\\text{" + "a" * 480 + "}",
    "__import__('os').system('touch {file}')", "().__class__.__base__.__subclasses__()", "open('{file}','w')",
    "\\input{/etc/passwd}", "\\write18{touch {file}}", "exec(\"open('{file}','w')\")", "lambda: 0", "5 if True else 6",
]


@pytest.mark.parametrize("answer", HOSTILE, ids=lambda text: repr(text[:24]))
def test_hostile_answers_are_wrong_in_bounded_time_and_nothing_runs(answer, tmp_path):
    file = tmp_path / "written"
    assert not equal_answers("5", answer.replace("{file}", str(file)))
    assert not file.exists()
    assert equal_answers("0.5", "\\frac12"), "the next answer is judged as ever"


def test_judging_works_from_several_threads_at_once():
    verdicts: list[bool] = []
    threads = [
        threading.Thread(target=lambda: verdicts.append(equal_answers("\\frac{1}{2}", "0.50"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == [True] * 8


def test_a_child_that_was_killed_is_started_again():
    assert equal_answers("2", "2.0")
    maths._CHILD._process.kill()
    assert not equal_answers("2", "\\frac{4}{2}"), "the answer under way when it died counts as wrong"
    assert equal_answers("2", "\\frac{4}{2}")


@pytest.mark.parametrize("text, found", [
    ("\\boxed{5}", "5"), ("so \\boxed{1} or rather \\boxed{2}.", "2"), ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
    ("\\boxed{a \\boxed{b} c}", "a \\boxed{b} c"), ("\\fbox{7}", "7"), ("\\boxed {7}", "7"), ("\\boxed{}", ""),
    ("\\boxed{5", None), ("\\boxed{3} and \\boxed{5", "3"), ("5", None), ("", None), ("boxed{5}", None),
    ("\\boxed{" * 100_000, None), ("}" * 100_000, None), ("\\boxed{1}" * 100_000, "1"),
    ("\\boxed{" + "{" * 500_000, None),
])
def test_the_last_whole_box(text, found):
    assert last_boxed(text) == found


@pytest.mark.parametrize("text, found", [
    ("it is 1,234.5 dollars", "1234.5"), ("3 then -4.", "-4"), ("none", None), ("", None),
    ("9" * 1_000_000, "9" * 10_000),
])
def test_the_last_number(text, found):
    assert last_number(text) == found


@pytest.mark.parametrize("text, found", [
    ("<answer>5</answer>", "5"), ("<answer>\n5\n</answer>", "5"), ("<answer>1</answer><answer>2</answer>", "2"),
    ("<answer>5", None), ("5</answer>", None), ("", None), ("<answer>" * 100_000, None),
])
def test_the_tagged_answer(text, found):
    assert tagged_answer(text) == found


GOOD = "<reasoning>\nbecause\nit is\n</reasoning>\n<answer>\n5\n</answer>\n"


def test_d1_pays_for_its_form():
    assert format_parts(GOOD) == {"soft_format": 0.5, "strict_format": 0.5, "tags": 0.5}
    assert format_parts("I say: " + GOOD) == {"soft_format": 0.0, "strict_format": 0.0, "tags": 0.5}
    assert tag_count(GOOD + "x" * 10) == pytest.approx(0.5 - 0.001 * 20)
    assert tag_count(GOOD + "x" * 100_000) == 0 and format_parts("")["tags"] == 0
    assert format_parts("<reasoning>" * 200_000)["soft_format"] == 0
    assert [boxed_format(t) for t in ("<answer>\\boxed{1}</answer>", "<answer>1</answer>", "\\boxed{1}", "1")] == [
        1.0, 0.75, 0.5, 0.25
    ]
