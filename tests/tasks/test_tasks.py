"""Tasks: splits that share nothing, verdicts that are right, hostile text that does nothing."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bgpo.tasks.base import GeneratedTask, problems, split_of, step_problems
from bgpo.tasks.registry import TASKS
from bgpo.tasks.stack_programs import compile_expression, run_program

ADDER, PROGRAMS = TASKS["adder"], TASKS["stack_programs"]
GENERATED = {name: task for name, task in TASKS.items() if isinstance(task, GeneratedTask)}


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
def test_splits_share_no_prompt(task):
    train = {p.prompt for p in problems(task, "train", 3000, random.Random(0))}
    validation = {p.prompt for p in problems(task, "validation", 200, random.Random(1), distinct=True)}
    held_out = {p.prompt for p in problems(task, "held_out", 200, random.Random(1), distinct=True)}
    assert len(validation) == len(held_out) == 200
    assert not train & held_out and not train & validation and not validation & held_out
    assert set(map(split_of, held_out)) == {"held_out"}


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
def test_examples_are_true(task):
    prompt, expected = task.example.split(" → ")
    assert task.problem_from(prompt).expected == expected


def test_a_step_draws_by_its_number_alone():
    def draw(step: int) -> list[str]:
        return [p.prompt for p in step_problems(ADDER, step, 8, lambda purpose, n: random.Random(f"{purpose}{n}"))]

    assert draw(3) == draw(3) != draw(4)


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
def test_right_demonstrations_are_rewarded_and_careless_ones_are_not(task):
    for problem in problems(task, "train", 500, random.Random(0)):
        right, careless = task.demonstration(problem, True), task.demonstration(problem, False)
        assert task.reward(problem, right).total == 1.0
        assert task.reward(problem, careless).total == 0.0
        assert len(problem.prompt) <= task.prompt_length and max(map(len, (right, careless))) <= task.longest_answer
        assert task.problem_from(problem.prompt) == problem


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
@given(completion=st.text(max_size=200))
def test_no_text_breaks_the_grader(task, completion):
    problem = task.problem_from(task.placeholder)
    verdict = task.reward(problem, completion)
    assert verdict.total in (0.0, 1.0) and verdict.reason


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
@pytest.mark.parametrize(
    "hostile", ["9" * 1_000_000, "a" * 1_000_000, "*" * 100_000, "__import__('os')", "\0", "", "ab+" * 50_000]
)
def test_hostile_completions_get_zero_at_once(task, hostile):
    assert task.reward(task.problem_from(task.placeholder), hostile).total == 0.0


@pytest.mark.parametrize("task", GENERATED.values(), ids=GENERATED)
@pytest.mark.parametrize("prompt", ["", "1+", "a+", "(a+b", "a b", "37+4８", "x*y", "))((", "9" * 10_000, "a" * 10_000])
def test_prompts_that_state_no_problem_are_refused_in_a_sentence(task, prompt):
    with pytest.raises(ValueError, match="such as"):
        task.problem_from(prompt)


def test_too_many_distinct_problems_is_a_sentence():
    with pytest.raises(ValueError, match="Lower eval_problems"):
        problems(ADDER, "held_out", 5000, random.Random(0), distinct=True)


def test_adder_judges_by_value_and_form():
    problem = ADDER.problem_from("37+48")
    assert problem.expected == "085" and ADDER.demonstration(problem, False) == "075"
    assert [ADDER.reward(problem, text).total for text in ("085", "85", "0085", "075", "085 ")] == [1, 0, 0, 0, 0]
    assert "carry" in ADDER.reward(problem, "075").reason


@pytest.mark.parametrize("expression, program", [
    ("b*c-d*b", "bc*db*-"), ("a-b-c", "ab-c-"), ("a-(b-c)", "abc--"), ("(a+b)*c", "ab+c*"), ("((a))", "a"),
])
def test_compiler(expression, program):
    assert compile_expression(expression) == program


@given(st.integers(0, 10_000))
def test_compiled_programs_agree_with_python(seed):
    """Python's own arithmetic on generated expressions is the oracle."""
    problem = PROGRAMS.problem(random.Random(seed))
    binding = dict(zip("abcdef", (3, -5, 7, 11, -2, 13)))
    assert run_program(problem.expected, binding) == eval(problem.prompt, {"__builtins__": {}}, binding)


def test_equivalent_programs_pass_and_wrong_ones_say_where():
    problem = PROGRAMS.problem_from("b*c-d*b")
    assert PROGRAMS.reward(problem, "cb*bd*-").total == 1.0
    assert PROGRAMS.reward(problem, "bcd-*").total == 1.0  # b * (c - d)
    wrong = PROGRAMS.reward(problem, "bc*d-b*")
    assert wrong.total == 0.0 and "it gives" in wrong.reason
    assert "stack" in PROGRAMS.reward(problem, "bc").reason
    assert "neither" in PROGRAMS.reward(problem, "bc!").reason
