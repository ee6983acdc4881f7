"""The routes over a run's rollouts: what a page asks for, and what nobody should."""

from __future__ import annotations

import json

import pytest

from storage.metrics import flush
from storage.rollouts import Rollout

HOSTILE = "<img src=x onerror=alert(1)>${alert(2)}{{constructor}}"
TRACE = [[1, 2, "5", 0.9], [2, 0, "0", 0.8]]


@pytest.fixture
def run(services, new_run):
    run = new_run()
    rollouts = [
        Rollout(
            step, problem, index, f"{problem}+1", f"{HOSTILE} {step}.{problem}.{index}", "085", reward, 0.1, 3, "why",
            {"correct": reward}, json.dumps(TRACE),
        )
        for step in (1, 2) for problem in (0, 1) for index, reward in enumerate([0.0, float(problem)])
    ]  # fmt: skip
    flush(services.db, run.id, [], rollouts=rollouts)
    return run


def test_the_last_step_by_reward_and_one_step_by_group(client, run):
    last = client.get(f"/api/runs/{run.id}/rollouts").json()
    assert last["step"] == 2
    assert [(row["problem"], row["index"], row["reward"]) for row in last["rows"]] == [
        (1, 1, 1.0), (0, 0, 0.0), (0, 1, 0.0), (1, 0, 0.0),
    ]
    assert last["rows"][0] == {
        "step": 2, "problem": 1, "index": 1, "prompt": "1+1", "completion": f"{HOSTILE} 2.1.1", "expected": "085",
        "reward": 1.0, "advantage": 0.1, "tokens": 3, "reason": "why", "parts": {"correct": 1.0}, "solved": True,
    }
    first = client.get(f"/api/runs/{run.id}/rollouts?step=1&order=group&groups=wrong").json()
    assert [(row["problem"], row["index"]) for row in first["rows"]] == [(0, 0), (0, 1)]


def test_texts_are_cut_where_less_is_asked_for(client, run):
    rows = client.get(f"/api/runs/{run.id}/rollouts?step=1&chars=2").json()["rows"]
    assert {(row["prompt"], row["completion"]) for row in rows} == {("0+", "<i"), ("1+", "<i")}


def test_steps_groups_and_one_prompt(client, run):
    assert [step["step"] for step in client.get(f"/api/runs/{run.id}/rollouts/steps").json()] == [1, 2]
    wrong = client.get(f"/api/runs/{run.id}/rollouts/groups?groups=wrong").json()
    assert [(group["step"], group["problem"], group["best"]) for group in wrong] == [(2, 0, 0.0), (1, 0, 0.0)]
    earlier = client.get(f"/api/runs/{run.id}/rollouts/groups?groups=wrong&before_step=2").json()
    assert [group["step"] for group in earlier] == [1]
    line = client.get(f"/api/runs/{run.id}/rollouts/prompt", params={"prompt": "1+1"}).json()
    assert [(group["step"], group["mean"]) for group in line] == [(1, 0.5), (2, 0.5)]
    group = client.get(f"/api/runs/{run.id}/rollouts/group?step=1&problem=1").json()
    assert [row["index"] for row in group] == [0, 1]


def test_a_stored_rollout_is_replayed(client, run):
    answer = client.get(f"/api/runs/{run.id}/rollouts/trace?step=2&problem=1&completion=0")
    assert answer.json() == {"trace": TRACE}
    orders = client.get(f"/api/runs/{run.id}/rollouts/orders?step=2&problem=1").json()["orders"]
    assert orders == {"0": [2, 1], "1": [2, 1]}  # position 0 was fixed at step 2
    gone = client.get(f"/api/runs/{run.id}/rollouts/trace?step=9&problem=1&completion=0")
    assert gone.status_code == 404 and "keep_rollouts" in gone.json()["error"]


def test_search_goes_on_where_it_stopped(client, run):
    first = client.get(f"/api/runs/{run.id}/search", params={"q": "${alert(2)}", "limit": 3}).json()
    assert len(first["rows"]) == 3
    rest = client.get(f"/api/runs/{run.id}/search", params={"q": "${alert(2)}", "before": first["before"]}).json()
    assert len(rest["rows"]) == 5 and rest["before"] is None
    assert client.get(f"/api/runs/{run.id}/search", params={"q": '"; DROP TABLE run;--'}).json()["rows"] == []


@pytest.mark.parametrize("path, status", [
    ("rollouts?order=id;DROP", 400), ("rollouts?groups=odd", 400), ("rollouts/groups?groups=odd", 400),
    ("rollouts?step=-5", 200), (f"rollouts?step={10**18}", 200), (f"rollouts/groups?before_step={10**18}", 200),
    (f"rollouts/group?step={10**18}&problem={10**18}", 200), ("rollouts/steps?after_step=-99999999999", 200),
    (f"rollouts/trace?step={10**18}&problem=-1&completion={10**9}", 404), ("rollouts?step=x", 422),
    ("search?q=" + "x" * 501, 400), ("search?q=abc&before=x&limit=-1", 200), (f"search?q=ab&before={10**18}", 200),
    ("search?q=%00", 200), ("search?q=" + "%22" * 40, 200),
])
def test_odd_questions_get_an_answer_or_a_sentence(client, run, path, status):
    answer = client.get(f"/api/runs/{run.id}/{path}")
    assert answer.status_code == status
    if status in (400, 404):
        assert answer.json()["error"].endswith(".")


@pytest.mark.parametrize("path", [
    "rollouts", "rollouts/steps", "rollouts/groups", "rollouts/group?step=1&problem=1", "rollouts/prompt?prompt=x",
    "rollouts/trace?step=1&problem=0&completion=0", "search?q=x",
])
def test_a_run_that_is_not_there(client, path):
    assert client.get(f"/api/runs/999/{path}").status_code == 404
