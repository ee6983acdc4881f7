"""A task whose problems are the rows of a data set, and the splits of it that share nothing."""

from __future__ import annotations

import copy
import hashlib
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from bgpo.tasks.base import SPLITS, Problem, Reward, TaskError, TaskKnobs
from bgpo.tasks.data import HubTable, Row, Tables, given_tables, published_tables, text_of

_NO_WORD = re.compile(r"[\W_]+")


class ListedTask:
    """Base of tasks that read a data set. A task gives `problem_of`, `reward` and the facts below.

    Attributes:
        published: table -> where it is on the hub; empty for a task that has no data of its own.
        protocol: one of `protocols`: how to ask, and what to reward.
        data: hub id, file or folder in place of the published tables.
    """

    name = ""
    title = ""
    prompt_length = 256
    longest_answer = 0
    careless = ""
    placeholder = ""
    example = ""
    reads_words = True
    protocols: tuple[str, ...] = ("bgpo",)
    splits: tuple[str, ...] = SPLITS
    published: Mapping[str, HubTable] = MappingProxyType({})
    data = ""
    _splits: dict[str, list[Problem]] | None = None

    @property
    def protocol(self) -> str:
        return getattr(self, "_protocol", self.protocols[0])

    def opened(self, knobs: TaskKnobs) -> ListedTask:
        """This task as a config sets it up; nothing is read yet."""
        task = copy.copy(self)
        task.data = knobs.data
        task._protocol = self.protocols[0] if knobs.protocol == "auto" else knobs.protocol
        task._splits = None
        return task

    def problems(self, split: str) -> Sequence[Problem]:
        """All problems of a split. The first call reads the data. Raises TaskError."""
        if self._splits is None:
            self._splits = self._divide(self.tables())
        return self._splits[split]

    def leave_out(self, too_long: Callable[[str], bool]) -> int:
        """Takes problems out of training and validation whose prompt is too long; returns how many.

        Those held out stay, since a score is of all of them.
        """
        left_out = 0
        for split in ("train", "validation"):
            kept = [problem for problem in self.problems(split) if not too_long(problem.prompt)]
            left_out += len(self._splits[split]) - len(kept)
            self._splits[split] = kept
        return left_out

    def tables(self) -> Tables:
        """The rows, by table. Raises TaskError."""
        return given_tables(self.name, self.data) if self.data else published_tables(self.name, self.published)

    def problem_of(self, row: Row) -> Problem | None:
        """The problem of a row, or None for a row that is none of this task's. Raises TaskError for missing columns."""
        raise NotImplementedError

    def split_key(self, problem: Problem) -> str:
        """What two splits may not both hold; the question's words unless a task knows better."""
        return words_of(question_in(problem))

    def problem_from(self, prompt: str) -> Problem:
        """The problem whose prompt this is, or whose question. Raises ValueError."""
        wanted = words_of(prompt)
        if wanted and self._splits is not None:
            for problem in (problem for listed in self._splits.values() for problem in listed):
                if wanted in (words_of(problem.prompt), words_of(question_in(problem))):
                    return problem
        raise ValueError(
            f"{prompt.strip()[:40]!r} is none of the problems of task {self.name}, so there is no answer to compare "
            f"with; take one of its problems, such as {self.placeholder[:80]}"
        )

    def reward(self, problem: Problem, completion: str) -> Reward:
        raise NotImplementedError

    # ---- splits

    def _divide(self, tables: Tables) -> dict[str, list[Problem]]:
        """Held out: the test table, else one key in eight. Validation: its table, else one in sixteen of the rest."""
        test, given = self._read(tables.get("test", ())), self._read(tables.get("validation", ()))
        rest = self._read(tables.get("train", ()))
        if not test and "train" in self.splits:
            test = [problem for problem in rest if _bucket(self.split_key(problem), "test") % 8 == 0]
        elif not test:  # one file for a task that is only evaluated
            test, rest = given + rest, []
        held_out = self._different(test, set())
        taken = {self.split_key(problem) for problem in held_out}
        if given:
            validation = self._different(given, taken)
        else:
            validation = self._different(
                [problem for problem in rest if _bucket(self.split_key(problem), "validation") % 16 == 0], taken
            )
        taken |= {self.split_key(problem) for problem in validation}
        return {"train": self._different(rest, taken), "validation": validation, "held_out": held_out}

    def _read(self, rows: Iterable[Row]) -> list[Problem]:
        problems = []
        for row in rows:
            try:
                problem = self.problem_of(row)
            except (TypeError, KeyError, AttributeError, IndexError) as error:
                raise TaskError(
                    f"A row of {self.data or self.name} is not as task {self.name} expects it: {error}; see "
                    "docs/tasks.md for its columns."
                ) from error
            if problem:
                problems.append(problem)
        return problems

    def _different(self, problems: Iterable[Problem], taken: set[str]) -> list[Problem]:
        """Problems with a key that is not taken; of those with the same question the first."""
        seen: dict[str, Problem] = {}
        for problem in problems:
            if self.split_key(problem) not in taken:
                seen.setdefault(words_of(question_in(problem)), problem)
        return list(seen.values())


def question_in(problem: Problem) -> str:
    """The part of a prompt that differs from problem to problem."""
    return problem.given.get("question", problem.prompt)


def words_of(text: str) -> str:
    """The words of a text without case, spacing, punctuation and width, so that copies of a problem are found.

    Signs of arithmetic and brackets are kept: they tell problems apart.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _NO_WORD.sub(lambda run: "".join(c for c in run.group() if c in "+-*/=<>^()[]{}") or " ", plain).strip()


def _bucket(key: str, purpose: str) -> int:
    return hashlib.sha256(f"{purpose}:{key}".encode("utf-8", "surrogatepass")).digest()[0]


def question_of(row: Row, *columns: str) -> str:
    """The text of a column, without spaces around it; an empty one is refused."""
    question = text_of(row, *columns).strip()
    if not question:
        raise TaskError(f"A row has an empty {columns[0]}; fill it in or leave the row out.")
    return question


def clipped(value: Any, size: int = 60) -> str:
    """A text for a reason sentence: one line, not longer than `size`."""
    line = " ".join(str(value).split())
    return line if len(line) <= size else line[: size - 3] + "..."
