"""Enter in the chat's prompt while an answer is under way, without an app: Gradio's part is played by the test."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.ui.test_denoise_stage import open_tab

FORM = """async () => {
    document.getElementById('stage').innerHTML = '<div id="body"><div id="prompt"><textarea></textarea></div>'
        + '<button id="go">Generate</button></div><div id="later"></div>';
    window.sent = [];
    const box = document.querySelector('textarea'), go = document.getElementById('go');
    const take = () => window.sent.push(box.value);
    box.addEventListener('keydown', (event) => { if (event.key === 'Enter') { event.preventDefault(); take(); } });
    go.addEventListener('click', take);
    const { mount } = await import('/assets/send_later.js');
    mount(document.getElementById('later'), { body: 'body', prompt: 'prompt', button: 'go' });
}"""


@pytest.fixture
def page(browser):
    tab = open_tab(browser)
    tab.evaluate(FORM)
    yield tab
    tab.close()


def write(page: Page, text: str) -> None:
    page.locator("textarea").fill(text)
    page.locator("textarea").press("Enter")


def answering(page: Page, going: bool) -> None:
    page.evaluate("going => { document.getElementById('go').disabled = going; }", going)


@pytest.mark.parametrize("shown", [False, True])
def test_what_is_sent_while_an_answer_is_under_way_waits_for_its_end(page, shown):
    """Also before the page shows that it is: the app has not answered yet, and Gradio would drop the second message."""
    write(page, "1+1")
    if shown:
        answering(page, True)
    write(page, "2+2")
    expect(page.locator(".later")).to_contain_text("Waits for this answer to end")
    assert page.evaluate("sent") == ["1+1"]
    answering(page, True)
    answering(page, False)
    page.wait_for_function("sent.length === 2")
    assert page.evaluate("sent") == ["1+1", "2+2"]
    expect(page.locator(".later")).to_have_text("")


def test_a_message_that_waits_can_be_taken_back(page):
    write(page, "1+1")
    write(page, "2+2")
    page.locator("textarea").press("Escape")
    expect(page.locator(".later")).to_have_text("")
    answering(page, True)
    answering(page, False)
    page.wait_for_timeout(50)
    assert page.evaluate("sent") == ["1+1"]
