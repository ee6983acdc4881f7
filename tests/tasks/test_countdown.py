"""Countdown: the verifier against brute force, the careless answer, and prompts that cannot be reached."""

from __future__ import annotations

import random
from collections import Counter
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpo.tasks.base import problems
from bgpo.tasks.countdown import Countdown, evaluate

TASK = Countdown()
PROBLEM = TASK.problem_from("14:1,6,9,8")


def expressions(numbers: list[int]) -> list[str]:
    """All expressions of one, two or three of the numbers."""
    found = [str(a) for a in numbers]
    for a, b in permutations(numbers, 2):
        found += [f"{a}{o}{b}" for o in "+-*"]
    for (a, b, c), o, p in product(permutations(numbers, 3), "+-*", "+-*"):
        found += [f"{a}{o}{b}{p}{c}", f"({a}{o}{b}){p}{c}", f"{a}{o}({b}{p}{c})"]
    return found


@pytest.mark.parametrize("seed", range(5))
def test_any_valid_answer_passes_and_no_other(seed):
    """Python's own arithmetic on every short expression is the oracle."""
    problem = TASK.problem(random.Random(seed))
    target, numbers = problem.prompt.split(":")
    passed = []
    for expression in expressions([int(number) for number in numbers.split(",")]):
        right = eval(expression, {"__builtins__": {}}) == int(target)
        assert TASK.reward(problem, expression).total == float(right), expression
        passed += [expression] * right
    assert problem.expected in passed and len(passed) > 1


@given(st.lists(st.integers(1, 99), min_size=1, max_size=6), st.integers(0, 2**32))
def test_evaluation_agrees_with_python(numbers, seed):
    rng = random.Random(seed)
    parts = [str(number) for number in numbers]
    while len(parts) > 1:
        left = parts.pop(rng.randrange(len(parts)))
        right = parts.pop(rng.randrange(len(parts)))
        joined = left + rng.choice("+-*") + right
        parts.append(f"({joined})" if rng.random() < 0.5 else joined)
    if len(parts[0]) <= 32:
        value, used = evaluate(parts[0])
        assert value == eval(parts[0], {"__builtins__": {}}) and Counter(used) == Counter(numbers)


@pytest.mark.parametrize("completion, reason", [
    ("6-8", "it gives -2, not 14"),
    ("7+7", "7 is not among the numbers"),
    ("6+6+1+1", "there only once"),
    ("14", "14 is not among the numbers"),
    ("6+", "a number is missing before the end"),
    ("+6+8", "a number is missing before +"),
    ("(6+8", "a bracket is not closed"),
    ("6+8)", "breaks off before ')'"),
    ("6 8", "is not an expression"),
    ("6(8)", "breaks off before '('"),
    ("6**8", "a number is missing before *"),
    ("06+8", "is not an expression"),
    ("６+8", "is not an expression"),
    ("6+8=14", "is not an expression"),
    ("", "is not an expression"),
    ("(" * 33, "33 characters"),
    ("(" * 32, "a number is missing before the end"),
    ("9" * 32, "breaks off"),
])
def test_wrong_and_hostile_answers_say_why(completion, reason):
    verdict = TASK.reward(PROBLEM, completion)
    assert verdict.total == 0.0 and reason in verdict.reason


def test_the_verdict_names_its_parts():
    assert TASK.reward(PROBLEM, "8+6").parts == {"form": 1.0, "numbers": 1.0, "correct": 1.0}
    assert TASK.reward(PROBLEM, "7+7").parts == {"form": 1.0, "numbers": 0.0, "correct": 0.0}
    assert TASK.reward(PROBLEM, "6+").parts == {"form": 0.0, "numbers": 0.0, "correct": 0.0}
    assert TASK.reward(PROBLEM, "9+6-1").total == 1.0 and TASK.reward(PROBLEM, "(8-1)*(9-6)").total == 0.0


def test_the_careless_answer_takes_the_right_numbers_in_the_order_they_stand_in():
    for problem in problems(TASK, "train", 500, random.Random(0)):
        careless = TASK.demonstration(problem, correct=False)
        verdict = TASK.reward(problem, careless)
        assert verdict.parts == {"form": 1.0, "numbers": 1.0, "correct": 0.0}
        assert {careless[0], careless[2]} == {problem.expected[0], problem.expected[2]} and careless[1] == "-"
        assert problem.prompt.split(":")[1].index(careless[0]) < problem.prompt.split(":")[1].index(careless[2])


def test_there_are_problems_enough_of_both_kinds():
    found = problems(TASK, "held_out", 800, random.Random(0), distinct=True)
    kinds = Counter(problem.expected[1] for problem in found)
    assert set(kinds) == {"+", "-"} and min(kinds.values()) > 120


@pytest.mark.parametrize("prompt, expected", [
    ("14:1,6,9,8", "6+8"), (" 14:1,6,9,8 ", "6+8"), ("5:3,9,8,1", "8-3"), ("7:3,4,1,1", "3+4"), ("8:4,4,1,1", "4+4"),
])
def test_typed_prompts(prompt, expected):
    problem = TASK.problem_from(prompt)
    assert problem.expected == expected and TASK.reward(problem, expected).total == 1.0


@pytest.mark.parametrize("prompt, words", [
    ("14:1,6,9", "four numbers"), ("14:1,6,9,10", "four numbers"), ("0:1,2,3,4", "four numbers"),
    ("014:1,6,9,8", "four numbers"), ("14=1,6,9,8", "four numbers"), ("14:1,6,9,８", "four numbers"),
    ("99:1,6,9,8", "No two of 1,6,9,8"),
])
def test_prompts_without_an_answer_are_refused_in_a_sentence(prompt, words):
    with pytest.raises(ValueError, match=words) as caught:
        TASK.problem_from(prompt)
    assert "such as" in str(caught.value)
