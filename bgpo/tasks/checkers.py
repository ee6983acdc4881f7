"""How an answer to a problem of one's own is judged: the choices of knob `checker`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgpo.tasks.base import Problem, Reward
from bgpo.tasks.formats import tagged_answer
from bgpo.tasks.listed import clipped
from bgpo.tasks.maths import equal_answers, last_boxed, last_number

_LONGEST = 100_000


@dataclass(frozen=True)
class Checker:
    """A way to judge. `title` says in words when an answer passes; `judge` is None where tests are run instead."""

    title: str
    judge: Callable[[Problem, str], Reward] | None


def _exact(problem: Problem, completion: str) -> Reward:
    answer = _answer(completion)
    return _verdict(problem, answer, _plain(answer) == _plain(problem.expected))


def _contains(problem: Problem, completion: str) -> Reward:
    return _verdict(problem, completion, _plain(problem.expected) in _plain(completion[:_LONGEST]))


def _maths(problem: Problem, completion: str) -> Reward:
    boxed = last_boxed(completion)
    answer = boxed if boxed is not None else tagged_answer(completion) or last_number(completion) or ""
    return _verdict(problem, answer, equal_answers(problem.expected, answer))


def _answer(completion: str) -> str:
    """What stands between answer tags, or in a box, or all of it."""
    tagged, boxed = tagged_answer(completion), last_boxed(completion)
    return (tagged if tagged is not None else boxed if boxed is not None else completion)[:_LONGEST]


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _verdict(problem: Problem, answer: str, right: bool) -> Reward:
    shown = clipped(answer) or "nothing"
    reason = f"{shown} is {'right' if right else f'not {clipped(problem.expected)}'}"
    return Reward(float(right), reason, {"correct": float(right), "form": float(bool(answer.strip()))})


CHECKERS: dict[str, Checker] = {
    "exact": Checker("the answer is the expected text, whatever its case and spacing", _exact),
    "math": Checker("the answer says the same in maths, by math-verify", _maths),
    "contains": Checker("the completion contains the expected text", _contains),
    "code": Checker("the code passes the unit tests", None),
}
