"""Task `math`: competition problems; the train part of MATH (7,500) to train on, MATH-500 held out."""

from __future__ import annotations

from types import MappingProxyType

from bgpo.tasks.base import Problem, Reward, TaskError
from bgpo.tasks.data import HubTable, Row, text_of
from bgpo.tasks.formats import STEP_BY_STEP, TAGS, boxed_format
from bgpo.tasks.gsm8k import maths_reward
from bgpo.tasks.listed import ListedTask, clipped, question_of
from bgpo.tasks.maths import equal_answers, last_boxed

_EXPERT = (
    "You are a math expert. You will be given a question to solve. Solve it step by step. Wrap the final answer in a "
    "\\boxed{}."
)


class CompetitionMath(ListedTask):
    """The answer is what the last whole box holds. d1 pays 2 for it and up to 1 for tags with a box in them."""

    name = "math"
    title = "MATH, tested on MATH-500 (maths)"
    prompt_length = 512
    placeholder = "What is the positive difference between 120\\% of 30 and 130\\% of 20?"
    example = "What is the positive difference between 120% of 30 and 130% of 20? → 10"
    protocols = ("bgpo", "d1", "espo")
    published = MappingProxyType({
        "train": HubTable("DigitalLearningGmbH/MATH-lighteval", "", "train"),
        "test": HubTable("HuggingFaceH4/MATH-500", "", "test"),
    })

    def problem_of(self, row: Row) -> Problem:
        question = question_of(row, "problem", "question", "prompt")
        answer = row.get("answer") or last_boxed(text_of(row, "solution"))
        if not answer:
            raise TaskError(
                f"The row of {clipped(question)!r} has neither an answer nor a solution with a box; fill one in."
            )
        prompt = {
            "bgpo": question, "d1": f"{TAGS}\n\n{_EXPERT}\n\n{question}", "espo": f"{question}\n{STEP_BY_STEP}",
        }[self.protocol]
        return Problem(prompt, str(answer).strip(), {"question": question})

    def reward(self, problem: Problem, completion: str) -> Reward:
        answer = last_boxed(completion)
        right = answer is not None and equal_answers(problem.expected, answer)
        form = {"boxed_format": boxed_format(completion)} if self.protocol == "d1" else {}
        return maths_reward(problem, answer, right, form)
