"""What axe says of a page: whatever keeps people out."""

from __future__ import annotations

import json
from importlib import resources

from playwright.sync_api import Page

AXE = (resources.files("axe_playwright_python") / "axe.min.js").read_text()


def barriers(page: Page) -> list[str]:
    """What axe calls serious or critical, in the light theme and then in the dark one, with where."""
    if not page.evaluate("Boolean(window.axe)"):
        page.add_script_tag(content=AXE)
    page.emulate_media(reduced_motion="reduce")  # colours on their way from one theme to the other are no colours
    found = []
    for dark, only in ((False, None), (True, ["color-contrast"])):
        page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
        options = {"resultTypes": ["violations"]} | ({"runOnly": only} if only else {})
        violations = page.evaluate("async options => (await axe.run(document, options)).violations", options)
        found += [
            json.dumps(["dark" if dark else "light", item["id"], item["help"],
                        [[node["target"], node["html"][:200]] for node in item["nodes"]][:4]])
            for item in violations if item["impact"] in ("serious", "critical")
        ]  # fmt: skip
    page.evaluate("document.body.classList.remove('dark')")
    return found
