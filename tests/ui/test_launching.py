"""Launching in a browser. The New run page: a look at the task, a config file in and out, the line on what Start does.
The queue: buttons, drag and menu move runs, the pause holds; a failed run's fix, a fork of it. One app for both."""

from __future__ import annotations

import contextlib
import json
import re

import pytest
from playwright.sync_api import expect

from bgpo.config import TrainConfig
from bgpo.jobs import control
from bgpo.presets import adder
from storage.checkpoints import add_checkpoint
from storage.queue import queued_runs
from storage.runs import delete_run, get_run, list_runs, transition
from storage.settings import pause_queue, queue_paused
from tests.waiting import wait_until
from ui.run_words import config_file

HOSTILE = "<img src=x onerror=window.hacked=1>"
OWN = f'''
def problems(split): return [{{"q": "{HOSTILE}" + str(n) + split, "answer": str(n)}} for n in range(8)]
def prompt(problem): return problem["q"]
def reward(problem, completion): return {{"correct": float(completion == problem["answer"])}}
'''


@pytest.mark.slow
def test_the_line_on_the_start_follows_the_queue(app, db, page):
    page.goto(f"{app.url}/?tab=new")
    line = page.locator(".lc-starts")
    expect(line).to_have_text("Starts now on the CPU")
    pause_queue(db, True)
    expect(line).to_have_text("The queue is paused: it will wait")
    pause_queue(db, False)
    expect(line).to_have_text("Starts now on the CPU")


def test_the_task_is_looked_at_and_a_config_file_fills_the_form(app, page, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(OWN)
    page.goto(f"{app.url}/?tab=new")
    expect(page.locator(".lc-starts")).to_have_text("Starts now on the CPU")
    page.locator("#new-run-task summary").click()
    problems = page.locator("#new-run-task .problem")
    expect(problems).to_have_count(6)
    page.get_by_role("button", name="Take the right answer").click()
    expect(page.locator("#new-run-task .verdict")).to_contain_text("Right")
    page.get_by_label("A completion to judge").fill(HOSTILE)
    page.get_by_role("button", name="Judge it").click()
    expect(page.locator("#new-run-task .verdict")).to_contain_text("Wrong")

    values = adder().model_dump() | {"task": "own_file", "task_file": str(own), "group_size": 1, "colour": "red"}
    given = {"name": "mine.json", "mimeType": "application/json", "buffer": json.dumps(values).encode()}
    page.locator("#new-run-file input").set_input_files(given)
    expect(page.locator("#new-run-file .said")).to_contain_text("The form holds what mine.json says")
    expect(page.locator("#new-run-file .said li")).to_have_text("There is no knob 'colour', so it was left out.")
    expect(page.locator(".lc-problems")).to_contain_text("group_size")
    expect(problems.first).to_contain_text(HOSTILE)

    wanted = adder().with_values(mc_samples=16, seed=9)
    given = {"name": "config.json", "mimeType": "application/json", "buffer": wanted.to_json().encode()}
    page.locator("#new-run-file input").set_input_files(given)
    expect(page.locator(".lc-changes")).to_contain_text("mc_samples")
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download config").click()
    assert saving.value.path().read_text() == config_file(wanted)
    assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_two_keys_start_a_run_from_the_run_list(app, db, page):
    pause_queue(db, True)
    page.goto(app.url)
    expect(page.locator(".bgpo-run-list ul")).to_be_attached()  # its keys are there with it
    page.keyboard.press("n")
    expect(page.locator(".lc-starts")).to_have_text("The queue is paused: it will wait")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".bgpo-run-header .one h2")).not_to_be_empty()
    (run,) = list_runs(db)
    assert run.status == "queued"
    delete_run(db, run.id)
    pause_queue(db, False)


# ---- the queue ----


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
    pause_queue(db, False)


def test_the_queue_is_moved_and_paused_by_hand(queue):
    page, db, ids, _ = queue
    row = page.locator(".bgpo-queue-card li")
    row.nth(2).get_by_label("Move run 2 up").click()
    wait_until(lambda: queued_runs(db) == [ids[0], ids[2], ids[1], ids[3]], "the move")
    expect(row.nth(1)).to_contain_text("run 2")
    row.nth(3).drag_to(row.nth(0), target_position={"x": 40, "y": 3})
    wait_until(lambda: queued_runs(db)[0] == ids[3], "the drag")
    expect(row.locator(".name")).to_have_text(["run 3", "run 0", "run 2", "run 1"])
    row.nth(3).get_by_label("More of this run").click()
    page.get_by_role("button", name="High priority").click()
    wait_until(lambda: queued_runs(db)[0] == ids[1], "the priority")
    expect(row.nth(0)).to_contain_text("high priority")
    expect(page.locator(".bgpo-queue-card .note")).to_contain_text("Paused: nothing is started")
    page.get_by_role("button", name="Go on").click()
    wait_until(lambda: not queue_paused(db), "the queue to go on")


def test_a_dragged_run_stays_where_it_was_put_whatever_poll_was_under_way(queue):
    page, db, ids, _ = queue
    held = []

    def hold_the_first(route):
        if held:
            route.continue_()
        else:
            held.append((route, route.fetch()))  # what the queue was before the drag

    page.route("**/api/live?*", hold_the_first)
    while not held:
        page.wait_for_timeout(20)
    row = page.locator(".bgpo-queue-card li")
    row.nth(3).drag_to(row.nth(0), target_position={"x": 40, "y": 3})
    wait_until(lambda: queued_runs(db)[0] == ids[3], "the drag")
    page.evaluate("""() => {
        const list = document.querySelector(".bgpo-queue-card ol");
        window.firsts = new Set();
        const look = () => { window.firsts.add(list.querySelector(".name").textContent); requestAnimationFrame(look); };
        look();
    }""")
    with page.expect_response("**/api/live?*"):  # of the old answer
        held[0][0].fulfill(response=held[0][1])
    with page.expect_response("**/api/live?*"):
        pass
    expect(row.locator(".name")).to_have_text(["run 3", "run 0", "run 1", "run 2"])
    assert page.evaluate("[...window.firsts]") == ["run 3"]


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
