"""Task `gsm8k` (maths): school problems in words, answered by a number; 7,473 to train on, 1,319 held out."""

from __future__ import annotations

import re
from types import MappingProxyType

from bgpo.tasks.base import Problem, Reward, TaskError
from bgpo.tasks.data import HubTable, Row, text_of
from bgpo.tasks.formats import STEP_BY_STEP, TAGS, format_parts, tagged_answer
from bgpo.tasks.listed import ListedTask, clipped, question_of
from bgpo.tasks.maths import equal_answers, last_boxed, last_number

_HUB = "openai/gsm8k"
_COT = re.compile(r"The answer is (-?[0-9.,]+)")
_HASH = re.compile(r"#### (-?[0-9.,]+)")


class Gsm8k(ListedTask):
    """bgpo: the bare question, 1 for a right answer in a box. d1: its tags, 2 for the answer, up to 2 for the form.

    espo: asked to reason and to box; 1 for the answer, which may also stand behind `The answer is` or `####`, or last.
    """

    name = "gsm8k"
    title = "GSM8K (maths)"
    prompt_length = 256
    placeholder = "Natalia sold 48 clips in April and half as many in May. How many did she sell altogether?"
    example = "Natalia sold 48 clips in April and half as many in May ... → 72"
    protocols = ("bgpo", "d1", "espo")
    published = MappingProxyType({"train": HubTable(_HUB, "main", "train"), "test": HubTable(_HUB, "main", "test")})

    def problem_of(self, row: Row) -> Problem:
        question = question_of(row, "question", "problem", "prompt")
        answer = text_of(row, "answer").rpartition("####")[2].strip().replace(",", "")
        if not answer:
            raise TaskError(f"The row of {clipped(question)!r} has an empty answer; fill it in or leave the row out.")
        prompt = {"bgpo": question, "d1": f"{TAGS}\n\n{question}", "espo": f"{question}\n{STEP_BY_STEP}"}[self.protocol]
        return Problem(prompt, answer, {"question": question})

    def reward(self, problem: Problem, completion: str) -> Reward:
        answer = _ANSWERS[self.protocol](completion)
        right = answer is not None and equal_answers(problem.expected, answer)
        return maths_reward(problem, answer, right, d1_parts(completion, answer) if self.protocol == "d1" else {})


def d1_parts(completion: str, answer: str | None) -> dict[str, float]:
    """d1's parts for the form of a GSM8K completion."""
    digits = answer is not None and answer.isascii() and answer.isdigit()
    return {"whole_number": 0.5 if digits else 0.0, **format_parts(completion)}


def maths_reward(problem: Problem, answer: str | None, right: bool, form: dict[str, float]) -> Reward:
    """1 for a right answer; under d1, whose `form` is not empty, 2 and what the form pays."""
    parts = {"correct": float(right), "form": float(bool(answer)), **form}
    total = 2.0 * right + sum(form.values()) if form else float(right)
    if not answer:
        reason = f"no answer was found; {clipped(problem.expected)} is expected"
    else:
        reason = f"the answer {clipped(answer)} is {'right' if right else f'not {clipped(problem.expected)}'}"
    return Reward(total, reason, parts)


def _last_of(text: str) -> str | None:
    for pattern in (_COT, _HASH):
        if match := pattern.search(text):
            return match.group(1).rstrip(".,")
    return last_number(text)


_ANSWERS = {"bgpo": last_boxed, "d1": tagged_answer, "espo": _last_of}
