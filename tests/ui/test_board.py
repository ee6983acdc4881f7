"""Watching and comparing as a person does it: the run list, the charts, the bound, the memory. Curves are written, not
trained, into the database of a real app; one measurement is a real process."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from bgpo.presets import PRESETS
from storage.database import Database, open_database, sqlite_url
from storage.labels import labels_of
from storage.metrics import Point, Progress, flush
from storage.runs import Run, create_run, get_run, transition
from tests.ui.studio import App
from tests.waiting import wait_until

STEPS = 40
GAPS = {"bound/gap": 0.0, "bound/elbo_objective": 0.0, "bound/gap_after": 0.001, "bound/elbo_objective_after": 0.01}


def finished_run(app: App, db: Database, name: str, gap: float = 0.0, height: float = 0.5, **values) -> Run:
    """A run with curves of forty steps: a straight reward, a spike in the gradient norm, a value that is no number."""
    config = PRESETS["adder"].config().with_values(train_steps=STEPS, **values)
    run = create_run(db, name=name, config_json=config.to_json(), train_steps=STEPS, status="stopped",
                     runs_folder=app.data_dir / "runs")
    figures = GAPS | {"bound/gap": gap, "reward/mean": height, "memory/saved_mb": 64.0, "memory/rss_mb": 500.0,
                      "progress/tokens": None, "progress/compute": None, "grad/norm": None}
    points = []
    for step in range(1, STEPS + 1):
        changing = {"progress/tokens": 512 * step, "progress/compute": 9000 * step,
                    "grad/norm": float("nan") if step == 7 else 9.0 if step == 30 else 1 + step / STEPS}
        points += [Point(name, step, 1.5 * step, value) for name, value in (figures | changing).items()]
    points += [Point("reward/heldout_greedy", step, 1.5 * step, height + step / 200) for step in (0, 20, STEPS)]
    flush(db, run.id, points, progress=Progress("training", STEPS, STEPS, None, STEPS, 60.0))
    assert transition(db, run.id, ("stopped",), "finished")
    return get_run(db, run.id)


def chart(page: Page, name: str):
    return page.locator(f'[data-chart="{name}"]:visible').first


def figure(page: Page, name: str) -> dict:
    """What Plotly holds of a chart."""
    return page.evaluate(
        """name => {
            const plot = [...document.querySelectorAll(`[data-chart="${name}"] .plot`)].find((one) => one.offsetParent);
            const layout = plot?._fullLayout;
            if (!layout?.xaxis) return null;
            return {traces: plot.data.length, x: layout.xaxis.range.slice(), y: layout.yaxis.type,
                    axis: layout.xaxis.title.text, names: plot.data.map((trace) => trace.name || ""),
                    crosses: plot.data.filter((trace) => trace.marker?.symbol === "x-thin").length};
        }""",
        name,
    )


def drawn(page: Page, name: str) -> dict:
    chart(page, name).scroll_into_view_if_needed()
    return wait_until(lambda: figure(page, name), f"the chart {name}")


def drag(page: Page, name: str, start: float, end: float) -> None:
    area = chart(page, name).locator(".nsewdrag").first
    area.scroll_into_view_if_needed()
    area.hover()  # waits until the page stands still
    box = area.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=6)
    page.mouse.up()


@pytest.fixture(scope="module")
def runs(app) -> list[Run]:
    db = open_database(sqlite_url(app.data_dir / "bgpo.db"))
    made = [
        finished_run(app, db, f"rate {rate:g} seed {seed}", learning_rate=rate, seed=seed, height=height + seed / 100)
        for rate, height in ((1e-4, 0.3), (1e-3, 0.6)) for seed in (0, 1)
    ]
    db.close()
    return made


@pytest.mark.skipif(sys.platform != "linux", reason="libraries of a process are listed by Linux alone")
def test_the_web_process_runs_without_torch(app, page, runs):
    """Also once its pages are open: nobody has chatted yet."""
    page.goto(f"{app.url}/?run={runs[0].id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text(runs[0].name)
    loaded = Path(f"/proc/{app.process.pid}/maps").read_text()
    assert "python" in loaded and "libtorch" not in loaded


def test_the_list_is_filtered_grouped_and_walked_by_keyboard(app, db, page, runs):
    page.goto(app.url)
    rows = page.locator(".bgpo-run-list li[data-run]")
    expect(rows).to_have_count(4)
    page.keyboard.press("/")
    page.keyboard.type("lr=0.001 jn")  # j and n are keys, but not while one types
    expect(page.get_by_text("No run matches this filter.")).to_be_visible()
    page.get_by_label("Filter the runs").fill("lr=0.001")
    expect(rows).to_have_count(2)
    page.get_by_label("Filter the runs").fill("")
    page.get_by_label("Group the runs by").select_option("learning_rate")
    expect(page.locator(".bgpo-run-list .head b")).to_have_text(["0.0001", "0.001"])
    page.get_by_role("button", name="Compare the runs of 0.0001").click()
    expect(page.get_by_text("Comparing 2 runs")).to_be_visible()
    expect(page.locator(".bgpo-run-list li.chosen .name")).to_have_text(["rate 0.0001 seed 1", "rate 0.0001 seed 0"])

    page.get_by_label("Group the runs by").select_option("")
    page.get_by_label("Sort the runs by").select_option("best")
    expect(rows.first.locator(".name")).to_have_text("rate 0.001 seed 1")
    page.locator("body").click(position={"x": 5, "y": 5})
    expect(page).to_have_url(re.compile("sort=best"))
    page.keyboard.press("k")  # from the compared ones up
    page.keyboard.press("Space")
    expect(page.get_by_text("Comparing 3 runs")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text("rate 0.001 seed 0")


@pytest.mark.slow
def test_tags_notes_and_the_archive_are_kept(app, db, page, runs):
    run = finished_run(app, db, "to be put away", seed=9)
    page.goto(f"{app.url}/?run={run.id}")
    page.get_by_label("Add a tag").fill("#Paper draft")
    page.get_by_label("Add a tag").press("Enter")
    expect(page.locator(f'.bgpo-run-list [data-run="{run.id}"] .tag')).to_have_text("#paper-draft")
    page.get_by_role("button", name="Write notes").click()
    page.get_by_label("Notes on this run").fill("<b>seen</b>")
    page.get_by_role("button", name="Hide notes").click()
    wait_until(lambda: (labels := labels_of(db, [run.id])) and labels[run.id].notes, "the notes to be written")
    assert labels_of(db, [run.id])[run.id].notes == "<b>seen</b>"
    page.locator("h2", has_text="to be put away").click()
    page.keyboard.press("e")
    expect(page.locator(f'.bgpo-run-list [data-run="{run.id}"]')).to_have_count(0)
    page.get_by_role("button", name="More of the list").click()
    page.get_by_role("menuitemcheckbox", name="Show what is archived").click()
    expect(page.locator(f'.bgpo-run-list [data-run="{run.id}"]')).to_be_visible()


@pytest.mark.parametrize("late", ["launcher", pytest.param("chart_board", marks=pytest.mark.slow)])
def test_a_page_is_whole_though_a_module_comes_after_the_runs(app, page, runs, late):
    held = []
    page.route(f"**/assets/*/{late}.js", lambda route: held.append(route))
    with page.expect_response("**/api/live?*"):
        page.goto(f"{app.url}/?run={runs[0].id}")
    page.wait_for_function("window.bgpo.live.loaded")
    for route in held:
        route.continue_()
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text(runs[0].name)
    expect(page.locator(".bgpo-run-list li[data-run]")).not_to_have_count(0)
    expect(chart(page, "reward")).to_be_visible()


@pytest.mark.slow
def test_a_run_put_away_stays_away_though_an_answer_under_way_does_not_know(app, db, page, runs):
    run = finished_run(app, db, "away", seed=10)
    page.goto(f"{app.url}/?run={run.id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text("away")
    held = []
    page.route("**/api/live*", lambda route: held.append((route, route.fetch())), times=1)
    while not held:
        page.wait_for_timeout(100)
    with page.expect_response("**/api/archive"):
        page.keyboard.press("e")
    route, answer = held[0]
    route.fulfill(response=answer)
    expect(page.locator(f'.bgpo-run-list [data-run="{run.id}"]')).to_have_count(0)
    expect(page.locator(".bgpo-run-header .one h2")).not_to_have_text("away")


@pytest.mark.slow
def test_an_address_holds_zoom_pin_smoothing_scale_and_what_is_hidden(app, page, runs):
    page.goto(f"{app.url}/?run={runs[0].id}")
    drawn(page, "grad_norm")
    assert figure(page, "grad_norm")["crosses"] == 1  # the step that was no number
    page.evaluate("document.addEventListener('bgpo:step', (event) => { window.pointed = event.detail; })")
    drag(page, "grad_norm", 0.25, 0.75)
    zoomed = wait_until(lambda: (found := figure(page, "grad_norm"))["x"][1] < STEPS - 1 and found["x"], "the zoom")
    assert drawn(page, "spent")["x"] == pytest.approx(zoomed)  # one zoom for all charts
    area = chart(page, "grad_norm").locator(".nsewdrag").first
    area.click()
    expect(page.get_by_role("button", name=re.compile(r"^Step \d+"))).to_be_visible()
    pinned = page.evaluate("window.pointed.step")
    assert zoomed[0] < pinned < zoomed[1]
    expect(chart(page, "reward").locator(".pin")).to_be_attached()

    chart(page, "grad_norm").hover()
    page.keyboard.press("l")
    page.get_by_label("Smoothing", exact=True).first.fill("0.5")
    chart(page, "spent").get_by_role("button", name="Written by rollouts").click()
    address = page.url
    for part in ("z=", f"step={pinned}", "log=grad_norm", "sm=0.5", "hide=spent.1"):
        assert part in address
    page.goto("about:blank")
    page.goto(address)
    again = drawn(page, "grad_norm")
    assert again["x"] == pytest.approx(zoomed, abs=0.01) and again["y"] == "log"
    assert again["traces"] == 3  # raw behind the smoothed, and the cross
    expect(page.get_by_role("button", name=f"Step {pinned}")).to_be_visible()
    assert drawn(page, "spent")["traces"] == 2  # the shown curve and its raw line
    page.keyboard.press("0")
    wait_until(lambda: figure(page, "spent")["x"][0] <= 0, "the whole run")
    page.get_by_role("button", name="Compute", exact=True).first.click()
    wait_until(lambda: (f := figure(page, "spent")) and f["axis"].startswith("compute"), "the axis of compute")


@pytest.mark.slow
def test_charts_out_of_sight_follow_the_theme(app, page, runs):
    page.goto(f"{app.url}/?run={runs[0].id}")
    for name in ("reward", "grad_norm"):
        drawn(page, name)
    page.evaluate("scrollTo(0, 0)")
    page.get_by_role("button", name="Switch to the dark theme").click()
    colours = """() => [...document.querySelectorAll(".chart .js-plotly-plot")].filter((plot) => plot.offsetParent)
        .map((plot) => [plot._fullLayout.yaxis.gridcolor,
                        getComputedStyle(plot).getPropertyValue("--bgpo-line").trim()])"""
    wait_until(lambda: len(found := page.evaluate(colours)) > 3 and all(is_ == should for is_, should in found),
               "every chart in the colours of the dark theme")


@pytest.mark.slow
def test_seeds_are_averaged_and_the_table_sorts(app, page, runs):
    page.goto(f"{app.url}/?run={','.join(str(run.id) for run in runs)}&mean=seeds")
    drawn(page, "reward")
    expect(chart(page, "reward").locator(".legend")).to_contain_text("learning_rate 0.0001, 2 seeds")
    names = figure(page, "reward")["names"]
    assert sum("2 seeds" in name for name in names) >= 2
    cells = page.locator(".bgpo-run-header .differences tbody tr")
    page.get_by_role("button", name="Best", exact=True).click()
    expect(cells.first).to_contain_text("rate 0.001 seed 1")
    rate = page.locator('[data-key="head knob learning_rate"]')
    rate.click()
    rate.click()
    expect(cells.first).to_contain_text("rate 0.0001")

    chart(page, "grad_norm").scroll_into_view_if_needed()
    chart(page, "grad_norm").get_by_role("button", name=re.compile("^More of")).click()
    with page.expect_download() as download:
        page.get_by_role("menuitem", name="Download what is visible as CSV").click()
    lines = download.value.path().read_text().splitlines()
    assert lines[0] == "run,name,metric,step,seconds,tokens,value,low,high" and len(lines) == 1 + 2 * STEPS
    page.locator("#run-compare-button").click()
    expect(page.locator("#bgpo-sweep-plots .parcoords").first).to_be_attached()
    page.get_by_label("Which knob").select_option("learning_rate")
    expect(page.locator("#bgpo-sweep-plots .scatterlayer .point").first).to_be_attached()


@pytest.mark.slow
def test_chosen_charts_and_a_kept_view(app, page, runs):
    page.goto(f"{app.url}/?run={runs[0].id}")
    drawn(page, "reward")
    page.get_by_role("button", name="Charts", exact=True).first.click()
    for title in ("Gradient norm", "Spent"):
        page.locator(".bgpo-chooser").get_by_label(title, exact=True).check()
    page.get_by_role("button", name="Move Spent up").click()
    page.keyboard.press("Escape")
    expect(page.locator(".chart:visible h4")).to_have_text(["Spent", "Gradient norm"])
    page.get_by_role("button", name="Views").first.click()
    page.get_by_label("Name of this view").fill("two charts")
    page.get_by_role("button", name="Keep").click()
    page.goto("about:blank")
    page.goto(f"{app.url}/?run={runs[1].id}&charts=")
    expect(chart(page, "reward")).to_be_visible()
    page.get_by_role("button", name="Views").first.click()
    page.get_by_role("button", name="two charts", exact=True).click()
    expect(page.locator(".chart:visible h4")).to_have_text(["Spent", "Gradient norm"])
    expect(page.locator(".bgpo-run-header .one h2")).to_have_text(runs[0].name)


@pytest.mark.slow
def test_the_bound_is_judged_and_a_wrong_trainer_is_told_loudly(app, db, page, runs):
    page.goto(f"{app.url}/?run={runs[0].id}&part=bound")
    verdict = page.locator("#bgpo-bound-monitor li")
    expect(verdict).to_contain_text("On-policy, the gap is zero at every update: the trainer is right")
    expect(chart(page, "monitor_gap")).to_be_attached()
    wrong = finished_run(app, db, "wrong", gap=0.02, seed=7)
    page.goto(f"{app.url}/?run={wrong.id}&part=bound")
    expect(verdict).to_contain_text("The gap is not zero, and on-policy it must be")
    expect(verdict).to_have_attribute("data-tone", "bad")


@pytest.mark.slow
def test_memory_is_explored_and_measured_for_real(app, db, page, runs):
    small = finished_run(app, db, "small", seed=8, prompts_per_step=2, group_size=2, mc_samples=4, token_budget=64)
    page.goto(f"{app.url}/?run={small.id}&part=memory")
    explorer = page.locator("#bgpo-memory-explorer")
    expect(explorer.locator(".ours b")).to_have_text("64 MB")
    dial = page.get_by_role("slider", name="Mask draws per completion")
    dial.focus()
    dial.press("End")
    expect(explorer.locator(".draws")).to_have_text("1024")
    expect(explorer.locator(".theirs b")).to_have_text(re.compile("GB"))
    page.get_by_role("button", name="Measure both here").click()
    expect(explorer.locator(".state")).to_contain_text("Measured", timeout=120_000)
    expect(page.get_by_role("button", name="Measure both again")).to_be_enabled()
    facts = page.evaluate("id => fetch(`/api/runs/${id}/memory`).then((answer) => answer.json())", small.id)
    held = {(name, draws): mb for name, what, draws, mb in facts["probe"]["points"] if what == "saved_mb"}
    assert held["elbo", 16] > 10 * held["elbo", 1] > 0 and held["bgpo", 16] < 2 * held["bgpo", 1]


def test_the_warm_starts_own_axis_keeps_its_zoom_by_itself(app, db, page, runs):
    run = finished_run(app, db, "warm")
    flush(db, run.id, [Point("warmup/loss", step, step / 10, 3 / step) for step in range(1, 101)])
    page.goto(f"{app.url}/?run={run.id}")
    whole, other = drawn(page, "warmup")["x"], drawn(page, "grad_norm")["x"]
    drag(page, "warmup", 0.25, 0.75)
    zoomed = wait_until(lambda: (found := figure(page, "warmup")["x"])[1] < whole[1] - 10 and found, "the zoom")
    assert drawn(page, "grad_norm")["x"] == other
    address = page.url
    page.goto("about:blank")
    page.goto(address)
    assert drawn(page, "warmup")["x"] == pytest.approx(zoomed, abs=0.01)
    page.keyboard.press("0")
    wait_until(lambda: figure(page, "warmup")["x"] == whole, "the whole warm start")
