"""The memory explorer's figures, over a real database."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.training.hardware import Room
from bgpo.training.memory_estimate import estimate
from storage.metrics import Point, flush
from storage.runs import HIGH, get_run, list_runs, transition
from ui.memory_view import lines_of, shared_draws

ADDER = TrainConfig(task="adder", prompts_per_step=8, group_size=8, mc_samples=4)
ROOM = Room("a card", "cuda", 10 * 2**30, 16 * 2**30)
WIDTH = 64 * (5 + ADDER.completion_length)  # tokens of one draw of all completions: the adder's prompts have 5 tokens


def test_draws_share_a_pass_as_far_as_the_budget_goes():
    assert shared_draws(ADDER, 3 * WIDTH) == 3
    assert shared_draws(ADDER, WIDTH // 2) == 1
    assert shared_draws(ADDER, 0) == 1


@pytest.mark.parametrize(("objective", "base"), [("bgpo", 50), ("elbo", 25), ("elbo_two_pass", 50)])
def test_the_lines_follow_from_the_runs_own_peak(objective, base):
    lines = lines_of(ADDER.with_values(objective=objective), 100, 2 * WIDTH, {}, ROOM)
    assert (lines.base, lines.shared, lines.source) == (base, 2, "run")
    assert (lines.bgpo(64), lines.plain(64)) == (2 * base, 64 * base)


def test_a_measurement_counts_more_than_the_peak():
    lines = lines_of(ADDER, 999, WIDTH, {"elbo": {1: 30.0, 4: 120.0}, "bgpo": {1: 25.0, 4: 50.0, 16: 50.0}}, ROOM)
    assert (lines.base, lines.shared, lines.source) == (30, 2, "probe")
    assert (lines.bgpo(16), lines.plain(16)) == (50, 480)  # each as it was measured


def test_before_the_first_step_the_launch_forms_estimate_serves():
    lines = lines_of(ADDER, None, WIDTH, {}, ROOM)
    one = ADDER.with_values(mc_samples=1)
    assert lines.source == "estimate" and lines.base * 2**20 == pytest.approx(estimate(one, ROOM, WIDTH).saved)


def test_measuring_queues_a_probe_ahead_and_its_points_come_back(client, services, new_run):
    run = new_run(mc_samples=8)
    flush(services.db, run.id, [Point("memory/saved_mb", step, step, mb) for step, mb in ((1, 80.0), (2, 60.0))])
    before = client.get(f"/api/runs/{run.id}/memory").json()
    assert before["peak"] == 80 and before["probe"] is None and before["room"]["mb"] > 0

    probe = get_run(services.db, client.post(f"/api/runs/{run.id}/measure", json={}).json()["id"])
    assert (probe.parent_id, probe.priority, probe.status) == (run.id, HIGH, "queued")
    assert TrainConfig.from_json(probe.config_json) == TrainConfig.from_json(run.config_json).with_values(job="probe")
    assert client.post(f"/api/runs/{run.id}/measure", json={}).json()["id"] == probe.id  # not twice at once
    assert len(list_runs(services.db)) == 2

    points = [Point("probe/elbo_saved_mb", 1, 1.0, 40.0), Point("probe/bgpo_rss_mb", 4, 2.0, 12.5)]
    transition(services.db, probe.id, ("queued",), "finished")
    flush(services.db, probe.id, points)
    after = client.get(f"/api/runs/{run.id}/memory").json()
    assert after["source"] == "probe" and after["base"] == 40
    assert sorted(after["probe"]["points"]) == [["bgpo", "rss_mb", 4, 12.5], ["elbo", "saved_mb", 1, 40.0]]


def test_a_run_that_is_gone_gets_a_sentence(client):
    assert client.post("/api/runs/99/measure", json={}).status_code == 404
