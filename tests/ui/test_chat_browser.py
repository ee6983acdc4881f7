"""Chat and Lab as a person meets them, on a machine whose only GPU a run holds: turns, devices, two checkpoints."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from bgpo.config import TrainConfig
from bgpo.models.checkpoints import TrainingState, save_checkpoint
from bgpo.models.loading import load
from bgpo.presets import PRESETS
from storage.checkpoints import add_checkpoint
from storage.database import Database, open_database, sqlite_url
from storage.metrics import Progress, flush
from storage.queue import lease_if_free
from storage.runs import Run, create_run, get_run
from tests.models import published
from tests.ui.axe import barriers
from tests.ui.card_app import CARD
from tests.ui.studio import App, apps


@pytest.fixture(scope="module")
def card_app(tmp_path_factory) -> Iterator[App]:
    with apps(tmp_path_factory.mktemp("data"), "-m", "tests.ui.card_app") as start:
        yield start()


@pytest.fixture(scope="module")
def card_db(card_app) -> Iterator[Database]:
    opened = open_database(sqlite_url(card_app.data_dir / "bgpo.db"))
    yield opened
    opened.close()


def new_run(app: App, db: Database, name: str, config: TrainConfig, status: str) -> Run:
    return create_run(db, name=name, config_json=config.to_json(), train_steps=60, status=status,
                      runs_folder=app.data_dir / "runs")


@pytest.fixture(scope="module")
def holder(card_app, card_db) -> Run:
    """A run that computes on another machine as far as this app can tell, and holds the card."""
    run = new_run(card_app, card_db, "holder", PRESETS["adder"].config(), "stopped")
    flush(card_db, run.id, [], progress=Progress("training", 20, 60, 0.1, 20, 200.0))
    shutil.rmtree(run.folder, ignore_errors=True)
    with card_db.write() as connection:  # no queue has seen it, so nothing is started
        connection.exec_driver_sql(f"UPDATE run SET status = 'running', heartbeat_at = {time.time() + 3600}")
    assert lease_if_free(card_db, get_run(card_db, run.id), [CARD.uuid])
    return run


@pytest.fixture(scope="module")
def llada(card_app, card_db, holder, tmp_path_factory) -> list[int]:
    """Two checkpoints in LLaDA's layout of a run with problems of its own."""
    folder = tmp_path_factory.mktemp("llada")
    (folder / "pens.jsonl").write_text("\n".join(
        json.dumps({"question": f"How many are {n} pens?", "answer": f"#### {n}"}) for n in range(99)
    ))
    config = TrainConfig.parse({
        "task": "gsm8k", "data": str(folder / "pens.jsonl"), "model": "llada", "model_path": "a/b", "warmup_steps": 0,
        "completion_length": 16, "denoising_steps": 8, "block_length": 8,
    })
    run = new_run(card_app, card_db, "pens", config, "stopped")
    ids = []
    for seed in (0, 1):
        model = load(published.llada(folder / f"published{seed}", seed=seed, max_sequence_length=512), "llada")
        save_checkpoint(folder / f"step{seed}", model, TrainingState("training", seed, 1.0, 1), None)
        ids.append(add_checkpoint(card_db, run.id, seed, "evaluation", str(folder / f"step{seed}"), 0.5).id)
    return ids


def opened(page: Page, app: App, checkpoint: int) -> None:
    page.goto(f"{app.url}/?tab=chat&checkpoint={checkpoint}")
    expect(page.locator("#chat-generate")).to_be_enabled()
    expect(page.locator("#chat-examples")).to_contain_text("How many are")  # of the run's own file


@pytest.mark.slow
def test_a_conversation_goes_on_while_a_run_holds_the_card(card_app, llada, holder, page):
    opened(page, card_app, llada[0])
    page.locator("#chat-examples .gallery-item").first.click()
    expect(page.locator("#chat-prompt textarea")).to_have_value(re.compile("How many are"))
    page.locator("#chat-prompt textarea").press("Enter")  # a click may miss a button that still moves
    stage = page.locator("#chat-stage")
    expect(stage.locator(".ds-empty")).to_contain_text(f"Run {holder.id} holds GPU 0 (NVIDIA H100).")
    page.get_by_role("button", name="Wait for the GPU").click()
    expect(stage.locator(".ds-empty")).to_contain_text("Waiting. Run")
    expect(stage.locator(".ds-empty")).to_contain_text("step 20 of 60, about 7 min left.")
    question = page.locator("#chat-examples .gallery-item").first.inner_text()
    page.locator("#chat-prompt textarea").fill(question)
    page.locator("#chat-prompt textarea").press("Enter")  # while the answer before is still under way
    expect(page.locator("#chat-later")).to_contain_text("Waits for this answer to end")
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Answer on the CPU").click()  # it was sent by itself, and finds no GPU
    expect(page.locator("#chat-later .later")).to_have_text("")
    expect(stage.locator(".ds-verdict")).to_contain_text("Reward 0")
    expect(stage.locator(".ds-status")).to_contain_text("on the CPU")

    rows = stage.locator(".cv-row")
    expect(rows).to_have_count(1)
    expect(page.locator("#chat-prompt textarea")).to_have_value("")
    page.locator("#chat-prompt textarea").fill("Why?")
    page.locator("#chat-prompt textarea").press("Enter")  # answered on the CPU as well, as long as the card is taken
    expect(rows).to_have_count(2)
    expect(rows.nth(1)).to_contain_text("reads the turn before it")
    expect(stage.locator(".ds-verdict")).to_contain_text("Not judged: the prompt is no problem of the task")
    page.get_by_role("button", name="Edit last").click()
    expect(page.locator("#chat-prompt textarea")).to_have_value("Why?")
    expect(page.locator("#chat-note")).to_contain_text("replaces turn 2")
    page.locator("#chat-prompt textarea").fill("And now?")
    page.get_by_role("button", name="Generate", exact=True).click()
    expect(rows.nth(1).locator(".cv-asked")).to_have_text("And now?")
    rows.nth(0).click()
    expect(stage.locator(".ds-row-prompt")).to_contain_text("How")
    page.get_by_role("button", name="New conversation").click()
    expect(rows).to_have_count(0)


@pytest.mark.slow
@pytest.mark.parametrize("width", (1280, 390))
def test_no_answer_keeps_people_out(card_app, llada, page, width):
    """Chat with two checkpoints that have answered, and the lab with two that have denoised."""
    page.set_viewport_size({"width": width, "height": 900})
    opened(page, card_app, llada[0])
    page.get_by_label("Compared with (B)").click()
    page.get_by_role("option").nth(1).click()  # newest first, after none: the other one
    page.locator("#chat-examples .gallery-item").first.click()
    expect(page.locator("#chat-prompt textarea")).to_have_value(re.compile("How many are"))
    page.locator("#chat-prompt textarea").press("Enter")
    page.get_by_role("button", name="Answer on the CPU").click()
    for stage in ("#chat-stage", "#chat-stage-b"):
        expect(page.locator(f"{stage} .ds-status")).to_contain_text("tokens/s")
        expect(page.locator(f"{stage} .ds-mask")).to_have_count(0)  # guesses at masks are as faint as they are unlikely
    assert barriers(page) == []
    page.goto(f"{card_app.url}/?tab=lab&checkpoint={llada[0]}")
    lab = page.locator(".bgpo-lab")
    lab.get_by_role("button", name="Compare with another").click()
    lab.get_by_role("button", name="Denoise", exact=True).click()
    lab.get_by_role("button", name="Denoise on the CPU").click()
    for part in (0, 1):
        expect(lab.locator(".ds-status").nth(part)).to_contain_text("tokens/s")
    expect(lab.locator(".ds-mask")).to_have_count(0)
    assert barriers(page) == []


@pytest.mark.slow
def test_the_lab_offers_the_cpu_or_to_wait_as_well(card_app, llada, holder, page):
    page.goto(f"{card_app.url}/?tab=lab&checkpoint={llada[1]}")
    lab = page.locator(".bgpo-lab")
    lab.get_by_role("button", name="Denoise", exact=True).click()
    expect(lab.locator(".taken")).to_contain_text(f"Run {holder.id} holds GPU 0")
    lab.get_by_role("button", name="Wait for the GPU").click()
    expect(lab.locator(".ds-empty")).to_contain_text("Waiting. Run")
    lab.get_by_role("button", name="Stop", exact=True).click()
    expect(lab.locator(".ds-empty")).to_have_text("Stopped.")
    lab.get_by_role("button", name="Denoise", exact=True).click()
    lab.get_by_role("button", name="Wait for the GPU").click()
    expect(lab.locator(".ds-empty")).to_contain_text("Waiting. Run")
    expect(lab.locator(".ds-empty")).not_to_contain_text("goes first")  # the one that was stopped has left the line
    lab.get_by_role("button", name="Stop", exact=True).click()
    lab.get_by_role("button", name="Denoise", exact=True).click()
    lab.get_by_role("button", name="Denoise on the CPU").click()
    expect(lab.locator(".ds-status")).to_contain_text("on the CPU")
    expect(lab.locator(".ds-verdict")).to_contain_text("Not judged")
