"""d1's answer format: its words in the prompt, and what its reward pays for keeping to it.

d1 (arXiv 2504.12216), wd1 and SPG ask in this form. The patterns let reasoning run over several lines, as d1's code
does since its correction; before that, strict and soft format were never paid.
"""

from __future__ import annotations

import re

TAGS = "Respond in the following format:\n<reasoning>\n...\n</reasoning>\n<answer>\n...\n</answer>"
STEP_BY_STEP = "Please reason step by step, and put your final answer within \\boxed{}."

_SOFT = re.compile(r"<reasoning>.*?</reasoning>\s*<answer>.*?</answer>", re.DOTALL)
_STRICT = re.compile(r"<reasoning>\n.*?\n</reasoning>\n<answer>\n.*?\n</answer>\n?", re.DOTALL)
_EACH = 0.125
_PER_CHARACTER = 0.001


def tagged_answer(text: str) -> str | None:
    """What stands between the last whole pair of answer tags, without spaces around it; None without a pair."""
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, end) if end >= 0 else -1
    return text[start + len("<answer>") : end].strip() if start >= 0 else None


def format_parts(text: str) -> dict[str, float]:
    """What d1 pays for the tags, whatever the answer: up to 0.5 each."""
    head = text[:100_000]  # the patterns go through the text for each opening tag
    return {
        "soft_format": 0.5 if head.count("<reasoning>") < 100 and _SOFT.match(head) else 0.0,
        "strict_format": 0.5 if head.count("<answer>") < 100 and _STRICT.fullmatch(head) else 0.0,
        "tags": tag_count(text),
    }


def tag_count(text: str) -> float:
    """0.125 for each tag that stands once, on a line of its own; 0.001 less for each character behind the last.

    Raised to 0 at least: d1 lets a long tail cost any amount, which is a length penalty and no format.
    """
    count = _EACH * (text.count("<reasoning>\n") == 1) + _EACH * (text.count("\n</reasoning>\n") == 1)
    if text.count("\n<answer>\n") == 1:
        count += _EACH - _PER_CHARACTER * len(text.rpartition("\n</answer>\n")[2])
    if text.count("\n</answer>") == 1:
        count += _EACH - _PER_CHARACTER * max(0, len(text.rpartition("\n</answer>")[2]) - 1)
    return max(0.0, round(count, 4))


def boxed_format(text: str) -> float:
    """d1's format score for MATH: half of 1 for answer tags, and of 1 for a box in them (0.5 for none)."""
    answer = text.partition("<answer>")[2].partition("</answer>")[0] if "<answer>" in text else None
    return 0.5 * ((answer is not None) + (1.0 if "\\boxed" in (text if answer is None else answer) else 0.5))
