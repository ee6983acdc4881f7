"""Pictures of every view, light and dark, wide and on a phone, from a running app with real runs.

    python app.py                                  # in one terminal, with a few runs in it
    python -m docs.make_screenshots                # in another; writes docs/images/*.png

docs/tour.md and docs/first-run.md say which runs are in their pictures.
"""

from __future__ import annotations

import argparse
import io
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.chromium import FLAGS, HOW, find_chromium

ROOT = Path(__file__).parents[1]
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
TALLEST = {"wide": 1500, "narrow": 1700}  # pixels; below, a long page only repeats itself
COLOURS = 160  # of a picture: flat colours and text need no more, and take a third of the bytes
SETTLED_MS = 1500
BOTH = ("light", "dark")
# by the module that the page has: under another address it would be another one
SET_THEME = "name => import(document.querySelector('script[src$=\"/shell.js\"]').src).then(it => it.setTheme(name))"
SLOW_MS = 120_000  # a model is loaded, a measurement runs


@dataclass(frozen=True)
class Shot:
    """One view: where, what is done there first, whether it goes on below the window, in which themes by size."""

    address: str
    prepare: Callable[[Page], None] | None = None
    whole: bool = True
    wide: tuple[str, ...] = BOTH
    narrow: tuple[str, ...] = ()


# ---- what is done before a picture ---------------------------------------------------------------------------------


def wait_for_charts(page: Page) -> None:
    expect(page.locator(".bgpo-chart-board .js-plotly-plot").first).to_be_attached(timeout=SLOW_MS)


def play_a_sample(page: Page) -> None:
    """The sample in the middle of training, some steps into its denoising."""
    cells = page.locator(".bgpo-held-out .cell")
    expect(cells.first).to_be_visible(timeout=SLOW_MS)
    cells.nth(min(2, cells.count() - 1)).click()
    expect(page.locator(".bgpo-held-out .ds-chip").first).to_be_visible(timeout=SLOW_MS)
    page.locator(".bgpo-held-out").evaluate("node => node.scrollIntoView({ block: 'center' })")


def open_a_completion(page: Page) -> None:
    page.get_by_role("button", name="Mixed", exact=True).click()
    cell = page.locator(".bgpo-rollouts .cell").first
    expect(cell).to_be_visible(timeout=SLOW_MS)
    cell.click()
    expect(page.locator(".bgpo-rollouts .detail .ds-chip").first).to_be_visible(timeout=SLOW_MS)


def choose_preset(page: Page) -> None:
    page.locator(".bgpo-launcher .choose").first.click(timeout=SLOW_MS)


def try_the_grader(page: Page) -> None:
    """The task's problems, and its verdict on an answer that forgets the carry."""
    page.locator("#new-run-task summary").click()
    text = page.get_by_label("A completion to judge")
    expect(text).to_be_visible(timeout=SLOW_MS)
    text.fill("085")
    page.get_by_role("button", name="Judge it").click()
    expect(page.locator("#new-run-task .verdict .bgpo-chip")).to_be_visible(timeout=SLOW_MS)


def wait_for_sweep(page: Page) -> None:
    expect(page.locator("#bgpo-sweep-plots .parcoords").first).to_be_attached(timeout=SLOW_MS)


def measure(page: Page) -> None:
    """Measures both objectives, unless that has been done: some seconds in a process of its own."""
    button = page.locator("#bgpo-memory-explorer .act button")
    expect(button).to_be_enabled(timeout=SLOW_MS)
    if button.inner_text() == "Measure both here":
        button.click()
    expect(page.locator("#bgpo-memory-explorer .state")).to_contain_text("Measured", timeout=SLOW_MS)


def ask(page: Page) -> None:
    """One answer, watched to its end; loading a model takes some seconds the first time."""
    button = page.get_by_role("button", name="Generate", exact=True)
    expect(button).to_be_enabled(timeout=SLOW_MS)
    button.click()
    expect(page.locator("#chat-stage .ds-verdict")).to_have_text(re.compile("Reward"), timeout=SLOW_MS)


def denoise_two(page: Page, run: int) -> None:
    """The run's last checkpoint beside its first one, from the same noise."""
    lab = page.locator(".bgpo-lab")
    more = lab.get_by_role("button", name="Compare with another")
    expect(more).to_be_visible(timeout=SLOW_MS)
    more.click()
    for place, end in enumerate((0, -1)):
        choices = lab.locator(".checkpoints select").nth(place)
        labels = [label for label in choices.locator("option").all_inner_texts() if label.startswith(f"Run {run} ")]
        choices.select_option(label=labels[end])
    lab.get_by_role("button", name="Denoise", exact=True).click()
    expect(lab.locator(".ds-verdict").nth(1)).to_contain_text("Reward", timeout=SLOW_MS)


def show_keys(page: Page) -> None:
    wait_for_charts(page)
    page.keyboard.press("?")


def shots(
    run: int, compared: dict[str, list[int]], claim: list[int], sweep: list[int], evaluated: int
) -> dict[str, Shot]:
    light, dark = ("light",), ("dark",)
    found = {
        "run": Shot(f"?run={run}", wait_for_charts, narrow=light),
        "samples": Shot(f"?run={run}", play_a_sample, whole=False),
        "rollouts": Shot(f"?run={run}&part=rollouts", open_a_completion, narrow=dark),
        "bound": Shot(f"?run={run}&part=bound", wait_for_charts),
        "memory": Shot(f"?run={run}&part=memory", measure, narrow=light),
        "config": Shot(f"?run={run}&part=config", whole=False, wide=light),
        "log": Shot(f"?run={run}&part=log", whole=False, wide=light),
        "checkpoints": Shot(f"?run={run}&part=checkpoints", wide=light, narrow=dark),
        "evaluations": Shot(f"?run={evaluated}&part=evaluations", whole=False, wide=light),
        "keyboard": Shot(f"?run={run}", show_keys, whole=False, wide=light),
        "new-run": Shot("?tab=new", try_the_grader, narrow=light),
        "chat": Shot("?tab=chat", ask, narrow=dark),
        "lab": Shot("?tab=lab", lambda page: denoise_two(page, run)),
        "system": Shot("?tab=system", wide=light),
    }
    for name, runs in compared.items():
        found[f"compare-{name}"] = Shot(f"?run={','.join(map(str, runs))}", wait_for_charts)
    if claim:
        address = f"?run={','.join(map(str, claim))}&charts=reward,memory,gap,grad_norm"
        found["compare-claim"] = Shot(address, wait_for_charts)
    if sweep:
        found["sweep"] = Shot(f"?run={','.join(map(str, sweep))}&part=compare", wait_for_sweep)
    return found


FIRST_SCREEN = {
    "first-screen": Shot("", whole=False),
    "first-screen-chosen": Shot("", choose_preset, whole=False),
}


# ---- pictures ------------------------------------------------------------------------------------------------------


@contextmanager
def empty_app() -> Iterator[str]:
    """An app without any run, for the first screen."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "app.py", "--data-dir", folder, "--port", "0"]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            yield re.search(r"http://\S+", process.stdout.readline()).group()
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(20)


def small(png: bytes, tallest: int) -> Image.Image:
    """The picture cut at a height, in its most frequent colours: surfaces and text stay exactly as they are."""
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, tallest)))
    counted = sorted(picture.getcolors(picture.width * picture.height), reverse=True)[:COLOURS]
    palette = Image.new("P", (1, 1))
    palette.putpalette([channel for _, colour in counted for channel in colour])
    return picture.quantize(palette=palette, dither=Image.Dither.NONE)


def take(browser: Browser, base: str, wanted: dict[str, Shot], out: Path, sizes: list[str]) -> None:
    for name, shot in wanted.items():
        for size, schemes in ((size, getattr(shot, size)) for size in sizes):
            if not schemes:
                continue
            width, height = SIZES[size]
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=schemes[0])
            context.set_default_timeout(SLOW_MS)
            page = context.new_page()
            page.goto(f"{base}/{shot.address}")
            page.locator("#area-runs-button").wait_for()
            page.wait_for_timeout(SETTLED_MS)
            if shot.prepare:
                shot.prepare(page)
            if shot.whole:
                page.evaluate("scrollTo(0, 0)")
            for scheme in schemes:
                if scheme != schemes[0]:
                    page.evaluate(SET_THEME, scheme)
                page.mouse.move(0, 0)
                page.wait_for_timeout(SETTLED_MS)
                picture = small(page.screenshot(full_page=shot.whole, timeout=SLOW_MS), TALLEST[size])
                picture.save(out / f"{name}-{scheme}-{size}.png", optimize=True)
            context.close()
        print(name, flush=True)


def chosen(wanted: dict[str, Shot], names: list[str] | None) -> dict[str, Shot]:
    return {name: shot for name, shot in wanted.items() if not names or name in names}


# ---- the command ---------------------------------------------------------------------------------------------------


def run_ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def named_runs(text: str) -> tuple[str, list[int]]:
    """`"adder=1,2,3"` -> ("adder", [1, 2, 3])."""
    name, _, runs = text.rpartition("=")
    return name or "runs", run_ids(runs)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--url", default="http://127.0.0.1:7860", help="the running app (default: %(default)s)")
    found.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)")
    found.add_argument("--run", type=int, help="the run to show (default: the newest finished one)")
    found.add_argument("--evaluated", type=int, help="a run whose checkpoints were evaluated (default: that run)")
    found.add_argument("--compare", type=named_runs, nargs="*", default=[], help="groups, such as adder=1,2,3")
    found.add_argument("--claim", type=run_ids, default=[], help="two runs that differ in the objective, such as 10,11")
    found.add_argument("--sweep", type=run_ids, default=[], help="runs for the plots over knobs, such as 1,2,3")
    found.add_argument("--only", nargs="*", help="names of the pictures to take (default: all)")
    found.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES), help="default: all")
    return found


def main() -> int:
    options = parser().parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = find_chromium()
    if chromium is None:
        print(HOW, file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        runs = browser.new_page().request.get(f"{options.url}/api/live").json()["runs"]
        finished = [item["id"] for item in runs if item["status"] == "finished"]
        if not finished and not options.run:
            print("There is no finished run to show; let one finish first, or name one with --run.", file=sys.stderr)
            return 1
        run = options.run or max(finished)
        wanted = shots(run, dict(options.compare), options.claim, options.sweep, options.evaluated or run)
        take(browser, options.url, chosen(wanted, options.only), options.out, options.sizes)
        if first := chosen(FIRST_SCREEN, options.only):
            with empty_app() as base:
                take(browser, base, first, options.out, options.sizes)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
