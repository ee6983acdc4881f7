"""The denoising stage in a headless Chromium, on an empty page: no Gradio, no model, only events."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

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


def open_tab(browser: Browser, **settings) -> Page:
    opened = browser.new_page(viewport={"width": 700, "height": 800}, **settings)
    opened.route(f"{ORIGIN}/**", answer)
    opened.goto(f"{ORIGIN}/")
    return opened


def open_stage(tab: Page) -> None:
    """An empty stage as `window.stage`, once its style sheet is there: without it nothing has its place."""
    tab.evaluate("""async () => {
        const { Stage } = await import('/assets/denoise_stage.js');
        const main = document.getElementById('stage');
        main.replaceChildren();
        delete window.hacked;
        window.stage = new Stage(main, { live: true, empty: 'Nothing yet.' });
    }""")
    tab.wait_for_function("[...document.styleSheets].some(sheet => sheet.href?.endsWith('/denoise_stage.css'))")


@pytest.fixture(scope="module")
def tab(browser):
    opened = open_tab(browser)
    yield opened
    opened.close()


@pytest.fixture
def page(tab):
    """A page with an empty stage on it; nothing may go wrong unseen."""
    problems: list[str] = []

    def note(error: object) -> None:
        problems.append(str(error))

    tab.on("pageerror", note)
    tab.mouse.move(0, 0)  # away from where the last test clicked: a token under the mouse speaks in the readout
    open_stage(tab)
    yield tab
    tab.remove_listener("pageerror", note)
    assert problems == []


def load(page: Page, made: list[dict]) -> None:
    page.evaluate("made => stage.load(made)", made)


def expect_tokens(page: Page, tokens: list[str]) -> None:
    """What each position shows; a mask shows its ghost."""
    expect(page.locator(".ds-chip b")).to_have_text(tokens)


def places(page: Page) -> list[tuple[float, float]]:
    return page.locator(".ds-chip").evaluate_all("all => all.map(c => [c.offsetLeft, c.offsetTop, c.offsetWidth])")


def test_empty_stage_says_so_and_shows_no_controls(page):
    expect(page.locator(".ds-empty")).to_have_text("Nothing yet.")
    expect(page.locator(".ds-controls")).not_to_be_visible()
    expect(page.locator(".ds-verdict")).not_to_be_visible()


def test_loaded_trace_stands_at_its_end_with_verdict_and_folded_tail(page):
    load(page, events())
    expect(page.locator(".ds-chip:visible")).to_have_text(["030 %", "850 %", "510 %"])
    expect(page.locator(".ds-fold")).to_have_text("end \u00d7 5")
    expect(page.locator(".ds-verdict")).to_have_text("Reward 1: 37+48 = 085")
    expect(page.locator(".ds-status")).to_have_text(
        "Generated in 41 ms, 4 tokens, 97.6 tokens/s, 8 forward passes, 0.5 tokens per forward, "
        "first change after 5 ms, shown at 6 steps/s"
    )


def test_tokens_that_stood_from_the_start_were_not_generated(page):
    start, *rest = events()
    load(page, [start | {"locked": [[0, "0", 5], [7, "<eos>", 1]]}, *rest])  # the second is behind the end of the text
    expect(page.locator(".ds-status")).to_contain_text("3 tokens, 73.2 tokens/s")


def test_scrubbing_shows_every_step_and_nothing_moves(page):
    load(page, events())
    page.evaluate("stage.seek(0)")
    before = places(page)
    expect(page.locator(".ds-mask")).to_have_count(8)
    for step in range(1, 8):
        page.evaluate("step => stage.seek(step)", step)
        expect(page.locator(".ds-filled")).to_have_count(step)
        shown = [place for place in places(page) if place[2]]  # those folded at the end have no width
        assert shown == before[: len(shown)]
        expect(page.locator(".ds-verdict")).not_to_be_visible()  # it would give the ending away
    expect(page.locator(".ds-position")).to_have_text("Step 7 of 8")


def test_a_ghost_is_as_faint_as_it_is_unlikely(page):
    load(page, events())
    page.evaluate("stage.seek(3)")
    ghost = page.locator(".ds-mask b").first
    expect(ghost).to_have_text("8")
    assert ghost.evaluate("b => b.style.opacity") == "0.25"
    assert page.locator(".ds-filled b").first.evaluate("b => b.style.opacity") == ""


def test_keys_scrub_play_and_choose(page):
    load(page, events())
    page.locator(".ds-stage").focus()
    position = page.locator(".ds-position")
    for key, expected in (("Home", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 8)):
        page.keyboard.press(key)
        expect(position).to_have_text(f"Step {expected} of 8")
    page.keyboard.press("ArrowDown")
    expect(page.locator(".ds-readout")).to_have_text(re.compile("^Position 1: 0, filled at step 3, confidence 30 %"))
    page.locator(".ds-jump").click()
    expect(position).to_have_text("Step 3 of 8")
    page.keyboard.press("Space")
    page.wait_for_function("stage.shown === 8")


def test_playing_takes_its_time_and_speed_divides_it(browser):
    timed = browser.new_page()
    timed.clock.install(time=0)  # the page's time, not the machine's
    timed.route(f"{ORIGIN}/**", answer)
    timed.goto(f"{ORIGIN}/")
    open_stage(timed)
    load(timed, events())
    timed.clock.pause_at(600)
    shown = []
    for speed, *milliseconds in ((1, 1200, 200), (8, 120, 80)):  # 8 steps at 6 a second are 1333 ms, and 167 at 8x
        timed.evaluate("speed => { stage.setSpeed(speed); stage.play(); }", speed)
        for passed in milliseconds:
            timed.clock.run_for(passed)
            shown.append(timed.evaluate("stage.playing ? stage.shown : 'all'"))
    timed.close()
    assert shown == [7, "all", 5, "all"]


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


def test_a_generation_no_faster_than_people_follow_is_shown_as_it_comes(page):
    slow = [event | {"seconds": event["step"] / 20} if event["kind"] == "step" else event for event in events()[:-1]]
    shown = page.evaluate("made => made.map((event) => { stage.push(event); return stage.shown; })", slow)
    assert shown == [0, 0, 2, 3, 4, 5, 6, 7, 8]
    expect(page.locator(".ds-status")).to_have_text("Generating: 8 of 8 steps made, shown as they come")


def test_live_status_says_what_is_made_and_what_is_shown(page):
    made = events()
    page.evaluate("made => made.forEach(event => stage.push(event))", made[:4])
    expect(page.locator(".ds-status")).to_have_text("Generating: 3 of 8 steps made, shown at 6 steps/s")
    page.evaluate("stage.push({ kind: 'stopped' })")
    page.wait_for_function("stage.shown === 3 && !stage.playing")
    expect(page.locator(".ds-status")).to_have_text("Stopped after 3 of 8 steps")
    expect(page.locator(".ds-verdict")).to_have_text("Not judged: stopped")


def test_error_before_the_first_step_is_a_sentence(page):
    page.evaluate("stage.push({ kind: 'loading', text: 'Loading.' })")
    expect(page.locator(".ds-busy .ds-empty")).to_have_text("Loading.")
    page.evaluate("stage.push({ kind: 'error', message: 'The checkpoint is gone.' })")
    expect(page.locator(".ds-empty")).to_have_text("The checkpoint is gone.")
    expect(page.locator(".ds-busy")).to_have_count(0)


def test_order_colours_by_step_of_commitment(page):
    load(page, events())
    page.get_by_role("button", name="Order").click()
    expect(page.locator(".ds-chip small").first).to_have_text("step 3")
    share = page.locator(".ds-chip").evaluate_all("chips => chips.map(c => c.style.getPropertyValue('--x'))")
    assert [share[position] for position in ORDER] == [f"{round(100 * step / 7)}%" for step in range(8)]


def test_model_text_is_never_markup(page):
    made = events(tokens=(HOSTILE, "</b>", "{{x}}", "\n", " ", "\t", "", "a"), prompt="<b>x</b>")
    made[-1]["verdict"]["reason"] = HOSTILE
    load(page, made)
    page.get_by_text("As text").click()
    expect(page.locator(".ds-text-list code")).to_have_count(9)
    expect(page.locator("#stage img")).to_have_count(0)
    # an image of our own that does not load: by the time it has failed, another would have as well
    page.evaluate("new Promise(failed => { const own = new Image(); own.onerror = failed; own.src = 'x'; })")
    assert page.evaluate("window.hacked") is None
    shown = [HOSTILE.replace(" ", "\u2423"), "</b>", "{{x}}", "\u23ce", "\u2423", "\u21e5", "\u2205", "a"]
    expect_tokens(page, shown)
    expect(page.locator(".ds-verdict")).to_contain_text(HOSTILE)


def test_a_stored_trace_needs_only_its_commits(page):
    page.evaluate("""async () => {
        const { eventsOfStored } = await import('/assets/denoise_trace.js');
        stage.load(eventsOfStored({ prompt: '37+48', length: 4, completion: '085', reward: 0, reason: 'no',
            trace: [[1, 2, '5', 0.4], [2, 0, '0', 0.9], [2, 1, '8', null], [4, 3, '<eos>', 0.99]] }));
    }""")
    expect(page.locator(".ds-status")).to_have_text("Recorded answer, 4 steps, shown at 6 steps/s")
    expect_tokens(page, ["0", "8", "5", "end"])
    expect(page.locator(".ds-verdict")).to_have_text("Reward 0: no")
    page.evaluate("stage.seek(3)")  # a step that filled nothing
    expect(page.locator(".ds-mask")).to_have_count(1)


def test_text_alternative_and_announcement(page):
    load(page, events())
    page.get_by_text("As text").click()
    lines = page.locator(".ds-text-list code")
    expect(lines).to_have_count(9)
    for place, line in ((0, "_ _ _ _ _ _ _ _"), (1, "_ _ 5 _ _ _ _ _"), (-1, "0 8 5 end x 5")):
        expect(lines.nth(place)).to_have_text(line)
    expect(page.locator("[aria-live=polite]")).to_have_text(re.compile("Answer: 085.*Reward 1"))
    unnamed = page.evaluate("""[...document.querySelectorAll('#stage button, #stage input, #stage select')]
        .filter(c => !c.getAttribute('aria-label') && !c.textContent.trim()).length""")
    assert unnamed == 0


def test_reduced_motion_shows_the_latest_at_once(browser):
    calm = open_tab(browser, reduced_motion="reduce")
    shown = calm.evaluate("""async made => {
        const { Stage } = await import('/assets/denoise_stage.js');
        const stage = new Stage(document.getElementById('stage'), { live: true });
        made.forEach(event => stage.push(event));
        return stage.shown;
    }""", events())
    calm.close()
    assert shown == 8


def filled_up() -> list[dict]:
    """Two blocks of four in LLaDA's words: the answer ends in the first, the second is filled up and not computed."""
    tokens = ("0", "8", "<|eot_id|>", "<|endoftext|>")
    start, *steps, end = events(tokens, order=(0, 1, 2, 3))
    start |= {"length": 8, "block_length": 4, "steps": 8, "ends": ["<|endoftext|>", "<|eot_id|>"]}
    steps[-1]["filled"] = [[position, "<|endoftext|>", 7] for position in range(4, 8)]
    for step in steps:
        step["details"] = {str(step["commits"][0][0]): {"id": 5, "entropy": 1.0, "others": []}}
    return [start, *steps, end | {"tokens": 3, "nfe": 4}]


def test_an_ended_answer_is_filled_up_dimmed_and_counts_as_nothing_written(page):
    load(page, filled_up())
    expect(page.locator(".ds-chip:visible b")).to_have_text(["0", "8"])
    expect(page.locator(".ds-fold")).to_have_text("end \u00d7 6, 4 filled up")
    expect(page.locator(".ds-status")).to_contain_text("4 forward passes, 0.75 tokens per forward")
    expect(page.locator(".ds-counts")).to_contain_text("1 pass per position so far")
    expect(page.locator(".ds-filler")).to_have_count(4)
    page.evaluate("stage.seek(3)")
    expect(page.locator(".ds-filler")).to_have_count(0)
    end = page.locator(".ds-chip").nth(2)
    expect(end).to_have_attribute("aria-label", re.compile("Position 3: end, filled at step 3"))
    ids = page.evaluate("stage.trace.ids(4)")
    assert len(ids) == 8 and [4, 7] in ids, "it can be gone on with"


def test_the_strip_of_an_answer_that_ended_early_ends_with_it(page):
    """It began with eight steps and came live: the last bar is where the cursor of the last step is."""
    page.evaluate("made => { for (const event of made) stage.push(event); }", filled_up())
    expect(page.locator(".ds-position")).to_have_text("Step 4 of 4")
    assert page.locator(".ds-plot").get_attribute("viewBox") == "0 0 4 40"
    assert page.locator(".ds-bars line").last.get_attribute("x1") == "4"


def test_what_filled_up_a_stored_completion_comes_with_its_last_step(browser):
    tab = open_tab(browser)
    steps = tab.evaluate("""async () => {
        const { eventsOfStored } = await import('/assets/denoise_trace.js');
        const trace = [[0, 2, '<eos>', 0], [1, 1, '<eos>', 0.9], [2, 0, '5', 0.8]];
        const made = eventsOfStored({ prompt: '2+3', trace }).slice(1, -1);
        return made.map((event) => [event.commits, event.filled ?? []]);
    }""")
    tab.close()
    assert steps == [[[[1, "<eos>", 0.9]], []], [[[0, "5", 0.8]], [[2, "<eos>"]]]]


def test_a_stored_completion_is_gone_on_with_by_its_tokens(browser):
    """It came without token ids; what it showed at a step is named by the tokens themselves."""
    tab = open_tab(browser)
    ids = tab.evaluate("""async () => {
        const { Trace, eventsOfStored } = await import('/assets/denoise_trace.js');
        const trace = new Trace();
        const rows = [[0, 2, '<eos>', 0], [1, 1, '<eos>', 0.9], [2, 0, '5', 0.8]];
        for (const event of eventsOfStored({ prompt: '2+3', trace: rows })) trace.add(event);
        return [trace.ids(1), trace.ids(2)];
    }""")
    tab.close()
    assert ids == [[[1, {"piece": "<eos>"}]], [[1, {"piece": "<eos>"}], [0, {"piece": "5"}], [2, {"piece": "<eos>"}]]]


# ---- as the Chat page has it: two stages that go together, each under its conversation

TWO = """async made => {
    const { mount } = await import('/assets/denoise_stage.js');
    const main = document.getElementById('stage');
    main.replaceChildren();
    window.sides = ['a', 'b'].map((name) => {
        const element = document.createElement('div');
        element.id = name;
        main.append(element);
        let told = null;
        const props = { link: 'pair', value: null };
        mount(element, props, (_, take) => { told = take; });
        return { say: (value) => { props.value = value; told(); } };
    });
    const words = { turn: 0, asked: '37+48', label: 'A run', settings: '' };
    made.forEach((events, i) => sides[i].say({ generation: `g${i}`, events, ...words }));
}"""


def test_two_stages_go_together_by_hand_by_key_and_playing_until_they_are_let_go(page):
    short = events(order=(2, 7, 0, 5))
    page.evaluate(TWO, [events(), short])
    a, b = (page.locator(f"#{name} .ds-position") for name in "ab")
    page.locator("#a").get_by_role("button", name="First step").click()
    expect(b).to_have_text("Step 0 of 4")
    page.locator("#b .ds-stage").focus()
    page.keyboard.press("ArrowRight")
    expect(a).to_have_text("Step 1 of 8")
    page.locator("#a .ds-stage").focus()
    page.keyboard.press("End")
    expect(b).to_have_text("Step 4 of 4")
    page.locator("#b").get_by_label("Speed").select_option("8")
    expect(page.locator("#a").get_by_label("Speed")).to_have_value("8")
    page.locator("#b").get_by_role("button", name="Play").click()  # from its start; the longer one plays to its own end
    expect(a).to_have_text("Step 8 of 8")
    expect(b).to_have_text("Step 4 of 4")
    page.locator("#a").get_by_label("Together").uncheck()
    expect(page.locator("#b").get_by_label("Together")).not_to_be_checked()
    page.locator("#a").get_by_role("button", name="First step").click()
    expect(a).to_have_text("Step 0 of 8")
    expect(b).to_have_text("Step 4 of 4")


def test_a_conversation_keeps_its_turns_and_their_denoisings(page):
    page.evaluate(TWO, [events(), events()])
    rows = page.locator("#a .cv-row")
    say = """([turn, made, asked]) => sides[0].say(
        { generation: `t${Math.random()}`, turn, asked, label: 'A run', settings: '', events: made })"""
    start, *rest = events(tokens=("1", "2", *["<eos>"] * 6))
    page.evaluate(say, [1, [start | {"turns": 1, "turns_left_out": 2}, *rest], HOSTILE])
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("reads the turn before it; 2 older do not fit")
    expect(rows.nth(1).locator(".cv-asked")).to_have_text(HOSTILE)
    page.evaluate(say, [1, [*events(tokens=("7", *["<eos>"] * 7))[:4], {"kind": "stopped"}], "again"])
    expect(rows.locator(".cv-asked")).to_have_text(["37+48", "again"])
    expect(rows.nth(1)).to_contain_text("later turns do not read it")
    rows.nth(0).click()
    expect(rows.nth(0)).to_have_attribute("aria-current", "true")
    page.evaluate("void 0")
    expect(page.locator("#a .ds-chip b").nth(1)).to_have_text("8")
    page.evaluate("sides[0].say({ generation: 'new', events: [{ kind: 'clear' }, { kind: 'idle', text: 'Ask.' }] })")
    expect(rows).to_have_count(0)
    expect(page.locator("#a .ds-empty")).to_have_text("Ask.")
    assert page.evaluate("window.hacked") is None
