"""Task `humaneval` (code): 164 Python functions to complete, for evaluation only."""

from __future__ import annotations

import re
from types import MappingProxyType

from bgpo.tasks.base import Problem
from bgpo.tasks.code import CodeTask
from bgpo.tasks.data import HubTable, Row, text_of
from bgpo.tasks.listed import question_of
from bgpo.tasks.sandbox import Tests


class HumanEval(CodeTask):
    """The tests' own part gets the head of the prompt too: helpers that it defines are not the program's to change."""

    name = "humaneval"
    title = "HumanEval (code, evaluation only)"
    prompt_length = 768
    placeholder = 'def add(x: int, y: int):\n    """Add two numbers x and y."""'
    example = "def add(x: int, y: int): ... → return x + y"
    splits = ("held_out",)
    published = MappingProxyType({"test": HubTable("openai/openai_humaneval", "", "test")})

    def problem_of(self, row: Row) -> Problem:
        head, entry = text_of(row, "prompt").rstrip() + "\n", question_of(row, "entry_point")
        setup = f"{head}\n{text_of(row, 'test')}"
        return Problem(self.asked(f"Complete the following python code:\n{head}"), text_of(row, "canonical_solution"), {
            "question": head, "head": head, "entry": entry, "tests": Tests((f"check({entry})",), (entry,), setup),
        })

    def program(self, problem: Problem, code: str) -> str:
        """A completion may write the whole function, or only its body; imports of the head hold for both."""
        whole = re.search(rf"^(?:async )?def[ \t]+{re.escape(problem.given['entry'])}\b", code, re.MULTILINE)
        if whole:
            return f"{problem.given['head']}\n\n{code}\n"
        body = code if code[:1] in (" ", "\t") else "\n".join("    " + line for line in code.split("\n"))
        return problem.given["head"] + body + "\n"
