"""Tags, notes, archived runs and kept views."""

from __future__ import annotations

import pytest

from storage.labels import (
    LabelError,
    Labels,
    delete_view,
    labels_of,
    list_views,
    plain_line,
    save_view,
    set_archived,
    set_notes,
    set_tags,
)
from storage.runs import RunNotFound, delete_run, run_events, transition


def test_tags_are_words_and_replace_each_other(db, new_run):
    run, other = new_run(status="stopped"), new_run(status="stopped")
    assert set_tags(db, run.id, ["#Paper", " two  words ", "paper"]) == ("paper", "two-words")
    assert set_tags(db, run.id, ["kept"]) == ("kept",)
    assert labels_of(db, [run.id, other.id]) == {run.id: Labels(("kept",))}
    with pytest.raises(LabelError, match="at least one character"):
        set_tags(db, other.id, ["#"])
    with pytest.raises(LabelError, match="at most 40"):
        set_tags(db, other.id, ["x" * 41])
    delete_run(db, run.id)
    assert labels_of(db, [run.id]) == {}


def test_names_are_plain_lines_that_turn_no_direction():
    assert plain_line(" a\n\tb\x00c \u202edrawkcab\u2066 ") == "a b c drawkcab"
    other = "\u05e9\u05dc\u05d5\u05dd \U0001f469\u200d\U0001f52c"  # a right-to-left word, an emoji that is joined
    assert plain_line(other) == other


def test_notes_and_archived_do_not_undo_each_other(db, new_run):
    run = new_run()
    set_notes(db, run.id, "looks good")
    set_archived(db, [run.id], True)
    set_notes(db, run.id, "looked good")
    assert labels_of(db, [run.id])[run.id] == Labels((), "looked good", True)
    set_archived(db, [run.id], False)
    assert labels_of(db, [run.id])[run.id] == Labels((), "looked good", False)


def test_archiving_an_unknown_run_changes_nothing(db, new_run):
    run = new_run()
    with pytest.raises(RunNotFound):
        set_archived(db, [run.id, 99], True)
    assert labels_of(db, [run.id, 99]) == {}


def test_a_view_replaces_the_one_of_its_name(db):
    save_view(db, "  my   view ", "?run=1")
    kept = save_view(db, "my view", "run=1,2&x=time")
    assert list_views(db) == [kept] and kept.query == "run=1,2&x=time"
    with pytest.raises(LabelError, match="1 to 80"):
        save_view(db, " ", "run=1")
    delete_view(db, kept.id)
    assert list_views(db) == []


def test_an_event_knows_the_step_at_which_it_happened(db, new_run):
    run = new_run(status="stopped")
    assert transition(db, run.id, ("stopped",), "queued", step=17)
    assert [event.step for event in run_events(db, run.id)] == [0, 17]
