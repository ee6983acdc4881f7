"""Bars of looking inside: rollouts, replay and live denoising, hostile text, links, accessibility."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from typing import Any

import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from benchmarks.page_bars.bench import Bench, Found, ms, p95
from benchmarks.page_bars.browser import LOAD_MS, charts, fresh_page
from benchmarks.page_bars.data import new_run
from benchmarks.page_bars.studio import ROOT
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from storage.checkpoints import add_checkpoint

AREAS = {"runs": ".bgpo-run-header .one h2", "new": ".lc-starts", "chat": "#chat-prompt", "lab": ".bgpo-lab .form",
         "system": ".sf-card dl"}
SUITE = "tests/ui/test_every_view.py"  # hostile text in every view
TEXTS = ("needle", "lation bell", "notfound", "ten")  # rare, some, none, very many
LIVE_STEPS = 64


def rollouts(bench: Bench) -> Found:
    """Bar 19. Requests as their client sees them; the slowest of several texts, and one step with its completions."""
    client, run_id, times = bench.big.client(), bench.filled.rollouts, 10
    searches = {text: statistics.median(client.get(f"/api/runs/{run_id}/search?q={text.replace(' ', '%20')}").seconds
                                        for _ in range(times)) for text in TEXTS}
    step = bench.sizes.completions // 256
    opened = statistics.median(client.get(f"/api/runs/{run_id}/rollouts?step={step}").seconds for _ in range(times))
    slowest = max(searches.values())
    value = {"slowest search_ms": ms(slowest), "open a step_ms": ms(opened), "completions": bench.sizes.completions}
    return Found(value, slowest <= 0.05 and opened <= 0.02)




def replay(bench: Bench) -> Found:
    """Bar 20. A stored completion opened in the lab: its trace on the wire, then every frame drawn after the other."""
    place = "step=0&problem=0&completion=0"
    wire = bench.big.client().get(f"/api/runs/{bench.filled.rollouts}/rollouts/trace?{place}")
    with fresh_page(bench.browser) as page:
        page.goto(f"{bench.big.url}/?tab=lab&rollout={bench.filled.rollouts}-0-0-0")
        expect(page.locator(".bgpo-lab .ds-filled")).to_have_count(512, timeout=LOAD_MS)
        page.evaluate("probes.replay()")  # once for the compiler
        seen = page.evaluate("probes.replay()")
    each = statistics.mean(seen["times"])
    value = {"kb": round(wire.bytes / 1000, 1), "frame_ms": round(each, 1), "frames": len(seen["times"]),
             "tokens": seen["tokens"]}
    return Found(value, wire.bytes <= 15_000 and each <= 8 and seen["tokens"] == 512)




def live_denoising(bench: Bench) -> Found:
    """Bar 21. A small model at twenty steps a second, on the CPU: from the sampler's step to the page that shows it."""
    studio = bench.empty()
    db = studio.open_database()
    run = new_run(db, studio.folder / "runs", "live")
    folder = studio.folder / "step-1"
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 1, 1.0, 1), None)
    add_checkpoint(db, run.id, 1, "evaluation", str(folder), 0.5)
    db.close()
    studio.start("-m", "benchmarks.page_bars.noted_app")
    with fresh_page(bench.browser) as page:
        page.goto(f"{studio.url}/?tab=lab")
        form = page.locator(".bgpo-lab .form")
        fill_lab(form, {"Length": LIVE_STEPS, "Steps": LIVE_STEPS})
        page.evaluate("probes.watchSteps('.bgpo-lab')")
        form.get_by_role("button", name="Denoise").click()
        page.wait_for_function("steps => probes.steps.at(-1)?.[0] === steps", arg=LIVE_STEPS)
        shown = page.evaluate("probes.steps")
    made = dict(json.loads(line) for line in (studio.folder / "steps.jsonl").read_text().splitlines())
    studio.stop()
    waits = [min(at for step, at in shown if step >= made_step) - at_made for made_step, at_made in made.items()]
    return Found({"p95_ms": ms(p95(waits)), "median_ms": ms(statistics.median(waits)), "steps": len(waits)},
                 p95(waits) <= 0.25, "a small model on the CPU, held at 20 steps a second; on a GPU not measured")


def fill_lab(form: Any, values: dict[str, int]) -> None:
    # its checkpoint's own values are in by then
    expect(form.get_by_role("button", name="Denoise")).to_be_enabled(timeout=LOAD_MS)
    for label, value in values.items():
        form.get_by_label(label, exact=True).fill(str(value))
    block = form.locator("label").filter(has_text="Block").locator("select")  # whose label holds its options as well
    block.select_option(index=block.locator("option").count() - 1)


def hostile_text(bench: Bench) -> Found:
    """Bar 22. The suite that fills every view with text that would like to run, in a process of its own."""
    if not (ROOT / SUITE).exists():
        return Found(None, None, f"{SUITE} is not there")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", SUITE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    passed, failed = (int(found.group(1)) if (found := re.search(rf"(\d+) {word}", done.stdout)) else 0
                      for word in ("passed", "failed"))
    if not passed + failed:
        return Found(None, None, "the suite did not run: " + done.stdout.strip().splitlines()[-1][:120])
    return Found({"views where nothing ran": passed, "views that failed": failed}, failed == 0)


VIEW = ("x=time&sm=0.6&log=grad/norm&z=100,400&zy=lr~0.2~0.8&step=300&hide=r{hidden}&mean=seeds"
        "&charts=grad/norm,lr,bound/gap")


def deep_link(bench: Bench) -> Found:
    """Bar 23. The address of a view, opened by another browser after the app was started again."""
    studio, ids = bench.big, bench.filled.compared[:3]
    address = f"?run={','.join(map(str, ids))}&" + VIEW.format(hidden=ids[1])
    before = viewed(bench, f"{studio.url}/{address}")
    studio.stop()
    studio.start()
    after = viewed(bench, f"{studio.url}/?{before['address']}")
    same = [name for name in before if before[name] == after.get(name)]
    share = len(same) / len(before)
    # what was asked for is what is shown, not only the same both times
    asked = [
        all(abs(is_ - wanted) < 1e-6 for is_, wanted in zip(before["chart lr"]["y"], (0.2, 0.8))),
        before["chart grad/norm"]["log"], before["smoothing"] == "0.6", before["axis"] == "time",
        before["pinned"].startswith("Step 300"), before["runs"] == ",".join(map(str, ids)),
    ]
    value = {"fields": len(before), "kept_percent": round(100 * share), "as asked": all(asked)}
    return Found(value, share == 1 and all(asked))


def viewed(bench: Bench, url: str) -> dict[str, Any]:
    with fresh_page(bench.browser) as page:
        page.goto(url)
        expect(page.locator(".chart:visible .nsewdrag")).to_have_count(3, timeout=LOAD_MS)
        page.wait_for_timeout(1000)
        return page.evaluate("probes.view()") | {f"chart {name}": one for name, one in charts(page).items()}


def accessibility(bench: Bench) -> Found:
    """Bar 25. Axe in every area and theme; at 390 pixels nothing scrolls sideways; the charts' text on their ground."""
    wrong: list[str] = []
    contrasts: list[float] = []
    for scheme in ("light", "dark"):
        for width in (1440, 390):
            with fresh_page(bench.browser, viewport={"width": width, "height": 900}, color_scheme=scheme,
                            reduced_motion="reduce") as page:
                page.goto(f"{bench.big.url}/?run={bench.filled.compared[0]}")
                for area, content in AREAS.items():
                    page.locator(f"#area-{area}-button").click()
                    expect(page.locator(content).first).to_be_visible(timeout=LOAD_MS)
                    page.wait_for_timeout(300)
                    wrong += [f"{area} {width} {scheme}: {item}" for item in barriers(page)]
                    contrasts += page.evaluate("probes.contrasts()") if area == "runs" else []
    value = {"views": 4 * len(AREAS), "wrong": len(wrong), "least chart contrast": round(min(contrasts), 1)}
    return Found(value, not wrong and min(contrasts) >= 4.5, "; ".join(wrong)[:300])


def barriers(page: Page) -> list[str]:
    """What keeps people out of the view that is open."""
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    serious = [item["id"] for item in found.response["violations"] if item["impact"] in ("serious", "critical")]
    sideways = page.evaluate("document.documentElement.scrollWidth > innerWidth")
    return serious + (["scrolls sideways"] if sideways else [])
