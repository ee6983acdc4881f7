"""What people thought of two checkpoints' answers to one prompt."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, or_, select

from storage.database import Database
from storage.tables import vote

CHOICES = ("a", "b", "tie", "both_wrong")
_SWAPPED = {"a": "b", "b": "a"}


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, from the same noise and settings.

    Attributes:
        checkpoint_a, checkpoint_b: their ids; a vote outlives the checkpoints, whose ids are never given again.
        settings: the sampler's, plain JSON.
    """

    checkpoint_a: int
    checkpoint_b: int
    prompt: str
    answer_a: str
    answer_b: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Counts:
    """Votes on a pair of checkpoints, whichever of them stood left."""

    a: int = 0
    b: int = 0
    tie: int = 0
    both_wrong: int = 0


def add_vote(db: Database, compared: Comparison, choice: str) -> None:
    """Keeps a vote. Raises ValueError for an unknown choice, or for one checkpoint compared with itself."""
    if choice not in CHOICES:
        raise ValueError(f"unknown choice {choice!r}; available: {', '.join(CHOICES)}")
    if compared.checkpoint_a == compared.checkpoint_b:
        raise ValueError(f"Checkpoint {compared.checkpoint_a} is compared with itself; choose two.")
    row = {
        "checkpoint_a": compared.checkpoint_a, "checkpoint_b": compared.checkpoint_b, "prompt": compared.prompt,
        "answer_a": compared.answer_a, "answer_b": compared.answer_b, "settings": json.dumps(dict(compared.settings)),
        "choice": choice, "time": time.time(),
    }
    with db.write() as connection:
        connection.execute(vote.insert(), row)


def vote_counts(db: Database, checkpoint_a: int, checkpoint_b: int) -> Counts:
    """How often which of the two was better; votes given with the two the other way round count as well."""
    pair = (vote.c.checkpoint_a, vote.c.checkpoint_b)
    ours, swapped = (
        and_(pair[0] == left, pair[1] == right)
        for left, right in ((checkpoint_a, checkpoint_b), (checkpoint_b, checkpoint_a))
    )
    query = select(vote.c.checkpoint_a, vote.c.choice, func.count()).where(or_(ours, swapped))
    found: Counter[str] = Counter()
    with db.read() as connection:
        for left, choice, count in connection.execute(query.group_by(vote.c.checkpoint_a, vote.c.choice)):
            found[choice if left == checkpoint_a else _SWAPPED.get(choice, choice)] += count
    return Counts(**found)
