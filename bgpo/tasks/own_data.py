"""Task `own_data`: rows of one's own with a `prompt` and an `answer`, judged by knob `checker`.

With `checker = code` the answer holds the unit tests, one assertion a line (or column `tests` does, a list or a text);
`entry_point` names the function to write where the tests call several, `setup` is Python that runs before the tests.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Sequence

from bgpo.tasks.base import Problem, Reward, TaskError, TaskKnobs
from bgpo.tasks.checkers import CHECKERS
from bgpo.tasks.code import CodeTask, names_defined
from bgpo.tasks.data import Row, Tables, text_of
from bgpo.tasks.listed import ListedTask, clipped, question_of
from bgpo.tasks.sandbox import Tests

_CALLED = re.compile(r"(?<![.\w])([A-Za-z_]\w*)\s*\(")
_WORDS = {"assert", "not", "and", "or", "in", "is", "if", "else", "lambda", "return"}


class OwnData(CodeTask):
    """Prompts go to the model as they are. 1 for an answer that passes, else 0."""

    name = "own_data"
    title = "Your own data (prompt, answer)"
    prompt_length = 512
    placeholder = "What is the capital of France?"
    example = "What is the capital of France? → Paris"
    protocols = ("bgpo",)
    checker = "exact"

    def opened(self, knobs: TaskKnobs) -> ListedTask:
        task = super().opened(knobs)
        task.checker = knobs.checker
        return task

    def problems(self, split: str) -> Sequence[Problem]:
        return super().problems(split) if self.checker == "code" else ListedTask.problems(self, split)

    def tables(self) -> Tables:
        if not self.data:
            raise TaskError("Task own_data needs data; give a jsonl, parquet or csv file, a folder, or a hub id.")
        return super().tables()

    def problem_of(self, row: Row) -> Problem:
        prompt = question_of(row, "prompt", "question", "problem")
        if self.checker != "code":
            answer = text_of(row, "answer", "expected").strip()
            if not answer:
                raise TaskError(f"The row of {clipped(prompt)!r} has an empty answer; fill it in or leave it out.")
            return Problem(prompt, answer)
        given = row.get("tests") or row.get("test_list") or text_of(row, "answer")
        tests = tuple(str(test) for test in given) if isinstance(given, list) else _assertions(str(given))
        names = _names(row, tests)
        if not names:
            raise TaskError(f"The row of {clipped(prompt)!r} has no test that calls a function; mend its tests.")
        return Problem(prompt, str(row.get("solution") or "\n".join(tests)), {
            "head": "", "tests": Tests(tests, names, str(row.get("setup") or "")),
        })

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Reward]:
        judge = CHECKERS[self.checker].judge
        if judge is None:
            return super().rewards(problems, completions)
        return [judge(problem, completion) for problem, completion in zip(problems, completions)]


def _assertions(text: str) -> tuple[str, ...]:
    """Each line of assertions as a test of its own; anything longer, such as functions that check, as one test."""
    lines = [line for line in text.splitlines() if line.strip()]
    if all(line.startswith("assert ") for line in lines):
        return tuple(lines)
    return (text,)


def _names(row: Row, tests: tuple[str, ...]) -> tuple[str, ...]:
    """What the program is to define: as the row says, as its solution does, or what the tests call and do not have."""
    if row.get("entry_point"):
        return (str(row["entry_point"]),)
    if row.get("solution") and (named := names_defined(str(row["solution"]), tests)):
        return named
    theirs = "\n".join([*tests, str(row.get("setup") or "")])
    defined = set(re.findall(r"^[ \t]*def[ \t]+(\w+)", theirs, re.MULTILINE))
    called = dict.fromkeys(name for test in tests for name in _CALLED.findall(test))
    return tuple(name for name in called if name not in defined | _WORDS and not hasattr(builtins, name))
