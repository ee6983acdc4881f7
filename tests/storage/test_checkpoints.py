"""Checkpoints: one row per run and step, the later kind wins, a measured reward stays."""

from dataclasses import replace

import pytest

from storage.checkpoints import add_checkpoint, all_checkpoints, checkpoints_of
from storage.runs import RunNotFound, delete_run


def test_a_later_checkpoint_of_the_same_step_replaces_the_earlier(db, new_run):
    id = new_run().id
    measured = add_checkpoint(db, id, 60, "evaluation", "/runs/1/checkpoints/step-60", 0.875)
    final = add_checkpoint(db, id, 60, "final", "/runs/1/checkpoints/step-000060")
    assert final == replace(
        measured, kind="final", folder="/runs/1/checkpoints/step-000060", created_at=final.created_at
    )
    assert checkpoints_of(db, id) == [final]
    assert add_checkpoint(db, id, 60, "final", "/x", 0.9).reward == 0.9


def test_all_checkpoints_are_grouped_by_run_newest_first(db, new_run):
    old, new = new_run().id, new_run().id
    for id, step in ((old, 5), (new, 5), (old, 0), (new, 0)):
        add_checkpoint(db, id, step, "evaluation", f"/runs/{id}/{step}")
    assert [(c.run_id, c.step) for c in all_checkpoints(db)] == [(new, 0), (new, 5), (old, 0), (old, 5)]
    assert [c.step for c in checkpoints_of(db, old)] == [0, 5]
    delete_run(db, new)
    assert [c.run_id for c in all_checkpoints(db)] == [old, old]


def test_bad_input_is_refused(db, new_run):
    id = new_run().id
    with pytest.raises(RunNotFound):
        add_checkpoint(db, 999, 0, "final", "/x")
    with pytest.raises(ValueError, match="unknown kind of checkpoint 'best'; available: warm_start"):
        add_checkpoint(db, id, 0, "best", "/x")
    assert all_checkpoints(db) == []
