"""The documentation names files that are there, and no picture lies about that no page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
# ](target) of a link or picture; src="..." and srcset="..." of the pictures that follow the theme
TARGET = re.compile(r'\]\(([^)#\s]+)(?:#[^)]*)?\)|src(?:set)?="([^"]+)"')


def targets(page: Path) -> set[Path]:
    found = {link or source for link, source in TARGET.findall(page.read_text())}
    return {(page.parent / name).resolve() for name in found if "://" not in name}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page):
    assert [str(path.relative_to(ROOT)) for path in sorted(targets(page)) if not path.exists()] == []


def test_every_picture_is_on_a_page():
    shown = set().union(*map(targets, PAGES))
    pictures = (ROOT / "docs" / "images").rglob("*.png")
    assert [str(path.relative_to(ROOT)) for path in sorted(pictures) if path not in shown] == []
