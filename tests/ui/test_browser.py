"""The app as a person meets it: the real process, a real short run, a headless Chromium.

Run it alone with `pytest tests/ui/test_browser.py`.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from bgpo.presets import PRESETS
from storage.alerts import Alert
from storage.completions import Completion
from storage.database import open_database, sqlite_url
from storage.metrics import Point, Progress, flush
from storage.runs import create_run, get_run, transition

ROOT = Path(__file__).parents[2]
SHORT = "preset=adder&warmup_steps=40&train_steps=24&eval_every=4&prompts_per_step=4&group_size=4&eval_problems=8"
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>${window.hacked=1}{{constructor}}</pre>"
# what Gradio's client says when a page is left while one of its streams is open
LEFT_THE_PAGE = re.compile("AbortError: signal is aborted|Connection errored out")


@dataclass
class App:
    """A running app process."""

    url: str
    data_dir: Path
    process: subprocess.Popen

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)


def start_app(data_dir: Path) -> App:
    """`python app.py` on a free port, once it answers."""
    command = [sys.executable, "app.py", "--data-dir", str(data_dir), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    line = process.stdout.readline()
    found = re.search(r"http://\S+", line)
    assert found, f"The app did not start: {line}{process.stdout.read()}"
    return App(found.group(), data_dir, process)


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    running = start_app(tmp_path_factory.mktemp("data"))
    yield running
    running.stop()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page that fails the test when anything went wrong in its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []

    def heard(message) -> None:
        if message.type == "error" and not LEFT_THE_PAGE.search(message.text):
            wrong.append(message.text)

    opened.on("console", heard)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert wrong == []


def chart_state(page: Page, name: str) -> dict:
    """What Plotly holds of a chart: its number of points and its ranges."""
    return page.evaluate(
        """name => {
            const plot = document.querySelector(`[data-chart="${name}"] .plot`);
            const points = (plot.data || []).reduce((sum, trace) => sum + trace.x.length, 0);
            return {points, x: plot.layout?.xaxis?.range?.slice(), node: plot.dataset.mark ?? null};
        }""",
        name,
    )


def wait_until(condition, seconds: float, what: str):
    """The first true answer of `condition`, asked for a few times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.2)
    pytest.fail(f"Waited {seconds} s for {what}.")


def drag_zoom(page: Page, name: str) -> None:
    """Zooms into the middle of a chart with the mouse."""
    area = page.locator(f'[data-chart="{name}"] .nsewdrag').first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] * 0.2, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, middle, steps=6)
    page.mouse.up()


def test_two_clicks_start_a_run_whose_charts_grow_and_keep_their_zoom_and_chat_answers(app, page):
    page.goto(f"{app.url}/?{SHORT}")
    expect(page.get_by_text("No runs yet.")).to_be_visible(timeout=20_000)
    page.locator('[data-preset="adder"] .choose').click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".bgpo-run-header .one h2")).not_to_be_empty()

    expect(page.locator('[data-chart="warmup"] .nsewdrag').first).to_be_attached(timeout=60_000)
    page.locator('[data-chart="time"]').scroll_into_view_if_needed()  # charts off the screen are not drawn
    wait_until(lambda: chart_state(page, "time")["points"] > 0, 90, "the first training step")
    page.locator('[data-chart="time"] .plot').evaluate("plot => { plot.dataset.mark = 'same'; }")
    rollout = page.locator('[data-chart="time"] .legend button', has_text="Rollout")
    rollout.click()
    drag_zoom(page, "time")
    expect(page.locator('[data-chart="time"] .reset')).to_be_visible()
    zoomed = chart_state(page, "time")

    grown = wait_until(lambda: (s := chart_state(page, "time"))["points"] > zoomed["points"] and s, 60, "more points")
    assert grown["x"] == pytest.approx(zoomed["x"]) and grown["node"] == "same"
    assert rollout.get_attribute("aria-pressed") == "false"

    expect(page.locator(".bgpo-run-header .bgpo-chip")).to_have_text("Finished", timeout=120_000)
    assert page.locator(".bgpo-held-out .cell").count() >= 6
    page.locator('[data-chart="time"] .reset').click()
    assert chart_state(page, "time")["x"] != pytest.approx(zoomed["x"])

    page.locator("#run-checkpoints-button").click()
    page.get_by_role("link", name="Chat with it").last.click()
    expect(page).to_have_url(re.compile(r"tab=chat.*checkpoint=\d+"))
    generate = page.get_by_role("button", name="Generate", exact=True)
    expect(generate).to_be_enabled(timeout=20_000)  # the page has put its own example into the prompt by then
    page.get_by_label("Prompt").fill("37+48")
    generate.click()
    stage = page.locator("#chat-stage")
    expect(stage.locator(".ds-verdict")).to_have_text(re.compile("Reward [01]"), timeout=60_000)
    assert stage.locator(".ds-canvas .ds-chip").count() == 8


def test_a_run_survives_the_app_and_is_found_again(app, page, tmp_path):
    first = start_app(tmp_path)
    page.goto(f"{first.url}/?{SHORT.replace('train_steps=24', 'train_steps=2000')}")
    page.locator('[data-preset="adder"] .choose').click(timeout=20_000)
    page.get_by_role("button", name="Start", exact=True).click()
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    try:
        wait_until(lambda: get_run(db, 1).step >= 2, 90, "two training steps")
        page.goto("about:blank")  # a browser logs lost connections as errors by itself
        first.stop()
        before = get_run(db, 1).step
        wait_until(lambda: get_run(db, 1).step > before, 60, "a step without the app")

        second = start_app(tmp_path)
        page.goto(f"{second.url}/?run=1")
        chip = page.locator(".bgpo-run-header .bgpo-chip")
        expect(chip).to_have_text(re.compile("Training|Evaluating"), timeout=20_000)
        page.get_by_role("button", name="Stop", exact=True).click()
        expect(chip).to_have_text("Stopped", timeout=30_000)
        expect(page.get_by_role("button", name="Resume")).to_be_visible()
        page.get_by_role("button", name="Delete").click()
        page.locator("dialog").get_by_role("button", name="Cancel").click()
        assert get_run(db, 1).status == "stopped"
        page.get_by_role("button", name="Delete").click()
        page.locator("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_text("No runs yet.")).to_be_visible()
        page.goto("about:blank")
        second.stop()
    finally:
        first.stop()
        end_worker(db)


def end_worker(db) -> None:
    """A failed test must not leave a process behind."""
    from bgpo.jobs import control
    from storage.database import StorageError

    try:
        pid = get_run(db, 1).pid
    except StorageError:
        return
    if get_run(db, 1).status == "running" and pid:
        control.kill(db, 1)
        os.kill(pid, signal.SIGKILL)


def test_text_of_models_and_users_is_never_run(app, page):
    db = open_database(sqlite_url(app.data_dir / "bgpo.db"))
    config = PRESETS["adder"].config()
    run = create_run(db, name=HOSTILE, config_json=config.to_json(), train_steps=60, runs_folder=app.data_dir / "runs")
    transition(db, run.id, ("queued",), "launching")
    transition(db, run.id, ("launching",), "running")
    trace = json.dumps([[1, 0, HOSTILE, 0.5], [2, 1, "<eos>", 0.9]])
    flush(db, run.id, [Point("reward/heldout_greedy", step, step, 0.5) for step in (0, 5)],
          [Completion(step, "held_out", 0, HOSTILE, HOSTILE, HOSTILE, 0.0, HOSTILE, trace) for step in (0, 5)])
    (Path(run.folder) / "log.txt").write_text(HOSTILE + "\n")
    transition(db, run.id, ("running",), "failed", reason=HOSTILE)

    page.goto(f"{app.url}/?run={run.id},1")
    expect(page.get_by_text("Comparing 2 runs")).to_be_visible(timeout=20_000)
    page.goto(f"{app.url}/?run={run.id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text(HOSTILE, timeout=20_000)
    expect(page.locator(".bgpo-run-header .failure")).to_contain_text("<script>")
    page.locator(".bgpo-held-out .cell").first.click()
    page.locator('[data-chart="reward"] .nsewdrag').first.hover()
    for name in ("config", "log", "checkpoints"):
        page.locator(f"#run-{name}-button").click()
    page.locator("#run-log-button").click()
    expect(page.locator(".bgpo-log-tail pre")).to_contain_text("<script>")
    assert page.evaluate("window.hacked") is None
    assert page.locator("#bgpo-home img").count() == 0


def sick_run(app, name: str, alerts: list[Alert]):
    """A running run with twenty steps, an unknown metric and alerts; the database to write more with."""
    db = open_database(sqlite_url(app.data_dir / "bgpo.db"))
    config = PRESETS["adder"].config()
    run = create_run(db, name=name, config_json=config.to_json(), train_steps=60, runs_folder=app.data_dir / "runs")
    transition(db, run.id, ("queued",), "launching")
    transition(db, run.id, ("launching",), "running")
    names = ("reward/heldout_greedy", "reward/mean", "grad/norm", "grad/of_tomorrow", "strange/thing")
    flush(db, run.id, [Point(metric, step, step, 0.5) for metric in names for step in range(1, 21)],
          progress=Progress("training", 20, 60, None, 20, 20.0), alerts=alerts)
    return db, get_run(db, run.id)


def test_alerts_are_shown_where_one_looks_and_come_live(app, page):
    first = Alert(3, "policy_drift", "warning", HOSTILE, time.time() - 9)
    db, run = sick_run(app, "sick", [first])
    page.goto(f"{app.url}/?run={run.id}")
    rows = page.locator(".bgpo-run-header .alerts li")
    badge = page.locator(f'.bgpo-run-list [data-run="{run.id}"] .badge')
    expect(rows).to_have_count(1, timeout=20_000)
    expect(rows.first).to_contain_text("Warning at step 3")
    expect(rows.first.locator(".text")).to_have_text(HOSTILE)
    expect(badge).to_contain_text("1 alert")
    expect(page.locator('[data-chart="reward"] .shapelayer path')).to_have_count(2)  # the warm start's level, the alert

    more = [Alert(9 + n, "no_signal", "serious", f"Message {n}.", time.time() + n) for n in range(3)]
    flush(db, run.id, [Point("reward/mean", 21, 21.0, 0.5)], alerts=more)
    expect(rows.first).to_contain_text("Serious at step 11", timeout=15_000)
    expect(rows).to_have_count(2)
    expect(page.locator(".alert-box [aria-live]")).to_contain_text("Serious in sick at step 11: Message 2.")
    expect(badge).to_contain_text("4 alerts, 3 serious")
    expect(page.locator('[data-chart="reward"] .shapelayer path')).to_have_count(5)
    older = page.get_by_role("button", name="Show 2 older")
    older.focus()
    page.keyboard.press("Enter")
    expect(rows).to_have_count(4)
    expect(rows.last).to_contain_text("Warning at step 3")
    page.get_by_role("button", name="Show fewer").click()
    expect(rows).to_have_count(2)
    assert page.evaluate("window.hacked") is None

    _, well = sick_run(app, "well", [])
    page.goto(f"{app.url}/?run={well.id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text("well", timeout=20_000)
    expect(page.locator('[data-chart="reward"] .nsewdrag').first).to_be_attached(timeout=20_000)
    expect(page.locator(".bgpo-run-header .alerts")).to_be_hidden()
    expect(page.locator(f'.bgpo-run-list [data-run="{well.id}"] .badge')).to_be_hidden()
    for run_id in (run.id, well.id):
        transition(db, run_id, ("running",), "stopped")


def test_charts_stand_in_sections_that_fold_and_only_with_data(app, page):
    db, run = sick_run(app, "sections", [])
    page.goto(f"{app.url}/?run={run.id}")
    gradient = page.locator('[data-section="gradient"]')
    expect(gradient.locator('[data-chart="grad_norm"] .nsewdrag').first).to_be_attached(timeout=20_000)
    expect(gradient.locator('[data-chart="grad/of_tomorrow"] h4')).to_have_text("grad/of_tomorrow")
    expect(gradient.locator('[data-chart="lr"]')).to_be_hidden()
    expect(page.locator('[data-section="other"] [data-chart="strange/thing"]')).to_be_visible()
    expect(page.locator('[data-section="memory"]')).to_be_hidden()
    flush(db, run.id, [Point("memory/rss_mb", 21, 21.0, 300.0)])
    expect(page.locator('[data-section="memory"] [data-chart="memory"]')).to_be_visible(timeout=15_000)

    fold = gradient.get_by_role("button", name="Gradient", exact=True)
    fold.press("Enter")
    expect(gradient.get_by_role("button", name="Gradient 2 charts")).to_have_attribute("aria-expanded", "false")
    expect(gradient.locator('[data-chart="grad_norm"]')).to_be_hidden()
    page.reload()
    folded = gradient.get_by_role("button", name="Gradient 2 charts")
    expect(folded).to_have_attribute("aria-expanded", "false", timeout=20_000)
    folded.click()
    expect(gradient.locator('[data-chart="grad_norm"] .nsewdrag').first).to_be_visible()
    transition(db, run.id, ("running",), "stopped")


def test_the_address_reproduces_the_view_and_the_page_fits_a_phone(app, page):
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{app.url}/?run=1&x=time")
    expect(page.locator('.bgpo-run-header [data-axis="time"]').first).to_have_attribute(
        "aria-pressed", "true", timeout=20_000
    )
    for area in ("runs", "new", "chat", "system"):
        page.locator(f"#area-{area}-button").click()
        page.wait_for_timeout(600)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, area
    page.reload()
    expect(page.locator("#area-system-button")).to_have_attribute("aria-selected", "true", timeout=20_000)
    dark = page.evaluate("document.body.classList.contains('dark')")
    page.get_by_role("button", name=re.compile("Switch to the")).click()
    page.reload()
    expect(page.locator("#area-system-button")).to_be_visible(timeout=20_000)
    wait_until(lambda: page.evaluate("document.body.classList.contains('dark')") != dark, 5, "the chosen theme")
