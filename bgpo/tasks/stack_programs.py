"""Task `stack_programs` (code): compile `b*c-d*b` to the stack program `bc*db*-`.

The reward executes the program on a few bindings of the variables, in a stack machine of its own that
knows three operators: nothing that a model writes is ever handed to Python. Any equivalent program passes.
"""

from __future__ import annotations

import random

from bgpo.tasks.base import Generated, Problem, Reward

VARIABLES = "abcdef"
OPERATORS = "+-*"
_PRECEDENCE = {"+": 1, "-": 1, "*": 2}
# primes keep unequal programs from agreeing by accident
_BINDINGS = tuple(
    dict(zip(VARIABLES, values))
    for values in ((2, 3, 5, 7, 11, 13), (13, -4, 11, 6, -17, 9), (-9, 17, 8, -5, 3, -14), (19, 10, -7, 23, -6, 12))
)
_MAX_PROGRAM = 64


class StackPrograms(Generated):
    """Expressions of three leaves, or of two pairs, in which precedence or brackets matter."""

    name = "stack_programs"
    title = "Stack programs (code)"
    prompt_length = 11
    longest_answer = 7
    careless = "compiles from left to right and ignores precedence and brackets, so b*c-d*b becomes bc*d-b*"
    placeholder = "b*c-d*b"
    example = "b*c-d*b → bc*db*-"

    def problem(self, rng: random.Random) -> Problem:
        while True:
            prompt = _expression(rng, leaves=rng.choice((3, 3, 3, 4)))
            problem = Problem(prompt, compile_expression(prompt))
            if _failing(problem, self.demonstration(problem, correct=False)):
                return problem

    def problem_from(self, prompt: str) -> Problem:
        text = prompt.replace(" ", "")
        if len(text) > self.prompt_length:
            raise ValueError(
                f"The expression has {len(text)} characters; this task takes up to {self.prompt_length}, "
                "such as b*c-d*b."
            )
        return Problem(text, compile_expression(text))

    def demonstration(self, problem: Problem, correct: bool) -> str:
        if correct:
            return problem.expected
        flat = problem.prompt.replace("(", "").replace(")", "")
        return flat[0] + "".join(leaf + operator for operator, leaf in zip(flat[1::2], flat[2::2]))

    def reward(self, problem: Problem, completion: str) -> Reward:
        try:
            failed = _failing(problem, completion)
        except ValueError as error:
            return Reward(0.0, str(error), {"runs": 0.0, "correct": 0.0})
        if failed is None:
            return Reward(1.0, f"agrees on all {len(_BINDINGS)} bindings", {"runs": 1.0, "correct": 1.0})
        binding, got, wanted = failed
        where = ", ".join(f"{name}={value}" for name, value in binding.items())
        return Reward(0.0, f"at {where} it gives {got}, not {wanted}", {"runs": 1.0, "correct": 0.0})


def run_program(program: str, binding: dict[str, int]) -> int:
    """Executes a stack program.

    Raises:
        ValueError: one sentence on what is wrong with it.
    """
    if len(program) > _MAX_PROGRAM:
        raise ValueError(f"the program has {len(program)} characters; {_MAX_PROGRAM} are allowed")
    stack: list[int] = []
    for symbol in program:
        if symbol in binding:
            stack.append(binding[symbol])
        elif symbol in OPERATORS:
            if len(stack) < 2:
                raise ValueError(f"{symbol} finds fewer than two values on the stack")
            right, left = stack.pop(), stack.pop()
            stack.append(left + right if symbol == "+" else left - right if symbol == "-" else left * right)
        else:
            raise ValueError(f"{symbol!r} is neither a variable nor an operator")
    if len(stack) != 1:
        raise ValueError(f"{len(stack)} values are left on the stack, not one")
    return stack[0]


def compile_expression(expression: str) -> str:
    """Infix -> postfix (shunting-yard), all operators left-associative.

    Raises:
        ValueError: when the text is not an expression over VARIABLES with + - * and brackets.
    """
    output: list[str] = []
    pending: list[str] = []
    operand_next = True
    for symbol in expression:
        if operand_next and symbol in VARIABLES:
            output.append(symbol)
            operand_next = False
        elif operand_next and symbol == "(":
            pending.append(symbol)
        elif not operand_next and symbol == ")" and "(" in pending:
            while (top := pending.pop()) != "(":
                output.append(top)
        elif not operand_next and symbol in OPERATORS:
            while pending and pending[-1] != "(" and _PRECEDENCE[pending[-1]] >= _PRECEDENCE[symbol]:
                output.append(pending.pop())
            pending.append(symbol)
            operand_next = True
        else:
            raise ValueError(_not_an_expression(expression))
    if operand_next or "(" in pending:
        raise ValueError(_not_an_expression(expression))
    return "".join(output + pending[::-1])


def _not_an_expression(text: str) -> str:
    known = ", ".join(VARIABLES)
    return f"{text[:40]!r} is not an expression over {known} with + - * and brackets; write one such as b*c-d*b."


def _failing(problem: Problem, program: str) -> tuple[dict[str, int], int, int] | None:
    """The first binding on which `program` differs from the expected one, with both values."""
    for binding in _BINDINGS:
        got, wanted = run_program(program, binding), run_program(problem.expected, binding)
        if got != wanted:
            return binding, got, wanted
    return None


def _expression(rng: random.Random, leaves: int, above: str = "", on_the_right: bool = False) -> str:
    """A random expression tree, written with the brackets that it needs below the operator `above`.

    Four leaves are two pairs: few shapes, each seen often enough to be learnt in a minute.
    """
    if leaves == 1:
        return rng.choice(VARIABLES)
    operator = rng.choice(OPERATORS)
    left_leaves = 2 if leaves == 4 else rng.randint(1, leaves - 1)
    left = _expression(rng, left_leaves, operator)
    right = _expression(rng, leaves - left_leaves, operator, on_the_right=True)
    binds_less = bool(above) and _PRECEDENCE[operator] < _PRECEDENCE[above] + on_the_right
    return f"({left}{operator}{right})" if binds_less else f"{left}{operator}{right}"
