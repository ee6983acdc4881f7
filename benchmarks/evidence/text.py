"""Markdown pieces and the phrase for a difference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.evidence.statistics import Interval
from bgpo.algorithm.objectives import OBJECTIVES

NOT_YET = "Not measured yet."


@dataclass
class Section:
    """One part of the page. `claims` also go to its top; `parts` are paragraphs and tables."""

    title: str
    question: str
    claims: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)


def title(objective: str) -> str:
    """An objective's title without a comma, so that titles can be listed."""
    name, comma, variant = OBJECTIVES[objective].title.partition(", ")
    return f"{name} ({variant})" if comma else name


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """A table; all columns but the first few hold numbers."""
    rules = ["---"] * text_columns + ["--:"] * (len(head) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rules, *rows))


def bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines) or NOT_YET


def difference(interval: Interval | None) -> str:
    """Such as "higher by 0.05 ± 0.03", or "open (0.01 ± 0.04)"."""
    if interval is None:
        return "not measured"
    if interval.half is None:
        return f"open ({interval.text(3, plus=True)}, one seed)"
    word = {1: "higher", -1: "lower", 0: "open"}[interval.sign]
    return f"{word} ({interval.text(3, plus=True)})"


def listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) or "none"
