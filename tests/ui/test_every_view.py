"""Every view of the app, full of text that would like to run: it is shown as text, none of it runs, and nothing in the
view keeps people out (axe, light and dark). One page goes through all of them, as a person does, without a reload."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from starlette.testclient import TestClient

from storage.database import open_database, sqlite_url
from tests.ui.axe import AXE, barriers
from tests.ui.furnished import Furnished, furnish
from tests.waiting import PATIENCE, wait_until
from ui.access import Access

IMAGE = '<img src=x onerror="window.ran=1">'
SHOWN = "constructor.constructor('window.ran=1')()"  # stands at the front, so that it is in what is cut off, too
HOSTILE = (
    f"{{{{{SHOWN}}}}}{IMAGE}<script>window.ran=1</script>${{window.ran=1}}</script></pre>[a](javascript:window.ran=1)"
    "<a href=https://evil.invalid>b</a><svg onload=window.ran=1>\" autofocus onfocus=\"window.ran=1\" "
    "x=\"\u202eesrever\u2066\x00"
)
# text that got out of its place: elements that only markup in it could have made
ESCAPED = "img[src='x'], svg[onload], a[href^='javascript:'], a[href*='evil.invalid'], [onfocus], .bgpo-module script"


# ---- the page ----


@pytest.fixture(scope="module")
def full(app) -> Furnished:
    db = open_database(sqlite_url(app.data_dir / "bgpo.db"))
    furnished = furnish(db, app.data_dir / "runs", HOSTILE)
    db.close()
    return furnished


@dataclass
class Studio:
    """A page that stays open from view to view, and what ran on it that never should."""

    page: Page
    full: Furnished
    ran: list[str]
    axe: bool

    def open(self, runs: list[int], area: str = "runs", part: str = "curves") -> None:
        """Goes there without a reload, as clicks do."""
        self.page.evaluate(
            """([runs, area, part]) => {
                window.bgpo.openArea(area);
                if (area !== 'runs') return;
                window.bgpo.live.select(runs);
                document.getElementById(`run-${part}-button`).click();
            }""",
            [runs, area, part],
        )
        expect(self.page.locator(f"#area-{area}" if area != "runs" else f"#run-{part}")).to_be_visible()


@pytest.fixture(scope="module", params=["text", pytest.param("text and axe", marks=pytest.mark.slow)])
def studio(request, app, full, browser) -> Iterator[Studio]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    context.set_default_timeout(PATIENCE * 1000)
    ran: list[str] = []
    page = watched(context.new_page(), ran)
    page.goto(f"{app.url}/?run={full.full.id}")
    expect(page.locator(".bgpo-run-header .one h2")).to_contain_text(SHOWN)
    yield Studio(page, full, ran, "axe" in request.param)
    context.close()


def watched(page: Page, ran: list[str]) -> Page:
    """Tells `ran` of every script that came of a text."""
    page.expose_function("textRan", lambda where: ran.append(where))
    page.add_init_script("Object.defineProperty(window, 'ran', { set() { window.textRan(new Error().stack); } })")
    page.on("dialog", lambda dialog: (ran.append(dialog.message), dialog.dismiss()))
    return page


def judge(studio: Studio, *shown: str) -> None:
    """Nothing ran, nothing became markup, with axe nothing keeps people out; each of these places shows the text."""
    page = studio.page
    for place in shown:
        expect(page.locator(place).filter(has_text=SHOWN, visible=True).first).to_be_visible()
    assert studio.ran == []
    assert page.locator(ESCAPED).evaluate_all("nodes => nodes.map(node => node.outerHTML.slice(0, 200))") == []
    if studio.axe:
        assert barriers(page) == []


# ---- the views ----


def test_curves_with_samples_alerts_tags_and_notes(studio):
    page = studio.page
    studio.open([studio.full.full.id])
    expect(page.locator('[data-chart="reward"] .nsewdrag').first).to_be_attached()
    page.locator(".bgpo-held-out .cell").first.click()
    expect(page.locator(".bgpo-held-out .ds-chip").first).to_be_visible()
    page.get_by_role("button", name="Notes", exact=True).click()
    expect(page.get_by_label("Notes on this run")).to_have_value(re.compile(re.escape(SHOWN)))
    page.locator('[data-chart="reward"] .nsewdrag').first.hover()
    judge(studio, ".bgpo-peek .prompt", ".bgpo-peek .text", ".bgpo-run-header h2", ".bgpo-run-header .alerts",
          ".bgpo-run-list", ".bgpo-queue-card", ".bgpo-held-out .prompt", ".bgpo-held-out .verdict",
          ".bgpo-chart-board h4")


def test_rollouts_with_one_open_and_one_found(studio):
    page = studio.page
    studio.open([studio.full.full.id], part="rollouts")
    view = page.locator(".bgpo-rollouts")
    view.locator(".cell").first.click()
    expect(view.locator(".detail .ds-chip").first).to_be_visible()
    judge(studio, ".bgpo-rollouts .group h4", ".bgpo-rollouts .detail .reason", ".bgpo-rollouts .cell .text")
    view.get_by_role("searchbox").fill("constructor.constructor")
    expect(view.locator(".hit mark").first).to_be_visible()
    judge(studio, ".bgpo-rollouts .hit")
    view.get_by_role("searchbox").fill("")


@pytest.mark.parametrize(("part", "shown"), (
    ("config", ".bgpo-run-config dd"), ("evaluations", ".bgpo-evaluations td"),
    *(pytest.param(*part, marks=pytest.mark.slow) for part in (
        ("memory", "#bgpo-memory-explorer .figure svg"), ("bound", "#bgpo-bound-monitor li"),
        ("log", ".bgpo-log-tail pre"), ("checkpoints", ".bgpo-checkpoint-list td"),
    )),
))  # fmt: skip
def test_the_other_parts_of_a_run(studio, part, shown):
    studio.open([studio.full.full.id], part=part)
    expect(studio.page.locator(shown).first).to_be_visible()
    says = {"config": [".bgpo-run-config dd"], "evaluations": [".bgpo-evaluations th"]}
    judge(studio, ".bgpo-run-header h2", *says.get(part, []))


@pytest.mark.slow
def test_comparing_and_what_a_failure_says(studio):
    page, runs = studio.page, [studio.full.full.id, studio.full.other.id]
    studio.open(runs)
    page.locator('[data-chart="reward"] .nsewdrag').first.hover()
    judge(studio, ".bgpo-run-header .many tbody th", '[data-chart="reward"] .legend')
    studio.open(runs, part="compare")
    expect(page.locator("#bgpo-sweep-plots .parcoords").first).to_be_attached()
    page.locator("#bgpo-sweep-plots summary").click()
    judge(studio, "#bgpo-sweep-plots .numbers")
    studio.open([studio.full.failed.id])
    judge(studio, ".bgpo-run-header .failure", ".bgpo-run-header .failure pre")
    studio.open([studio.full.queued.id])
    judge(studio, ".bgpo-run-header h2")


@pytest.mark.slow
def test_what_opens_over_a_view(studio):
    page = studio.page
    studio.open([studio.full.full.id])
    page.get_by_role("button", name="Views").first.click()
    judge(studio, ".bgpo-menu")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Charts", exact=True).first.click()
    judge(studio, ".bgpo-chooser")
    page.keyboard.press("Escape")
    page.locator('[data-chart="reward"]').hover()
    page.keyboard.press("t")
    judge(studio)
    page.keyboard.press("t")
    page.get_by_role("button", name="Delete", exact=True).click()
    judge(studio, "dialog h3")
    page.get_by_role("button", name="Cancel").click()
    page.locator("h2", has_text=SHOWN).first.click()
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keyboard")
    for words in ("Follow the newest steps", "Start the run, generate, denoise", "Play or pause it"):
        expect(sheet).to_contain_text(words)
    judge(studio)
    page.keyboard.press("Escape")


def given(name: str, content: Any) -> dict[str, Any]:
    return {"name": name.replace("/", "\u2215"), "mimeType": "application/json", "buffer": json.dumps(content).encode()}


def test_the_form_with_a_file_and_fields_that_are_refused(studio):
    page = studio.page
    studio.open([], area="new")
    expect(page.locator(".lc-starts")).to_contain_text("queue is paused")
    judge(studio)
    values = {"task": "adder", "objective": "custom", "objective_file": HOSTILE, "group_size": 1, HOSTILE[:60]: 1}
    page.locator("#new-run-file input").set_input_files(given(f"{SHOWN}{IMAGE}.json", values))
    expect(page.locator("#new-run-file .said li").first).to_contain_text("constructor.constructor")
    page.locator("#new-run-name input, #new-run-name textarea").first.fill(HOSTILE[:60])
    page.locator("#new-run-form button.label-wrap").first.click()
    judge(studio, "#new-run-file .said")


def test_the_lab_with_a_trace_from_a_file(studio):
    page = studio.page
    studio.open([], area="lab")
    lab = page.locator(".bgpo-lab")
    file = lab.locator("input[type=file]")
    file.set_input_files(given(f"{SHOWN}{IMAGE}.json", {"events": HOSTILE}))
    expect(lab.locator("[role=status], [role=alert], p").filter(has_text="holds no trace").first).to_be_visible()
    judge(studio, ".bgpo-lab")
    events = [
        {"kind": "start", "prompt": HOSTILE, "prompt_tokens": [HOSTILE], "length": 2, "block_length": 2, "steps": 2},
        {"kind": "step", "step": 1, "commits": [[1, HOSTILE, 0.5]], "ghosts": [[0, HOSTILE, 0.5]], "seconds": 0.1},
        {"kind": "step", "step": 2, "commits": [[0, HOSTILE, 0.5]], "ghosts": [], "seconds": 0.2},
        {"kind": "end", "text": HOSTILE, "tokens": 2, "nfe": 2, "seconds": 0.2,
         "verdict": {"reward": 0.0, "reason": HOSTILE}},
    ]
    file.set_input_files(given("trace.json", {"events": events}))
    expect(lab.locator(".ds-chip")).to_have_count(2)
    judge(studio, ".bgpo-lab")


def test_chat_and_system(studio):
    page = studio.page
    studio.open([], area="chat")
    page.get_by_label("Prompt", exact=True).first.fill(HOSTILE[:150])
    expect(page.locator("#chat-examples .gallery-item").last).not_to_be_empty()
    judge(studio)
    studio.open([], area="system")
    expect(page.locator(".sf-card dl").first).to_be_visible()
    archive = {"name": f"{IMAGE}.zip".replace("/", ""), "mimeType": "application/zip", "buffer": HOSTILE.encode()}
    page.get_by_label("Archive of a run").set_input_files(archive)
    expect(page.locator(".sf-card [role=status]")).not_to_be_empty()
    judge(studio)


@pytest.mark.slow
def test_a_step_that_the_mouse_rests_on_shows_its_rollouts_and_asks_once(studio):
    page = studio.page
    studio.open([studio.full.other.id])
    # until its own curve is drawn, the mouse is on that of the run before
    wait_until(lambda: page.evaluate("id => window.bgpo.live.points.has(id)", studio.full.other.id), "its points")
    page.evaluate("() => new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    area = page.locator('[data-chart="reward"] .nsewdrag').first
    area.hover()
    peek = page.locator(".bgpo-peek")
    expect(peek).to_be_visible()  # hidden, it still holds what it showed last
    expect(peek).to_contain_text("Rollouts of step 2")
    page.mouse.move(5, 5)
    expect(peek).to_be_hidden()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/rollouts?" in request.url else None)
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 40)
    page.mouse.move(box["x"] + 3, box["y"] + 40, steps=20)
    expect(peek).to_contain_text("Rollouts of step 1")
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 40, steps=20)
    expect(peek).to_contain_text("Rollouts of step 2")  # known by now
    assert len(asked) <= 1
    page.keyboard.press("r")
    expect(peek).to_be_hidden()
    page.keyboard.press("r")
    expect(peek).to_be_visible()


SETTLED_MS = 500  # the page asks for news as long as it is open, so its network is never idle
PARTS = ("curves", "rollouts", "bound", "memory", "config", "log", "checkpoints", "evaluations")


def views(full: Furnished) -> list[tuple[list[int], str, str]]:
    """(runs, area, part) of everything there is."""
    found = [([full.full.id], "runs", part) for part in PARTS]
    found += [([full.full.id, full.other.id], "runs", part) for part in ("curves", "compare")]
    found.append(([full.failed.id], "runs", "curves"))
    return [*found, *(([], area, "") for area in ("new", "chat", "lab", "system"))]


@pytest.fixture
def phone(studio) -> Iterator[Studio]:
    studio.page.set_viewport_size({"width": 390, "height": 844})
    yield studio
    studio.page.set_viewport_size({"width": 1280, "height": 900})


def test_every_view_fits_a_phone(phone):
    page = phone.page
    for runs, area, part in views(phone.full):
        phone.open(runs, area, part)
        wait_until(lambda: page.evaluate("document.documentElement.scrollWidth") <= 390, f"{area} {part} to fit", 20)


@pytest.mark.slow
def test_no_view_keeps_people_out_on_a_phone(phone):
    found = []
    for runs, area, part in views(phone.full):
        phone.open(runs, area, part)
        phone.page.wait_for_timeout(SETTLED_MS)
        found += [f"{area} {part}: {barrier}" for barrier in barriers(phone.page)]
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize("width", (1280, 390))
def test_no_page_keeps_people_out_before_the_first_run(start_app, page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(start_app().url)
    expect(page.locator(".bgpo-launcher .choose").first).to_be_visible()
    found = barriers(page)
    for area in ("new", "chat", "lab", "system"):
        page.evaluate("area => window.bgpo.openArea(area)", area)
        expect(page.locator(f"#area-{area}")).to_be_visible()
        page.wait_for_timeout(SETTLED_MS)
        found += [f"{area}: {barrier}" for barrier in barriers(page)]
    assert found == []


def test_the_login_page(routes, page):
    client = TestClient(Access(routes, None, "a secret"), base_url="http://localhost")
    asked = client.get("/", headers={"accept": "text/html"})
    refused = client.post("/login", data={"password": IMAGE})
    assert (asked.status_code, refused.status_code) == (401, 401)
    for answer in (asked, refused):
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.set_content(answer.text)
            page.evaluate(AXE)
            violations = page.evaluate("async () => (await axe.run()).violations.map(item => [item.id, item.impact])")
            assert [item for item in violations if item[1] in ("serious", "critical")] == []
