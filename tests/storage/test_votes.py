"""Votes on two checkpoints' answers."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sqlalchemy import select

from storage.tables import vote
from storage.votes import Comparison, Counts, add_vote, vote_counts

COMPARED = Comparison(3, 5, "37+48", "85", "86", {"seed": 3, "temperature": 0.5})


def test_votes_count_for_a_pair_whichever_stood_left(db):
    for choice in ("a", "a", "b", "tie", "both_wrong"):
        add_vote(db, COMPARED, choice)
    add_vote(db, replace(COMPARED, checkpoint_a=5, checkpoint_b=3), "b")  # 3 is better once more
    add_vote(db, replace(COMPARED, checkpoint_b=6), "b")  # another pair
    assert vote_counts(db, 3, 5) == Counts(a=3, b=1, tie=1, both_wrong=1)
    assert vote_counts(db, 5, 3) == Counts(a=1, b=3, tie=1, both_wrong=1)
    assert vote_counts(db, 3, 7) == Counts()


def test_a_vote_is_kept_with_all_that_was_seen(db):
    add_vote(db, replace(COMPARED, answer_b="<b>\x00"), "a")
    with db.read() as connection:
        kept = connection.execute(select(vote)).one()
    assert (kept.checkpoint_a, kept.checkpoint_b, kept.prompt, kept.answer_a) == (3, 5, "37+48", "85")
    assert kept.answer_b == "<b>\N{REPLACEMENT CHARACTER}" and kept.choice == "a" and kept.time > 0
    assert json.loads(kept.settings) == COMPARED.settings


def test_what_is_no_vote_is_refused(db):
    with pytest.raises(ValueError, match="a, b, tie, both_wrong"):
        add_vote(db, COMPARED, "c")
    with pytest.raises(ValueError, match="with itself"):
        add_vote(db, replace(COMPARED, checkpoint_b=3), "a")
    assert vote_counts(db, 3, 5) == Counts()
