"""Where a Chromium is, for the page tests. `python -m tests.chromium` says how to get one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

HOW = (
    "No Chromium was found, so the page tests cannot run. Install one: `apt-get install chromium` on Debian or Ubuntu, "
    "or `.venv/bin/playwright install chromium` anywhere; or set CHROMIUM to the path of one."
)
# sandboxing needs privileges that containers lack; the rest keeps the browser from calling home
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)


_SYSTEMS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")


def find_chromium() -> str | None:
    """Path of a Chromium: the one in CHROMIUM, the system's (one without windows costs less), or Playwright's."""
    for name in (os.environ.get("CHROMIUM"), *_SYSTEMS):
        if name and (path := shutil.which(name)):
            return path
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


if __name__ == "__main__":
    print(f"Page tests use {found}." if (found := find_chromium()) else HOW)
