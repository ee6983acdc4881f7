"""The app as a person meets it: the real process, a real short run, a headless Chromium.

Run it alone with `pytest tests/ui/test_browser.py`.
"""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
import torch
from playwright.sync_api import APIResponse, Locator, Page, Route, expect

from bgpo.jobs import runner
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from bgpo.presets import PRESETS
from storage.alerts import Alert
from storage.checkpoints import add_checkpoint
from storage.completions import Completion
from storage.database import Database, open_database, sqlite_url
from storage.metrics import Point, Progress, flush
from storage.rollouts import Rollout
from storage.runs import Run, create_run, get_run, transition
from storage.votes import Counts, vote_counts
from tests.ui.studio import App
from tests.waiting import paused, wait_until

SHORT = "preset=adder&warmup_steps=40&train_steps=24&eval_every=4&prompts_per_step=4&group_size=4&eval_problems=8"
HOSTILE = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>${window.hacked=1}{{constructor}}</pre>"


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


def drag_zoom(page: Page, name: str) -> None:
    """Zooms into the middle of a chart with the mouse."""
    area = page.locator(f'[data-chart="{name}"] .nsewdrag').first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    area.hover(position={"x": box["width"] * 0.2, "y": box["height"] / 2})  # waits until the page stands still
    box = area.bounding_box()
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()


def whole_run(page: Page) -> Locator:
    return page.get_by_role("button", name="Whole run")


def start_a_run(page: Page, url: str) -> None:
    """The two clicks."""
    page.goto(url)
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    page.locator('[data-preset="adder"] .choose').click()
    page.get_by_role("button", name="Start", exact=True).click()
    expect(page.locator(".bgpo-run-header .one h2")).not_to_be_empty()


def test_two_clicks_start_a_run_whose_charts_grow_and_keep_their_zoom_and_chat_answers(app, db, page):
    start_a_run(page, f"{app.url}/?{SHORT}")
    expect(page.locator('[data-chart="warmup"] .nsewdrag').first).to_be_attached()
    wait_until(lambda: get_run(db, 1).step >= 1, "the first training step", seconds=120)
    with paused(db, get_run(db, 1).pid):  # or it could be at its end before the mouse is
        page.locator('[data-chart="time"]').scroll_into_view_if_needed()  # charts off the screen are not drawn
        wait_until(lambda: chart_state(page, "time")["points"] > 0, "the first training step on its chart")
        page.locator('[data-chart="time"] .plot').evaluate("plot => { plot.dataset.mark = 'same'; }")
        rollout = page.locator('[data-chart="time"] .legend button', has_text="Rollout")
        rollout.click()
        expect(rollout).to_have_attribute("aria-pressed", "false")
        drag_zoom(page, "time")
        expect(whole_run(page)).to_be_visible()
        zoomed = chart_state(page, "time")

    grown = wait_until(lambda: (s := chart_state(page, "time"))["points"] > zoomed["points"] and s, "more points")
    assert grown["x"] == pytest.approx(zoomed["x"]) and grown["node"] == "same"
    expect(rollout).to_have_attribute("aria-pressed", "false")

    expect(page.locator(".bgpo-run-header .bgpo-chip")).to_have_text("Finished", timeout=120_000)
    expect(page.locator(".bgpo-held-out .cell").nth(5)).to_be_attached()
    whole_run(page).click()
    whole = wait_until(lambda: chart_state(page, "time")["x"], "the whole run")
    assert whole != pytest.approx(zoomed["x"])

    page.locator("#run-checkpoints-button").click()
    page.get_by_role("link", name="Chat with it").last.click()
    expect(page).to_have_url(re.compile(r"tab=chat.*checkpoint=\d+"))
    generate = page.get_by_role("button", name="Generate", exact=True)
    expect(generate).to_be_enabled()  # the page has put its own example into the prompt by then
    page.get_by_label("Prompt").fill("37+48")
    generate.click()
    stage = page.locator("#chat-stage")
    expect(stage.locator(".ds-verdict")).to_have_text(re.compile("Reward [01]"), timeout=120_000)
    expect(stage.locator(".ds-canvas .ds-chip")).to_have_count(8)


def test_the_lab_compares_writes_again_and_takes_traces_away_and_back(app, db, page, tmp_path):
    run = failed_run(app, db, "lab")
    for seed in (0, 1):
        folder = tmp_path / f"step-{seed}"
        model = build_tiny(torch.Generator().manual_seed(seed))
        save_checkpoint(folder, model, TrainingState("training", seed, 1.0, 1), None)
        add_checkpoint(db, run.id, seed, "evaluation", str(folder), 0.5)
    page.goto(f"{app.url}/?tab=lab")
    lab = page.locator(".bgpo-lab")
    blocks = lab.locator("label", has_text="Block").locator("select")
    expect(blocks.locator("option")).to_have_text(["1", "2", "4", "8"])
    lab.get_by_label("Length", exact=True).fill("12")
    expect(blocks.locator("option")).to_have_text(["1", "2", "3", "4", "6", "12"])
    expect(blocks).to_have_value("6")
    lab.get_by_label("Length", exact=True).fill("")
    lab.get_by_label("Length", exact=True).press_sequentially("16")  # 1 on the way
    expect(blocks).to_have_value("8")
    lab.get_by_label("Length", exact=True).fill("8")
    expect(blocks).to_have_value("8")
    lab.get_by_role("button", name="Compare with another").click()
    expect(lab.locator(".checkpoints select")).to_have_count(2)
    lab.get_by_role("button", name="Denoise").click()
    expect(lab.locator(".part")).to_have_count(2)
    expect(lab.locator(".part > header span").nth(1)).to_contain_text("the first")
    lab.get_by_role("button", name="Remove").nth(1).click()
    lab.get_by_role("button", name="Denoise").click()
    expect(lab.locator(".ds-verdict")).to_contain_text("Reward")
    lab.locator(".ds-chip").nth(1).click()
    lab.locator(".ds-chip").nth(2).click(modifiers=["Shift"])
    lab.get_by_role("button", name="Write positions 2 to 3 again").click()
    expect(lab.locator(".ds-locked")).to_have_count(6)
    expect(lab.locator(".ds-verdict")).to_contain_text("Reward")
    with page.expect_download() as saved:
        lab.get_by_role("button", name="JSON").click()
    lab.locator("input[type=file]").set_input_files(saved.value.path())
    expect(lab.locator(".ds-locked")).to_have_count(6)


def test_two_checkpoints_answer_on_the_chat_page_and_the_vote_is_kept(app, db, page, tmp_path):
    run = failed_run(app, db, "vote")
    ids = []
    for seed in (0, 1):
        folder = tmp_path / f"step-{seed}"
        model = build_tiny(torch.Generator().manual_seed(seed))
        save_checkpoint(folder, model, TrainingState("training", seed, 1.0, 1), None)
        ids.append(add_checkpoint(db, run.id, seed, "evaluation", str(folder), 0.5).id)
    page.goto(f"{app.url}/?tab=chat&checkpoint={ids[1]}")
    expect(page.get_by_role("button", name="Generate", exact=True)).to_be_enabled()
    expect(page.locator("#chat-stage-b")).not_to_be_visible()
    page.locator("#chat-checkpoint_b input").click()
    page.get_by_role("option").filter(has_text=f"Run {run.id} \u00b7 step 0").click()
    expect(page.locator("#chat-vote-counts")).to_have_text("No votes on this pair yet.")
    page.get_by_label("Prompt").fill("37+48")
    page.get_by_role("button", name="Generate", exact=True).click()
    for stage in ("#chat-stage", "#chat-stage-b"):
        expect(page.locator(f"{stage} .ds-verdict")).to_contain_text("Reward", timeout=120_000)
        expect(page.locator(f"{stage} .ds-status")).to_contain_text("tokens/s")
    page.get_by_role("button", name="B is better").click()
    expect(page.locator("#chat-vote-counts")).to_have_text("Kept: B is better. A 0 : 1 B")
    expect(page.get_by_role("button", name="Tie")).to_be_disabled()
    assert vote_counts(db, *ids) == Counts(a=1)  # it was B here, and is the first of the two asked for


@pytest.mark.slow
def test_a_run_survives_the_app_and_is_found_again(start_app, page, tmp_path):
    first = start_app()
    start_a_run(page, f"{first.url}/?{SHORT.replace('train_steps=24', 'train_steps=100000')}")
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    wait_until(lambda: get_run(db, 1).step >= 2, "two training steps", seconds=120)
    page.goto("about:blank")  # a browser logs lost connections as errors by itself
    first.stop()
    before = get_run(db, 1).step
    wait_until(lambda: get_run(db, 1).step > before, "a step without the app")

    second = start_app()
    page.goto(f"{second.url}/?run=1")
    chip = page.locator(".bgpo-run-header .bgpo-chip")
    expect(chip).to_have_text(re.compile("Training|Evaluating"))
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(chip).to_have_text("Stopped")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    # its last word comes a moment before its end, and only then it may be deleted
    wait_until(lambda: runner.lock_state(Path(get_run(db, 1).folder)) == "free", "the run's processes to end")
    page.get_by_role("button", name="Delete").click()
    page.locator("dialog").get_by_role("button", name="Cancel").click()
    assert get_run(db, 1).status == "stopped"
    page.get_by_role("button", name="Delete").click()
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    page.goto("about:blank")
    second.stop()
    db.close()


def failed_run(app: App, db: Database, text: str) -> Run:
    """A run with `text` wherever a text can be. It never looks alive: the app would settle it."""
    config = PRESETS["adder"].config()
    run = create_run(db, name=text, config_json=config.to_json(), train_steps=60, runs_folder=app.data_dir / "runs",
                     status="stopped")
    trace = json.dumps([[1, 0, text, 0.5], [2, 1, "<eos>", 0.9]])
    flush(db, run.id, [Point("reward/heldout_greedy", step, step, 0.5) for step in (0, 5)],
          [Completion(step, "held_out", 0, text, text, text, 0.0, text, trace) for step in (0, 5)])
    (Path(run.folder) / "log.txt").write_text(text + "\n")
    assert transition(db, run.id, ("stopped",), "failed", reason=text)
    return run


@pytest.mark.slow
def test_samples_that_come_after_their_reward_are_shown(app, db, page):
    run = failed_run(app, db, "late")
    page.goto(f"{app.url}/?run={run.id}")
    steps = page.locator(".bgpo-held-out th.step")
    expect(steps).to_have_text(["warm start", "5"])
    with page.expect_response(lambda answer: "/completions?after_step=5" in answer.url):  # the page has asked in vain
        flush(db, run.id, [Point("reward/heldout_greedy", 10, 10.0, 0.5)])
    late = Completion(10, "held_out", 0, "late", "late", "late", 0.0, "", "[]")
    flush(db, run.id, [Point("reward/mean", 11, 11.0, 0.5)], [late])
    expect(steps).to_have_text(["warm start", "5", "10"])


def kept_groups(db: Database, run: Run) -> None:
    """Three steps of two groups each: one mixed, one paid for its form alone; each prompt is drawn at every step."""
    trace = json.dumps([[1, 1, "b", 0.5], [2, 0, "a", 0.9]])
    for step in (1, 2, 3):
        kept = [
            Rollout(step, problem, index, f"{HOSTILE} problem {problem}", f"{HOSTILE} answer {step}.{problem}.{index}",
                    "ab", float(problem or index == 0), 0.5 - index, 2, HOSTILE, {"tags": float(problem)},
                    trace, problem == index == 0)
            for problem in (0, 1) for index in (0, 1)
        ]  # fmt: skip
        flush(db, run.id, [Point("reward/mean", step, step, 0.25)], rollouts=kept)


def test_rollouts_are_looked_through_by_step_kind_text_and_prompt(app, db, page):
    run = failed_run(app, db, "groups")
    kept_groups(db, run)
    page.goto(f"{app.url}/?run={run.id}")
    page.locator("#run-rollouts-button").click()
    view = page.locator(".bgpo-rollouts")
    expect(view.locator(".group")).to_have_count(2)
    expect(view.locator(".under .step")).to_have_text("Step 3")
    expect(view.locator(".order i")).to_have_count(8)

    view.get_by_role("button", name="All wrong").click()
    expect(view.locator(".group")).to_have_count(1)
    expect(view.locator(".group .bgpo-chip").first).to_have_text("All wrong, no signal")
    view.get_by_role("button", name="No signal").click()
    expect(view.get_by_role("button", name="No signal")).to_have_attribute("aria-pressed", "true")
    expect(view.locator(".group")).to_have_count(1)
    view.get_by_role("slider", name="Training step").press("ArrowLeft")
    expect(view.locator(".under .step")).to_have_text("Step 2")
    expect(page).to_have_url(re.compile(r"step=2"))
    expect(view.locator(".cell").first).to_contain_text("answer 2.1.0")

    view.locator(".cell").first.click()
    expect(view.locator(".detail .ds-chip")).to_have_count(2)
    expect(view.locator(".detail .reason")).to_have_text(HOSTILE)
    view.get_by_role("button", name="Follow this prompt").click()
    expect(view.locator(".line circle")).to_have_count(3)

    view.get_by_role("searchbox").fill("answer 1.0")
    expect(view.locator(".hit")).to_have_count(2)
    expect(view.locator(".hit mark").first).to_have_text("answer 1.0")
    view.locator(".hit").first.click()
    expect(view.locator(".under .step")).to_have_text("Step 1")
    page.locator("h3", has_text="Rollouts").click()
    page.keyboard.press("]")
    expect(view.locator(".under .step")).to_have_text("Step 2")
    assert page.evaluate("window.hacked") is None


@pytest.mark.slow
def test_a_run_that_is_opened_during_a_poll_stays_open(app, db, page):
    """The answer on its way was made before the run was."""
    failed_run(app, db, "old")
    page.goto(app.url)
    title = page.locator(".bgpo-run-header .one h2")
    expect(title).to_have_text("old")
    held: list[tuple[Route, APIResponse]] = []
    page.route("**/api/live?*", lambda route: held.append((route, route.fetch())), times=1)
    page.evaluate("void window.bgpo.live.poll()")
    wait_until(lambda: page.evaluate("1") and held, "a poll")
    page.evaluate("id => window.bgpo.openRun(id)", failed_run(app, db, "new").id)
    route, answer = held[0]
    route.fulfill(response=answer)
    expect(title).to_have_text("new")


def sick_run(app: App, db: Database, name: str, alerts: list[Alert]) -> Run:
    """A stopped run with twenty steps, an unknown metric and alerts."""
    config = PRESETS["adder"].config()
    run = create_run(db, name=name, config_json=config.to_json(), train_steps=60, runs_folder=app.data_dir / "runs",
                     status="stopped")
    names = ("reward/heldout_greedy", "reward/mean", "grad/norm", "grad/of_tomorrow", "strange/thing")
    flush(db, run.id, [Point(metric, step, step, 0.5) for metric in names for step in range(1, 21)],
          progress=Progress("training", 20, 60, None, 20, 20.0), alerts=alerts)
    return get_run(db, run.id)


@pytest.mark.slow
def test_alerts_are_shown_where_one_looks_and_come_live(app, db, page):
    first = Alert(3, "policy_drift", "warning", HOSTILE, time.time() - 9)
    run = sick_run(app, db, "sick", [first])
    page.goto(f"{app.url}/?run={run.id}")
    rows = page.locator(".bgpo-run-header .alerts li")
    badge = page.locator(f'.bgpo-run-list [data-run="{run.id}"] .badge')
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("Warning at step 3")
    expect(rows.first.locator(".text")).to_have_text(HOSTILE)
    expect(badge).to_contain_text("1 alert")
    expect(page.locator('[data-chart="reward"] .shapelayer path')).to_have_count(2)  # the warm start's level, the alert

    more = [Alert(9 + n, "no_signal", "serious", f"Message {n}.", time.time() + n) for n in range(3)]
    flush(db, run.id, [Point("reward/mean", 21, 21.0, 0.5)], alerts=more)
    expect(rows.first).to_contain_text("Serious at step 11")
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

    well = sick_run(app, db, "well", [])
    page.goto(f"{app.url}/?run={well.id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text("well")
    expect(page.locator('[data-chart="reward"] .nsewdrag').first).to_be_attached(timeout=20_000)
    expect(page.locator(".bgpo-run-header .alerts")).to_be_hidden()
    expect(page.locator(f'.bgpo-run-list [data-run="{well.id}"] .badge')).to_be_hidden()


@pytest.mark.slow
def test_charts_stand_in_sections_that_fold_and_only_with_data(app, db, page):
    run = sick_run(app, db, "sections", [])
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
    expect(folded).to_have_attribute("aria-expanded", "false")
    folded.click()
    expect(gradient.locator('[data-chart="grad_norm"] .nsewdrag').first).to_be_visible()


def test_the_address_and_the_theme_are_remembered(app, db, page):
    run = failed_run(app, db, "a run")
    page.goto(f"{app.url}/?run={run.id}&x=time")
    expect(page.locator('.bgpo-board-tools [data-axis="time"]')).to_have_attribute("aria-pressed", "true")
    page.locator("#area-system-button").click()
    page.reload()
    expect(page.locator("#area-system-button")).to_have_attribute("aria-selected", "true")
    dark = page.evaluate("document.body.classList.contains('dark')")
    page.get_by_role("button", name=re.compile("Switch to the")).click()
    wait_until(lambda: page.evaluate("document.body.classList.contains('dark')") != dark, "the chosen theme")
    page.reload()
    expect(page.locator("#area-system-button")).to_be_visible()
    wait_until(lambda: page.evaluate("document.body.classList.contains('dark')") != dark, "the remembered theme")
