"""Bars of beginning: the process, the first paint, the first bytes, two clicks to a run, a wrong field."""

from __future__ import annotations

import statistics
from pathlib import Path

import psutil
from playwright.sync_api import Page, expect

from benchmarks.page_bars.bench import Bench, Found, ms
from benchmarks.page_bars.browser import LOAD_MS, Traffic, fresh_page, noted
from benchmarks.page_bars.data import SIX
from benchmarks.page_bars.studio import Studio, wait_for
from storage.runs import list_runs

TIMES = 3
SHORT = "preset=adder&train_steps=2&warmup_steps=20&eval_problems=16"
SETTLED_MS = 2500


def start_of_the_process(bench: Bench) -> Found:
    """Bar 1. The median start of an app over an empty folder; its memory with all that it started."""
    seconds, megabytes, torch = [], [], False
    for _ in range(TIMES):
        studio = bench.empty()
        seconds.append(studio.start())
        process = psutil.Process(studio.process.pid)
        family = [process, *process.children(recursive=True)]
        megabytes.append(sum(one.memory_info().rss for one in family) / 2**20)
        torch |= "libtorch" in Path(f"/proc/{process.pid}/maps").read_text()
        studio.stop()
    took, held = statistics.median(seconds), statistics.median(megabytes)
    value = {"seconds": round(took, 2), "mb": round(held), "torch": torch}
    return Found(value, took <= 8 and held <= 200 and not torch)


def first_paint(bench: Bench) -> Found:
    """Bar 2. Cold browser, the long list of runs."""
    paints, lists = [], []
    for _ in range(TIMES):
        with fresh_page(bench.browser) as page:
            page.goto(bench.big.url)
            lists.append(noted(page, "list"))
            paints.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") / 1000)
    paint, listed = statistics.median(paints), statistics.median(lists)
    return Found({"first_paint_s": round(paint, 2), "list_s": round(listed, 2)}, paint <= 1.0 and listed <= 2.0)


def six_charts(bench: Bench) -> Found:
    """Bar 3. From the navigation of a cold browser until six charts have their curves."""
    times = {}
    for name, run_id in (("middle", bench.filled.middle), ("long", bench.filled.long)):
        taken = []
        for _ in range(TIMES):
            with fresh_page(bench.browser) as page:
                page.goto(f"{bench.big.url}/?run={run_id}&charts={','.join(SIX)}")
                taken.append(noted(page, "six"))
        times[name] = statistics.median(taken)
    value = {f"{bench.sizes.middle:,} steps, s": round(times["middle"], 2),
             f"{bench.sizes.long:,} steps, s": round(times["long"], 2)}
    return Found(value, times["middle"] <= 3.0 and times["long"] <= 3.5)


def bytes_to_load(bench: Bench) -> Found:
    """Bar 4. Everything until the page is quiet, headers included; then the same page again."""
    with fresh_page(bench.browser) as page:
        traffic = Traffic(page)
        page.goto(f"{bench.big.url}/?run={bench.filled.compared[0]}")
        noted(page, "list")
        page.wait_for_timeout(SETTLED_MS)
        first = traffic.bytes
        traffic.begin()
        page.reload()
        noted(page, "list")
        page.wait_for_timeout(SETTLED_MS)
        again = traffic.bytes
    value = {"first_mb": round(first / 1e6, 2), "reload_kb": round(again / 1e3)}
    return Found(value, first <= 2.5e6 and again <= 150e3)


def two_clicks(bench: Bench) -> Found:
    """Bar 12. On an empty app by mouse, then by keyboard; a run has to have come of each."""
    studio = bench.empty()
    studio.start()
    with fresh_page(bench.browser) as page:
        page.goto(studio.url)
        clicks = [page.locator('[data-preset="adder"] .choose'), page.get_by_role("button", name="Start", exact=True)]
        for click in clicks:
            click.click()
        by_mouse = wait_for(lambda: count(studio, 1), "the run of two clicks")
        page.goto(studio.url)
        expect(page.locator(".bgpo-run-list li[data-run]").first).to_be_visible(timeout=LOAD_MS)
        page.keyboard.press("n")
        expect(page.locator(".lc-starts")).to_be_visible(timeout=LOAD_MS)
        page.keyboard.press("Control+Enter")
        by_keyboard = wait_for(lambda: count(studio, 2), "the run of two keys", 30)
    studio.stop()
    return Found({"clicks": len(clicks), "keys": 2, "typed": 0}, bool(by_mouse and by_keyboard))


def count(studio: Studio, at_least: int) -> bool:
    db = studio.open_database()
    try:
        return len(list_runs(db)) >= at_least
    finally:
        db.close()




def wrong_field(bench: Bench) -> Found:
    """Bar 13. A group of one completion has no advantage: the sentence at the field, and no run."""
    studio = bench.empty()
    studio.start()
    with fresh_page(bench.browser) as page:
        page.goto(f"{studio.url}/?tab=new")
        expect(page.locator(".lc-starts")).to_be_visible(timeout=LOAD_MS)
        times = []
        for _ in range(TIMES + 2):
            times.append(page.evaluate("probes.wrongValue('group_size', '1')") / 1000)
            page.locator("#knob-group_size input").first.fill("8")
            expect(page.locator("#knob-group_size .fe-error")).to_have_count(0, timeout=LOAD_MS)
    started = count(studio, 1)
    studio.stop()
    took = statistics.median(times)
    return Found({"ms": ms(took), "runs started": int(started)}, took <= 0.3 and not started)


def launch(bench: Bench) -> Found:
    """Bar 14. From the click on Start until the run stands on the page, and until its worker says that it lives."""
    studio = bench.empty()
    studio.start()
    with fresh_page(bench.browser) as page:
        page.goto(f"{studio.url}/?{SHORT}")
        page.locator('[data-preset="adder"] .choose').click()
        seen = page.evaluate("probes.launch()") / 1000
        alive = alive_after(studio, page)
    studio.stop()
    return Found({"visible_s": round(seen, 2), "alive_s": round(alive, 2)}, seen <= 1 and alive <= 8)




def alive_after(studio: Studio, page: Page) -> float:
    """Seconds from the click until the worker's process is up and has written its row."""
    db = studio.open_database()
    clicked = page.evaluate("probes.clicked")
    run = wait_for(lambda: next((run for run in list_runs(db) if run.status == "running" and run.phase), None),
                   "the worker to live")
    db.close()
    return (run.started_at or 0) - clicked
