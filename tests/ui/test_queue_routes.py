"""The routes of the queue: order, pause, plans, slots; the whole log; and what failed runs offer."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs import control
from bgpo.jobs.lineage import going_on
from bgpo.presets import PRESETS
from storage.queue import queued_runs
from storage.runs import get_run, transition
from storage.settings import cpu_slots, queue_paused
from ui import config_form, run_summaries, run_words


@pytest.fixture
def queued(services):
    return [control.submit(services.db, TrainConfig(seed=seed), services.runs_folder).id for seed in range(3)]


def test_a_run_is_moved(client, services, queued):
    assert client.post(f"/api/runs/{queued[2]}/move", json={"place": 1}).status_code == 200
    assert queued_runs(services.db) == [queued[2], queued[0], queued[1]]
    runs = {run["id"]: run for run in client.get("/api/live").json()["runs"]}
    assert [runs[id]["queue_place"] for id in queued] == [2, 3, 1]


def test_the_queue_is_paused_for_everybody(client, services, queued):
    assert client.post("/api/queue/pause", json={"paused": True}).json() == {"paused": True}
    queue = client.get("/api/live").json()["queue"]
    assert queue_paused(services.db) and queue == {"paused": True, "why": "", "slots": 1, "queued": 3}
    assert client.post("/api/queue/pause", json={"paused": "no"}).status_code == 422
    client.post("/api/queue/pause", json={"paused": False})
    assert not queue_paused(services.db)


def test_all_that_wait_are_counted_though_only_the_first_of_them_are_listed(client, queued, monkeypatch):
    monkeypatch.setattr(run_summaries, "FIRST", 1)
    answer = client.get("/api/live?newest=1").json()
    assert {run["id"] for run in answer["runs"]} == {queued[0], queued[2]}  # the next one and the newest
    assert answer["queue"]["queued"] == 3 and answer["older"] == 1


def test_slots_are_set(client, services):
    assert client.post("/api/queue/slots", json={"slots": 3}).status_code == 200
    assert cpu_slots(services.db) == 3
    assert "from 1 to 1024" in client.post("/api/queue/slots", json={"slots": 0}).json()["error"]


def test_a_start_is_planned(client, services, queued):
    then = time.time() + 3600
    body = {"priority": 1, "start": then, "after": queued[0]}
    assert client.post(f"/api/runs/{queued[1]}/plan", json=body).status_code == 200
    run = get_run(services.db, queued[1])
    assert (run.priority, run.start_at, run.after_id) == (1, then, queued[0])
    assert client.post(f"/api/runs/{queued[1]}/plan", json={"start": "in 2 h"}).status_code == 200
    assert get_run(services.db, queued[1]).start_at > then
    client.post(f"/api/runs/{queued[1]}/plan", json={"start": None, "after": None})
    run = get_run(services.db, queued[1])
    assert (run.start_at, run.after_id, run.priority) == (None, None, 1)


@pytest.mark.parametrize("body, status, words", [
    ({"priority": 7}, 409, "priority = 7 is not known"), ({"priority": "high"}, 422, "whole number"),
    ({"start": "soon"}, 422, "is no time"), ({"start": 1e300}, 409, "this century"), ({"start": True}, 422, "a time"),
    ({"after": 999}, 409, "does not exist"), ({"after": 10**30}, 422, "whole number"),
])
def test_plans_that_cannot_be(client, services, queued, body, status, words):
    answer = client.post(f"/api/runs/{queued[0]}/plan", json=body)
    assert answer.status_code == status and words in answer.json()["error"]
    assert queued_runs(services.db) == queued


def test_a_run_that_has_begun_has_no_place(client, services, queued):
    transition(services.db, queued[0], ("queued",), "launching")
    for path, body in (("move", {"place": 1}), ("plan", {"priority": 1})):
        answer = client.post(f"/api/runs/{queued[0]}/{path}", json=body)
        assert answer.status_code == 409 and "no place in the queue any more" in answer.json()["error"]
    assert client.post("/api/runs/99/move", json={"place": 1}).status_code == 409


def test_pause_and_smaller_are_buttons(client, services, queued):
    assert client.post(f"/api/runs/{queued[0]}/pause", json={}).status_code == 200
    assert get_run(services.db, queued[0]).status == "paused"
    assert client.post(f"/api/runs/{queued[0]}/resume", json={}).status_code == 200
    for status in ("launching", "running"):
        transition(services.db, queued[0], ("queued", "launching"), status)
    transition(services.db, queued[0], ("running",), "failed", failure_kind="oom_host")
    shown = next(run for run in client.get("/api/live").json()["runs"] if run["id"] == queued[0])
    assert shown["failure"]["action"] == "smaller" and shown["failure"]["title"] == "Out of memory"
    assert client.post(f"/api/runs/{queued[0]}/smaller", json={}).status_code == 200
    assert get_run(services.db, queued[0]).status == "queued"


def test_evaluate_when_it_ends_is_one_button(client, services, queued):
    made = client.post(f"/api/runs/{queued[0]}/evaluate", json={})
    assert made.status_code == 201
    run = get_run(services.db, made.json()["id"])
    assert (run.after_id, run.status) == (queued[0], "queued")
    assert TrainConfig.from_json(run.config_json).job == "evaluate"
    shown = next(item for item in client.get("/api/live").json()["runs"] if item["id"] == run.id)
    assert shown["after"] == queued[0] and shown["knobs"]["job"] == "evaluate"
    assert client.post(f"/api/runs/{run.id}/evaluate", json={}).status_code == 409


def test_the_whole_log_is_downloaded(client, services, queued):
    folder = Path(get_run(services.db, queued[0]).folder)
    (folder / "log.earlier.txt").write_text("first\n")
    (folder / "log.txt").write_text("second <script>\n")
    answer = client.get(f"/api/runs/{queued[0]}/log/whole")
    assert answer.text == "first\nsecond <script>\n" and answer.headers["content-type"].startswith("text/plain")
    assert "attachment" in answer.headers["content-disposition"]
    assert client.get(f"/api/runs/{queued[1]}/log/whole").text == ""
    assert client.get("/api/runs/99/log/whole").status_code == 404


def test_every_failure_has_words_and_a_fix(services, queued):
    from storage.runs import FAILURE_KINDS

    for kind in FAILURE_KINDS:
        for id in queued[:1]:
            transition(services.db, id, ("queued",), "failed", failure_kind=kind)
            run = get_run(services.db, id)
            shown = run_words.failure(run, TrainConfig())
            assert shown["title"] != "This run failed" and shown["fix"]
            assert (shown["action"] in ("form", "slower")) == bool(shown["form"])
            transition(services.db, id, ("failed",), "queued")


def test_a_form_address_gives_the_config_back(services):
    config = TrainConfig(task="countdown", completion_length=8, block_length=4, masked_head=False, learning_rate=3e-5)
    found = config_form.prefill(dict(parse_qsl(run_words.form_address(config))))
    assert found.ignored == [] and config_form.read(found.values) == config


@pytest.mark.parametrize("preset", ["adder", "llada_gsm8k", "finetune_adder"])
def test_the_address_of_a_fork_fills_a_form_that_can_start(services, queued, preset):
    """Also that of a slower run after one that diverged. Either leaves behind what the first read its weights from."""
    config = PRESETS[preset].config()
    failed = replace(get_run(services.db, queued[0]), id=7, status="failed", failure_kind="nan", step=40)
    slower = run_words.failure(failed, config)["form"]
    for address, rate in ((run_words.fork_address(config, "run:7@newest"), 1), (slower, 0.5)):
        found = config_form.prefill(dict(parse_qsl(address, keep_blank_values=True)))
        forked = TrainConfig.parse(found.values)
        assert forked == going_on(config, "run:7@newest", learning_rate=config.learning_rate * rate)
        assert forked.examples == config.examples and forked.model_path == ""
