"""The denoising stage in a headless Chromium, on an empty page: no Gradio, no model, only events."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, Route

from ui import assets
from ui.theme import CSS

ORIGIN = "http://stage.invalid"  # nothing is asked for on a network: every request is answered below
HOSTILE = "<img src=x onerror='window.hacked=1'>${window.hacked=1}"
ORDER = (2, 7, 0, 5, 1, 4, 6, 3)


def events(tokens=("0", "8", "5", *["<eos>"] * 5), prompt="37+48", order=ORDER) -> list[dict]:
    """One generation, a position per step; confidence grows with the step, the ghost of a mask is its final token."""
    made = [{"kind": "start", "prompt": prompt, "prompt_tokens": list(prompt), "length": len(tokens),
             "block_length": len(tokens), "steps": len(order)}]
    for step, position in enumerate(order, 1):
        masked = sorted(set(order[step:]))
        made.append({"kind": "step", "step": step, "commits": [[position, tokens[position], step / 10]],
                     "ghosts": [[i, tokens[i], 0.25] for i in masked], "seconds": step / 200})
    text = "".join(tokens).partition("<eos>")[0]
    return [*made, {"kind": "end", "text": text, "tokens": 4, "nfe": len(order), "seconds": 0.041,
                    "verdict": {"reward": 1.0, "reason": "37+48 = 085"}}]


def answer(route: Route) -> None:
    name = route.request.url.removeprefix(ORIGIN).removeprefix("/assets/")
    found = assets.find(name)
    if name == "/":
        body = f"<!doctype html><html lang=en><style>{CSS}</style><body class=gradio-container><main id=stage></main>"
        route.fulfill(body=body, content_type="text/html")
    elif found:
        route.fulfill(body=found.body, content_type=found.media_type)
    else:
        route.fulfill(status=404)


@pytest.fixture(scope="module")
def tab(browser):
    opened = browser.new_page(viewport={"width": 700, "height": 800})
    opened.route(f"{ORIGIN}/**", answer)
    opened.goto(f"{ORIGIN}/")
    yield opened
    opened.close()


@pytest.fixture
def page(tab):
    """A page with an empty stage on it; nothing may go wrong unseen."""
    problems: list[str] = []

    def note(error: object) -> None:
        problems.append(str(error))

    tab.on("pageerror", note)
    tab.evaluate("""async () => {
        const { Stage } = await import('/assets/denoise_stage.js');
        const main = document.getElementById('stage');
        main.replaceChildren();
        delete window.hacked;
        window.stage = new Stage(main, { live: true, empty: 'Nothing yet.' });
    }""")
    yield tab
    tab.remove_listener("pageerror", note)
    assert problems == []


def load(page: Page, made: list[dict]) -> None:
    page.evaluate("made => stage.load(made)", made)


def tokens(page: Page) -> list[str]:
    """What each position shows; a mask shows its ghost."""
    return page.locator(".ds-chip b").all_text_contents()


def places(page: Page) -> list[tuple[float, float]]:
    return page.locator(".ds-chip").evaluate_all("all => all.map(c => [c.offsetLeft, c.offsetTop, c.offsetWidth])")


def test_empty_stage_says_so_and_shows_no_controls(page):
    assert page.locator(".ds-empty").inner_text() == "Nothing yet."
    assert not page.locator(".ds-controls").is_visible() and not page.locator(".ds-verdict").is_visible()


def test_loaded_trace_stands_at_its_end_with_verdict_and_folded_tail(page):
    load(page, events())
    assert page.locator(".ds-chip:visible").all_text_contents() == ["030 %", "850 %", "510 %"]
    assert page.locator(".ds-fold").inner_text() == "end \u00d7 5"
    assert page.locator(".ds-verdict").inner_text() == "Reward 1: 37+48 = 085"
    assert "Generated in 41 ms, 8 forward passes, shown at 6 steps/s" in page.locator(".ds-status").inner_text()


def test_scrubbing_shows_every_step_and_nothing_moves(page):
    load(page, events())
    page.evaluate("stage.seek(0)")
    before = places(page)
    assert page.locator(".ds-mask").count() == 8
    for step in range(1, 8):
        page.evaluate("step => stage.seek(step)", step)
        assert page.locator(".ds-filled").count() == step
        shown = [place for place in places(page) if place[2]]  # those folded at the end have no width
        assert shown == before[: len(shown)]
        assert not page.locator(".ds-verdict").is_visible()  # it would give the ending away
    assert page.locator(".ds-position").inner_text() == "Step 7 of 8"


def test_a_ghost_is_as_faint_as_it_is_unlikely(page):
    load(page, events())
    page.evaluate("stage.seek(3)")
    ghost = page.locator(".ds-mask b").first
    assert ghost.inner_text() == "8" and ghost.evaluate("b => b.style.opacity") == "0.25"
    assert page.locator(".ds-filled b").first.evaluate("b => b.style.opacity") == ""


def test_keys_scrub_play_and_choose(page):
    load(page, events())
    page.locator(".ds-stage").focus()
    position = page.locator(".ds-position")
    for key, expected in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 8)):
        page.keyboard.press(key)
        assert position.inner_text() == f"Step {expected} of 8"
    page.keyboard.press("ArrowDown")
    assert page.locator(".ds-readout").inner_text().startswith("Position 1: 0, filled at step 3, confidence 30 %")
    page.locator(".ds-jump").click()
    assert position.inner_text() == "Step 3 of 8"
    page.keyboard.press("Space")
    page.wait_for_function("stage.shown === 8", timeout=5000)


def test_playing_takes_its_time_and_speed_divides_it(page):
    load(page, events())
    page.evaluate("stage.setSpeed(1); window.began = performance.now(); stage.play()")
    page.wait_for_function("stage.shown === 8", timeout=5000)
    at_1x = page.evaluate("performance.now() - began")
    page.evaluate("stage.setSpeed(8); window.began = performance.now(); stage.play()")
    page.wait_for_function("stage.shown === 8 && !stage.playing", timeout=5000)
    at_8x = page.evaluate("performance.now() - began")
    assert at_1x >= 1200  # 8 steps at 6 a second are 1333 ms, of which the first 1/6 s may have been rounded away
    assert at_8x < at_1x / 2


def test_live_events_that_come_at_once_are_shown_one_by_one(page):
    seen = page.evaluate("""async made => {
        const seen = new Set();
        for (const event of made) stage.push(event);      // a generation of a few milliseconds
        const first = stage.shown;
        while (stage.shown < 8) { seen.add(stage.shown); await new Promise((done) => setTimeout(done, 20)); }
        return { first, seen: [...seen] };
    }""", events())
    assert seen["first"] == 0
    assert seen["seen"] == list(range(8))


def test_live_status_says_what_is_made_and_what_is_shown(page):
    made = events()
    page.evaluate("made => made.forEach(event => stage.push(event))", made[:4])
    assert page.locator(".ds-status").inner_text() == "Generating: 3 of 8 steps made, shown at 6 steps/s"
    page.evaluate("stage.push({ kind: 'stopped' })")
    page.wait_for_function("stage.shown === 3 && !stage.playing", timeout=3000)
    assert page.locator(".ds-status").inner_text() == "Stopped after 3 of 8 steps"
    assert page.locator(".ds-verdict").inner_text() == "Not judged: stopped"


def test_error_before_the_first_step_is_a_sentence(page):
    page.evaluate("stage.push({ kind: 'loading', text: 'Loading.' })")
    assert page.locator(".ds-busy .ds-empty").inner_text() == "Loading."
    page.evaluate("stage.push({ kind: 'error', message: 'The checkpoint is gone.' })")
    assert page.locator(".ds-empty").inner_text() == "The checkpoint is gone."
    assert page.locator(".ds-busy").count() == 0


def test_order_colours_by_step_of_commitment(page):
    load(page, events())
    page.get_by_role("button", name="Order").click()
    share = page.locator(".ds-chip").evaluate_all("chips => chips.map(c => c.style.getPropertyValue('--x'))")
    assert [share[position] for position in ORDER] == [f"{round(100 * step / 7)}%" for step in range(8)]
    assert page.locator(".ds-chip small").first.inner_text() == "step 3"


def test_model_text_is_never_markup(page):
    made = events(tokens=(HOSTILE, "</b>", "{{x}}", "\n", " ", "\t", "", "a"), prompt="<b>x</b>")
    made[-1]["verdict"]["reason"] = HOSTILE
    load(page, made)
    page.get_by_text("As text").click()
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None and page.locator("#stage img").count() == 0
    shown = [HOSTILE.replace(" ", "\u2423"), "</b>", "{{x}}", "\u23ce", "\u2423", "\u21e5", "\u2205", "a"]
    assert tokens(page) == shown
    assert HOSTILE in page.locator(".ds-verdict").inner_text()


def test_a_stored_trace_needs_only_its_commits(page):
    page.evaluate("""async () => {
        const { eventsOfStored } = await import('/assets/denoise_trace.js');
        stage.load(eventsOfStored({ prompt: '37+48', length: 4, completion: '085', reward: 0, reason: 'no',
            trace: [[1, 2, '5', 0.4], [2, 0, '0', 0.9], [2, 1, '8', null], [4, 3, '<eos>', 0.99]] }));
    }""")
    assert page.locator(".ds-status").inner_text() == "Recorded answer, 4 steps, shown at 6 steps/s"
    assert tokens(page) == ["0", "8", "5", "end"]
    assert page.locator(".ds-verdict").inner_text() == "Reward 0: no"
    page.evaluate("stage.seek(3)")  # a step that filled nothing
    assert page.locator(".ds-mask").count() == 1


def test_text_alternative_and_announcement(page):
    load(page, events())
    page.get_by_text("As text").click()
    lines = page.locator(".ds-text-list code").all_text_contents()
    assert lines[0] == "_ _ _ _ _ _ _ _" and lines[1] == "_ _ 5 _ _ _ _ _" and lines[-1] == "0 8 5 end x 5"
    said = page.locator("[aria-live=polite]").inner_text()
    assert "Answer: 085" in said and "Reward 1" in said
    unnamed = page.evaluate("""[...document.querySelectorAll('#stage button, #stage input, #stage select')]
        .filter(c => !c.getAttribute('aria-label') && !c.textContent.trim()).length""")
    assert unnamed == 0


def test_reduced_motion_shows_the_latest_at_once(browser):
    calm = browser.new_page(reduced_motion="reduce")
    calm.route(f"{ORIGIN}/**", answer)
    calm.goto(f"{ORIGIN}/")
    shown = calm.evaluate("""async made => {
        const { Stage } = await import('/assets/denoise_stage.js');
        const stage = new Stage(document.getElementById('stage'), { live: true });
        made.forEach(event => stage.push(event));
        return stage.shown;
    }""", events())
    calm.close()
    assert shown == 8
