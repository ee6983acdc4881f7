"""The New run page in a browser: a look at the task, a config file in and out, the line on what Start does."""

from __future__ import annotations

import json

import pytest
from playwright.sync_api import expect

from bgpo.presets import adder
from storage.runs import delete_run, list_runs
from storage.settings import pause_queue
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
