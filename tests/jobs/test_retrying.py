"""A failed run starts again by itself: which, how often, from where, and when not."""

from __future__ import annotations

import time

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs.ends import End
from bgpo.jobs.retrying import BACKOFF, PASSING, conclude
from storage.checkpoints import add_checkpoint
from storage.queue import Offer, claim_next
from storage.runs import FAILURE_KINDS, create_run, get_run, request, run_events, transition

SLOTS = Offer(("cpu@here:0",))


@pytest.fixture
def claimed(db, runs_folder):
    """A running run that came from the queue."""

    def claimed(**values):
        config = TrainConfig(**values).to_json()
        run = create_run(db, name="test", config_json=config, train_steps=10, runs_folder=runs_folder)
        return running(db, run.id)

    return claimed


def running(db, id):
    transition(db, id, ("queued",), "launching", epoch=get_run(db, id).epoch + 1)
    transition(db, id, ("launching",), "running")
    return get_run(db, id)


def broken(db, run, kind="killed"):
    conclude(db, run, End("failed", "It broke.", kind), who="scheduler")
    return get_run(db, run.id)


def test_once_after_a_while_from_its_newest_checkpoint_and_before_the_others(db, claimed, row):
    run, other = claimed(), row()
    add_checkpoint(db, run.id, 5, "evaluation", "/x")
    now = broken(db, run)
    assert (now.status, now.retries, now.retry_step, now.queue_position) == ("queued", 1, 5, 1)
    assert now.reason == f"Starts again from step 5 in {BACKOFF:.0f} s. It broke."
    assert run_events(db, run.id)[-1].why == now.reason
    assert BACKOFF - 5 < now.start_at - time.time() <= BACKOFF
    assert claim_next(db, SLOTS, now=now.start_at - 1).id == other.id
    add_checkpoint(db, run.id, 6, "evaluation", "/x")
    assert broken(db, running(db, run.id)).status == "failed"  # once is once, although it got further


def test_a_start_that_nobody_took_up_is_made_again_once_whatever_the_config_allows(db, claimed):
    run = claimed(retries=0)
    now = broken(db, run, "launch_timeout")
    assert (now.status, now.retries) == ("queued", 1)
    assert broken(db, running(db, run.id), "launch_timeout").status == "failed"
    assert broken(db, claimed(retries=0)).status == "failed"


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_what_will_be_the_same_again_is_not_tried_again(db, claimed, kind):
    now = broken(db, claimed(), kind)
    assert now.status == ("queued" if kind in PASSING else "failed")
    assert now.failure_kind == kind


def test_a_crash_loop_ends_when_the_checkpoint_does_not_move(db, claimed):
    run = claimed(retries=5)
    waits = []
    for step in (1, 2, 3):
        add_checkpoint(db, run.id, step, "evaluation", "/x")
        now = broken(db, run)
        waits.append(round(now.start_at - time.time()))
        run = running(db, run.id)
    assert waits == [BACKOFF, 2 * BACKOFF, 4 * BACKOFF]
    now = broken(db, run)
    assert (now.status, now.reason, now.retries) == ("failed", "It broke.", 3)


def test_without_a_checkpoint_it_begins_again_once(db, claimed):
    run = claimed(retries=5)
    assert broken(db, run).reason.startswith("Starts again from the beginning")
    assert broken(db, running(db, run.id)).status == "failed"


@pytest.mark.parametrize("what", ["stop", "pause"])
def test_a_run_that_was_to_end_is_not_brought_back(db, claimed, what):
    run = claimed()
    request(db, run.id, what)
    assert broken(db, run).status == "failed"


def test_a_run_that_was_started_in_a_terminal_is_not_taken_over(db, row):
    assert broken(db, row("running", TrainConfig().to_json())).status == "failed"


def test_none_at_all_where_the_config_says_so(db, claimed):
    assert broken(db, claimed(retries=0)).status == "failed"


@pytest.mark.parametrize("policy, status", [("restart", "queued"), ("kill", "failed"), ("show", "failed")])
def test_a_hung_run_comes_back_only_if_its_config_wants_it(db, claimed, policy, status):
    run = claimed(when_stalled=policy)
    request(db, run.id, "hung")
    assert broken(db, run, "hung").status == status


def test_every_other_end_is_just_written(db, claimed):
    run = claimed()
    assert conclude(db, run, End("finished"), who="worker", seconds=3.0)
    assert (get_run(db, run.id).status, get_run(db, run.id).seconds) == ("finished", 3.0)
    assert not conclude(db, run, End("failed", "late", "killed"), who="scheduler")
