"""Screenshots of every page, light and dark, wide and narrow, from a running app with real runs.

    python app.py                                  # in one terminal, with a few runs in it
    python -m docs.make_screenshots                # in another; writes docs/images/*.png
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.chromium import FLAGS, HOW, find_chromium

ROOT = Path(__file__).parents[1]
SIZES = {"wide": (1440, 900), "narrow": (390, 844)}
SETTLED_MS = 1500


def play_a_sample(page: Page) -> None:
    cells = page.locator(".bgpo-held-out .cell")
    expect(cells.first).to_be_visible(timeout=20_000)
    cells.nth(min(2, cells.count() - 1)).click()
    page.wait_for_timeout(2500)


def choose_preset(page: Page) -> None:
    page.locator(".bgpo-launcher .choose").first.click(timeout=20_000)


def open_part(name: str) -> Callable[[Page], None]:
    return lambda page: page.locator(f"#run-{name}-button").click(timeout=20_000)


def ask(page: Page) -> None:
    """One answer, watched to its end; loading a model takes some seconds the first time."""
    button = page.get_by_role("button", name="Generate", exact=True)
    expect(button).to_be_enabled(timeout=30_000)
    button.click()
    expect(page.locator("#chat-stage .ds-verdict")).to_have_text(re.compile("Reward"), timeout=90_000)


def wait_for_charts(page: Page) -> None:
    expect(page.locator(".bgpo-chart-board .js-plotly-plot").first).to_be_attached(timeout=20_000)


def wait_for_sweep(page: Page) -> None:
    expect(page.locator("#bgpo-sweep-plots .parcoords").first).to_be_attached(timeout=20_000)


def measure(page: Page) -> None:
    """Measures both objectives, unless that has been done: some seconds in a process of its own."""
    button = page.locator("#bgpo-memory-explorer .act button")
    expect(button).to_be_enabled(timeout=60_000)
    if button.inner_text() == "Measure both here":
        button.click()
    expect(page.locator("#bgpo-memory-explorer .state")).to_contain_text("Measured", timeout=120_000)


def shots(run: int, compared: list[list[int]]) -> dict[str, tuple[str, Callable[[Page], None] | None, bool]]:
    """name -> (address, what to do before the picture, whether the whole page is wanted)."""
    found = {
        "run": (f"?run={run}", wait_for_charts, True),
        "run-samples": (f"?run={run}", play_a_sample, True),
        "run-bound": (f"?run={run}&part=bound", wait_for_charts, True),
        "run-memory": (f"?run={run}&part=memory", measure, True),
        "run-config": (f"?run={run}", open_part("config"), False),
        "run-log": (f"?run={run}", open_part("log"), False),
        "run-checkpoints": (f"?run={run}", open_part("checkpoints"), False),
        "new-run": ("?tab=new", None, True),
        "chat": ("?tab=chat", ask, True),
        "system": ("?tab=system", None, True),
    }
    for runs in compared:
        name, address = "-".join(map(str, runs)), f"?run={','.join(map(str, runs))}"
        found[f"compare-{name}"] = (address, wait_for_charts, True)
        found[f"sweep-{name}"] = (f"{address}&part=compare", wait_for_sweep, True)
    return found


def run_ids(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


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


def take(browser: Browser, base: str, wanted: dict, out: Path, sizes: list[str]) -> None:
    for name, (address, prepare, whole) in wanted.items():
        for size in sizes:
            width, height = SIZES[size]
            for scheme in ("light", "dark"):
                context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                page = context.new_page()
                page.goto(f"{base}/{address}")
                page.locator("#area-runs-button").wait_for(timeout=30_000)
                page.wait_for_timeout(SETTLED_MS)
                if prepare:
                    prepare(page)
                page.mouse.move(0, 0)
                page.wait_for_timeout(SETTLED_MS)
                page.screenshot(path=out / f"{name}-{scheme}-{size}.png", full_page=whole)
                context.close()
        print(name, flush=True)


def chosen(wanted: dict, names: list[str]) -> dict:
    return {name: shot for name, shot in wanted.items() if name in names}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:7860", help="the running app (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images", help="folder (default: docs/images)")
    parser.add_argument("--run", type=int, help="the run to show (default: the newest finished one)")
    parser.add_argument("--compare", type=run_ids, nargs="*", default=[], help="groups, such as 1,2,3 4,5")
    parser.add_argument("--only", nargs="*", help="names of the pages to take (default: all)")
    parser.add_argument("--sizes", nargs="*", choices=list(SIZES), default=list(SIZES), help="default: all")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    chromium = find_chromium()
    if chromium is None:
        print(HOW, file=sys.stderr)
        return 1
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        runs = browser.new_page().request.get(f"{options.url}/api/live").json()["runs"]
        finished = sorted((item["id"] for item in runs if item["status"] == "finished"), reverse=True)
        if not finished and not options.run:
            print("There is no finished run to show; let one finish first, or name one with --run.", file=sys.stderr)
            return 1
        wanted = shots(options.run or finished[0], options.compare)
        keep = options.only or [*wanted, "first-screen", "first-screen-chosen"]
        take(browser, options.url, chosen(wanted, keep), options.out, options.sizes)
        first = {"first-screen": ("", None, False), "first-screen-chosen": ("", choose_preset, False)}
        if any(name in keep for name in first):
            with empty_app() as base:
                take(browser, base, chosen(first, keep), options.out, options.sizes)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
