"""What tasks with unit tests have in common: code out of a completion, its tests in the sandbox, rewards as published.

    bgpo     1 if all tests pass, else 0
    d1       share of tests that pass, 0.5 for a Python block inside the answer tags, up to 0.5 for the tags
    coupled  coupled-GRPO (DiffuCoder): 2 for the share of tests, counted only if the form is right, 0.5 for the form
    espo     the share of tests, counted only if the form is right, and 1 for the form

The form is one block fenced as ```python at the end: 1, or 0.5 when it is no Python.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from bgpo.tasks.base import Problem, Reward
from bgpo.tasks.formats import TAGS, tag_count, tagged_answer
from bgpo.tasks.listed import ListedTask, clipped
from bgpo.tasks.sandbox import TestVerdict, find_sandbox, safe_sandbox

EXPERT = "You are a coding expert. You will be given a coding problem to solve. Solve it step by step."
FENCED = (
    "When you output code, it must be in a single fenced code block using triple backticks (```) and the language "
    "specifier (```python), as the last part of your response."
)
_LONGEST = 50_000  # characters of a program
_FENCE = re.compile(r"```[ \t]*(?:python|py|Python)?[ \t]*\n(.*?)```", re.DOTALL)
_MOST_FENCES = 50
_NO_PYTHON = re.compile(r"the program does not run: (?:SyntaxError|IndentationError|TabError)")
_log = logging.getLogger(__name__)


class CodeTask(ListedTask):
    """A task whose problems hold unit tests: `given["tests"]` (Tests) and `given["head"]`, code before the program."""

    prompt_length = 512
    protocols = ("bgpo", "d1", "coupled", "espo")

    def problems(self, split: str) -> Sequence[Problem]:
        """All problems of a split. Raises TaskError, first of all where there is no safe sandbox."""
        safe_sandbox()
        if self._splits is None:
            _log.info("Programs run in %s.", find_sandbox().words)
        return super().problems(split)

    def asked(self, question: str) -> str:
        """A question as the protocol asks it."""
        if self.protocol == "bgpo":
            return question
        return f"{TAGS}\n\n{EXPERT}\n\n{question}" if self.protocol == "d1" else f"{question}\n\n{FENCED}"

    def program(self, problem: Problem, code: str) -> str:
        """The whole program to test."""
        return problem.given["head"] + code

    def reward(self, problem: Problem, completion: str) -> Reward:
        return self.rewards([problem], [completion])[0]

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[Reward]:
        """Equal programs for a problem are run once; a few sandboxes work at a time. Raises TaskError without one."""
        codes = [code_in(completion) for completion in completions]
        jobs = {
            (problem.prompt, code): (self.program(problem, code), problem.given["tests"])
            for problem, code in zip(problems, codes) if code is not None
        }
        judged = dict(zip(jobs, safe_sandbox().judge_all(list(jobs.values())))) if jobs else {}
        return [
            self._reward(completion, code, judged.get((problem.prompt, code)))
            for problem, completion, code in zip(problems, completions, codes)
        ]

    def _reward(self, completion: str, code: str | None, verdicts: list[TestVerdict] | None) -> Reward:
        if not verdicts:
            return Reward(self._total(completion, 0.0, 0.0), "no code was found", {
                "correct": 0.0, "code": 0.0, "tests": 0.0,
            })
        passed, count = sum(verdict.passed for verdict in verdicts), len(verdicts)
        share = passed / count
        python = not _NO_PYTHON.match(verdicts[0].why)
        parts = {"correct": float(passed == count), "code": float(python), "tests": share}
        reason = f"{passed} of {count} tests passed"
        if passed < count:
            first = next(index for index, verdict in enumerate(verdicts) if not verdict.passed)
            reason += f"; test {first + 1}: {clipped(verdicts[first].why, 160)}"
        return Reward(self._total(completion, share, 1.0 if python else 0.5), reason, parts)

    def _total(self, completion: str, share: float, form: float) -> float:
        """The published reward of a share of passed tests; `form` is 1 for Python, 0.5 for none, 0 without code."""
        if self.protocol == "bgpo":
            return float(share == 1)
        if self.protocol == "d1":
            answer = tagged_answer(completion)
            return share + 0.5 * (answer is not None and "```python" in answer) + tag_count(completion)
        form *= one_block_at_the_end(completion)
        share *= form == 1
        return 2.0 * share + 0.5 * form if self.protocol == "coupled" else share + form


def code_in(completion: str) -> str | None:
    """The code of a completion: its last fenced block with a def, else its last block, else what stands after [BEGIN].

    A completion without either is code itself if it defines something. Linear in the text.
    """
    text = completion[-4 * _LONGEST :]
    # an open fence is closed by the end of a truncated text
    blocks = _FENCE.findall(text if text.count("```") % 2 == 0 else text + "\n```")[-_MOST_FENCES:]
    chosen = next((block for block in reversed(blocks) if "def " in block or "class " in block), None)
    if chosen is None and blocks:
        chosen = blocks[-1]
    if chosen is None and "```" not in text:
        body = text.rpartition("[BEGIN]")[2].partition("[DONE]")[0]
        chosen = body if "[BEGIN]" in text or re.search(r"^(?:def|class|import|from) ", body, re.MULTILINE) else None
    if chosen is None or not chosen.strip() or len(chosen) > _LONGEST:
        return None
    return chosen.strip("\n")


def one_block_at_the_end(completion: str) -> bool:
    """Whether there is one fenced block, of Python, with nothing behind it."""
    return completion.count("```") == 2 and "```python\n" in completion and completion.rstrip("\n").endswith("```")


def names_defined(code: str, used_in: Sequence[str]) -> tuple[str, ...]:
    """Functions and classes that a reference defines at the top and that the tests use."""
    defined = re.findall(r"^(?:async def|def|class)[ \t]+(\w+)", code, re.MULTILINE)
    used = {word for text in used_in for word in re.findall(r"\w+", text)}
    return tuple(dict.fromkeys(name for name in defined if name in used))
