"""A headless Chromium, what of it the bars look at, and how long that takes inside the page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Locator, Page

PROBES = Path(__file__).with_name("probes.js")
LOAD_MS = 120_000  # how long a part of a page may take to come, never how long it should
WIDE = {"width": 1440, "height": 1600}  # six charts are on the screen at once



@contextmanager
def fresh_page(browser: Browser, **options: Any) -> Iterator[Page]:
    """A page of a browser that has never been here: nothing cached, nothing remembered."""
    context = browser.new_context(viewport=options.pop("viewport", WIDE), **options)
    context.set_default_timeout(LOAD_MS)
    page = context.new_page()
    page.add_init_script(path=PROBES)
    try:
        yield page
    finally:
        context.close()


def noted(page: Page, name: str) -> float:
    """Seconds from the navigation until that was there."""
    return page.wait_for_function("name => window.probes?.noted(name)", arg=name).json_value() / 1000


class Traffic:
    """Bytes that came over the network since `begin`, bodies and headers, as the browser counts them."""

    def __init__(self, page: Page):
        self.session: CDPSession = page.context.new_cdp_session(page)
        self.session.send("Network.enable")
        self.bytes = 0
        self.session.on("Network.loadingFinished", self._finished)

    def begin(self) -> None:
        self.bytes = 0

    def _finished(self, event: dict[str, Any]) -> None:
        self.bytes += int(event["encodedDataLength"])


class Load:
    """Heap after a collection, nodes, and how busy the main thread is."""

    def __init__(self, page: Page):
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable")

    def metrics(self) -> dict[str, float]:
        found = self._session.send("Performance.getMetrics")["metrics"]
        return {item["name"]: item["value"] for item in found}

    def collected(self) -> dict[str, float]:
        self._session.send("HeapProfiler.collectGarbage")
        return self.metrics()




def charts(page: Page) -> dict[str, dict[str, Any]]:
    return page.evaluate("probes.charts()")


def bring(page: Page, chart: str) -> Locator:
    """Scrolls a chart into sight, which is when it is drawn; the area that the mouse acts on."""
    page.locator(f'[data-chart="{chart}"]:visible').first.scroll_into_view_if_needed()
    area = page.locator(f'[data-chart="{chart}"]:visible .nsewdrag').first
    area.wait_for()
    return area


def drag(page: Page, chart: str, start: float, end: float) -> None:
    """Zooms with the mouse from one share of a chart's width to another."""
    area = bring(page, chart)
    area.hover()
    box = area.bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + start * box["width"], y)
    page.mouse.down()
    page.mouse.move(box["x"] + end * box["width"], y, steps=4)
    page.mouse.up()
