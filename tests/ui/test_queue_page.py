"""The queue in a browser: buttons, drag and menu move runs, the pause holds; a failed run's fix, a fork of it."""

from __future__ import annotations

import contextlib
import re

import pytest
from playwright.sync_api import expect

from bgpo.config import TrainConfig
from bgpo.jobs import control
from storage.checkpoints import add_checkpoint
from storage.queue import queued_runs
from storage.runs import get_run, list_runs, transition
from storage.settings import pause_queue, queue_paused
from tests.waiting import wait_until


@pytest.fixture
def queue(app, db, page):
    """A paused queue of four runs behind one that failed; (page, database, ids of the four, the failed one's)."""
    folder = app.data_dir / "runs"
    pause_queue(db, True)
    failed = control.submit(db, TrainConfig(mc_samples=8), folder, "broken")
    add_checkpoint(db, failed.id, 5, "evaluation", str(folder / "step-000005"), 0.5)
    for before, after in (("queued", "launching"), ("launching", "running")):
        transition(db, failed.id, (before,), after)
    transition(db, failed.id, ("running",), "failed", failure_kind="oom_gpu", reason="Out of GPU memory at step 6.")
    ids = [control.submit(db, TrainConfig(seed=seed), folder, f"run {seed}").id for seed in range(4)]
    page.goto(f"{app.url}/?run={failed.id}")
    expect(page.locator(".bgpo-queue-card li")).to_have_count(4)
    yield page, db, ids, failed.id
    for id in (*ids, failed.id):
        with contextlib.suppress(control.ControlError):  # it has ended
            control.kill(db, id)
    wait_until(lambda: not queued_runs(db), "the queue to be empty")


def test_the_queue_is_moved_and_paused_by_hand(queue):
    page, db, ids, _ = queue
    row = page.locator(".bgpo-queue-card li")
    row.nth(2).get_by_label("Move run 2 up").click()
    wait_until(lambda: queued_runs(db) == [ids[0], ids[2], ids[1], ids[3]], "the move")
    expect(row.nth(1)).to_contain_text("run 2")
    row.nth(3).drag_to(row.nth(0), target_position={"x": 40, "y": 3})
    wait_until(lambda: queued_runs(db)[0] == ids[3], "the drag")
    expect(row.nth(0)).to_contain_text("run 3")
    row.nth(3).get_by_label("More of this run").click()
    page.get_by_role("button", name="High priority").click()
    wait_until(lambda: queued_runs(db)[0] == ids[1], "the priority")
    expect(row.nth(0)).to_contain_text("high priority")
    expect(page.locator(".bgpo-queue-card .note")).to_contain_text("Paused: nothing is started")
    page.get_by_role("button", name="Go on").click()
    wait_until(lambda: not queue_paused(db), "the queue to go on")


def test_a_failure_offers_its_fix_and_a_fork_opens_the_form(queue):
    page, db, _, failed = queue
    card = page.locator(".bgpo-run-header .failure")
    expect(card).to_contain_text("Out of GPU memory at step 6.")
    page.locator(".bgpo-run-header [data-action=fork]").click()
    expect(page).to_have_url(re.compile(r"tab=new.*start_from=run%3A\d+%40newest"))
    start_from = page.locator("#knob-start_from input, #knob-start_from textarea").first
    expect(start_from).to_have_value(f"run:{failed}@newest")
    expect(page.locator("#knob-mc_samples input").first).to_have_value("8")
    page.locator("#area-runs-button").click()
    card.get_by_role("button", name="Again with smaller passes").click()
    wait_until(lambda: get_run(db, failed).status == "queued", "the run to be queued again")
    assert TrainConfig.from_json(get_run(db, failed).config_json).token_budget > 0


@pytest.mark.slow
def test_a_run_is_evaluated_when_it_ends_by_one_button(queue):
    page, db, ids, _ = queue
    page.locator(".bgpo-queue-card li").nth(0).get_by_text("run 0").click()
    header = page.locator(".bgpo-run-header .one")
    expect(header.locator("h2")).to_have_text("run 0")
    header.get_by_role("button", name="Evaluate when it ends").click()
    follower = header.get_by_role("button", name=re.compile(r"Run \d+ evaluates it when it ends"))
    expect(follower).to_be_visible()
    made = next(run for run in list_runs(db) if run.after_id == ids[0])
    assert TrainConfig.from_json(made.config_json).job == "evaluate"
    follower.click()
    expect(header.locator("h2")).to_have_text("evaluate run 0")
    expect(header).to_contain_text("Evaluates run")
    control.kill(db, made.id)
