"""The Lab's routes over a real checkpoint, and its files; the page itself in a headless Chromium."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fastapi import FastAPI
from PIL import Image
from playwright.sync_api import expect
from starlette.testclient import TestClient

from bgpo.jobs.chat import Chat
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.tiny import build_tiny
from storage.checkpoints import add_checkpoint
from tests.ui.test_denoise_stage import HOSTILE, events
from ui import api
from ui.access import LOOPBACK, Access
from ui.trace_gif import canvases, gif
from ui.trace_player import BadTrace, check_events, player

SETTINGS = {
    "completion_length": 8, "denoising_steps": 8, "block_length": 8, "temperature": 1.0, "remasking": "random",
    "seed": 3,
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "step-000005"
    save_checkpoint(folder, build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 5, 1.0, 1), None)
    return folder


@pytest.fixture
def lab(services, new_run, saved) -> TestClient:
    add_checkpoint(services.db, new_run().id, 5, "evaluation", str(saved), 0.84)
    app = FastAPI()
    app.include_router(api.build_router(replace(services, chat=Chat())))
    api.add_refusals(app)
    return TestClient(Access(app, LOOPBACK), base_url="http://localhost")


def denoised(lab: TestClient, locked=(), **changes) -> list[dict]:
    body = {"checkpoint": 1, "prompt": "37+48", "settings": SETTINGS | changes, "locked": list(locked)}
    return [json.loads(line) for line in lab.post("/api/lab/denoise", json=body).text.splitlines()]


def final(made: list[dict]) -> dict[int, tuple[str, int]]:
    """{position: (piece, id)} of everything on the canvas in the end."""
    found = {position: (piece, id) for position, piece, id in made[0]["locked"]}
    for step in made[1:-1]:
        for position, piece, _ in step["commits"]:
            found[position] = (piece, step["details"][str(position)]["id"])
    return found


def test_a_denoising_streams_its_events_with_what_else_fitted(lab):
    choices = lab.get("/api/lab/checkpoints").json()
    assert [(item["id"], item["task"]) for item in choices] == [(1, "adder")]
    start, *steps, end = denoised(lab)
    assert start["kind"] == "start" and len(steps) == 8 and end["kind"] == "end"
    detail = steps[0]["details"][str(steps[0]["commits"][0][0])]
    assert detail["entropy"] > 0 and len(detail["others"]) == 4
    assert sorted((chance for _, chance in detail["others"]), reverse=True) == [c for _, c in detail["others"]]
    assert final(denoised(lab)) == final([start, *steps, end])


def test_fixed_words_stand_and_a_span_is_written_again(lab):
    made = final(denoised(lab, locked=[[0, "08"], [7, "5"]]))
    assert [made[i][0] for i in (0, 1, 7)] == ["0", "8", "5"]
    whole = final(denoised(lab))
    kept = [[i, id] for i, (_, id) in whole.items() if i not in (2, 3)]
    again = denoised(lab, locked=kept, seed=9)
    assert len(again) == 4  # a start, a step for each free position, an end
    assert {i: piece for i, piece in final(again).items() if i not in (2, 3)} == {
        i: piece for i, piece in whole.items() if i not in (2, 3)
    }


def test_a_stored_rollout_is_gone_on_with_by_its_tokens_alone(lab):
    """It came without token ids; an end token is one as well."""
    made = final(denoised(lab, locked=[[0, {"piece": "0"}], [1, {"piece": "+"}], [7, {"piece": "<eos>"}]]))
    assert [made[i][0] for i in (0, 1, 7)] == ["0", "+", "<eos>"] and len(made) == 8
    known = lab.get("/api/lab/checkpoints").json()[0]
    assert (known["run"], known["step"]) == (1, 5), "the page takes the checkpoint of the rollout's own run"


@pytest.mark.parametrize(("locked", "words"), (
    ([[6, "123"]], "does not fit"), ([[0, 10**6]], "no token"), ([[-1, "1"]], "does not fit"),
    ([[0, "\u00e9"]], "no token for"),
    ([[0, {"piece": "12"}]], "no token '12'"), ([[0, {"piece": 1}]], "list of"), ([[0, {}]], "list of"),
    ([[0, "12345678"]], "nothing to fill"), ([["0", "1"]], "list of"), ([[0, True]], "list of"), ([[0, 1]], "no token"),
))
def test_words_that_cannot_be_fixed_get_a_sentence(lab, locked, words):
    refused = denoised(lab, locked=locked)[-1]
    assert refused["kind"] == "error" and words in refused["message"]


def test_a_checkpoint_that_is_gone_and_settings_that_contradict(lab):
    gone = lab.post("/api/lab/denoise", json={"checkpoint": 99, "prompt": "1+1", "settings": SETTINGS})
    assert gone.status_code == 404 and "Choose another" in gone.json()["error"]
    assert denoised(lab, block_length=3)[-1]["field"] == "block_length"


def test_a_gif_holds_every_step(lab):
    made = events(("a", HOSTILE, "c", *["<eos>"] * 5))
    picture = Image.open(io.BytesIO(gif(check_events(made))))
    assert picture.format == "GIF" and picture.n_frames == 9
    assert [sum(cell["mask"] for cell in canvas) for canvas in canvases(made)] == list(range(8, -1, -1))
    answer = lab.post("/api/lab/gif", json={"events": made})
    assert answer.headers["content-type"] == "image/gif" and "attachment" in answer.headers["content-disposition"]


@pytest.mark.parametrize("wrong", (
    None, [], [1], [{"kind": "step"}], [{"kind": "start", "length": 10**9}], [{"kind": "start", "length": "8"}],
    [{"kind": "start", "length": 2}, {"kind": "step", "step": 1, "commits": [[5, "a", 0.5]]}],
    [{"kind": "start", "length": 2}, {"kind": "step", "step": 2, "commits": []}],
))
def test_what_is_no_trace_is_refused_in_words(lab, wrong):
    with pytest.raises(BadTrace):
        check_events(wrong)
    for kind in ("gif", "player"):
        refused = lab.post(f"/api/lab/{kind}", json={"events": wrong})
        assert refused.status_code == 422 and refused.json()["error"].endswith(".")


def test_the_player_plays_without_a_network_and_runs_no_text(browser, tmp_path):
    file = tmp_path / "denoising.html"
    file.write_text(player(events(("a", HOSTILE, "</script>", *["<eos>"] * 5), prompt=HOSTILE)))
    page = browser.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    expect(page.locator(".ds-chip")).to_have_count(8)
    page.get_by_role("button", name="Last step").click()
    expect(page.locator(".ds-chip b").nth(2)).to_have_text("</script>")
    expect(page.locator(".ds-verdict")).to_contain_text("Reward 1")
    assert page.evaluate("window.hacked") is None
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    page.close()
