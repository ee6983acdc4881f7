"""A look at a task through the routes: problems, verdicts, and a sentence where neither can be."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.tasks.base import TaskError
from bgpo.tasks.preview_child import problems_of

OWN = """
import os
print("noise")
def problems(split): return [{"question": f"{n}?", "answer": str(n)} for n in (range(9) if split == "train" else [99])]
def prompt(problem): return problem["question"]
def reward(problem, completion):
    if completion == "die": os._exit(3)
    return {"correct": float(completion == problem["answer"]), "own": 0.5}
"""


def test_problems_and_a_verdict_with_its_parts(client):
    knobs = {"task": "adder"}
    seen = client.post("/api/task/preview", json={"knobs": knobs}).json()
    assert len(seen["problems"]) == 6 and seen["sizes"] == {}
    right = seen["problems"][1]["expected"]
    asked = {"knobs": knobs, "index": 1, "text": right}
    verdict = client.post("/api/task/grade", json=asked).json()
    assert verdict["solved"] and verdict["total"] == 1 and verdict["reason"]
    assert not client.post("/api/task/grade", json=asked | {"text": "<b>no</b>"}).json()["solved"]


def test_a_file_of_one_s_own_cannot_end_the_app(client, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    knobs = {"task": "own_file", "task_file": str(tmp_path / "own.py")}
    (first, *_) = client.post("/api/task/preview", json={"knobs": knobs}).json()["problems"]
    asked = {"knobs": knobs, "index": 0, "text": first["expected"]}
    verdict = client.post("/api/task/grade", json=asked).json()
    assert verdict["solved"] and [part[:2] for part in verdict["parts"]] == [["Correct", 1.0], ["Own reward", 0.5]]
    answer = client.post("/api/task/grade", json=asked | {"text": "die"})
    assert answer.status_code == 422 and "exit status 3" in answer.json()["error"]


@pytest.mark.parametrize("name", ["imported_code/own.py", "checkpoints/step-000001/own.py"])
def test_a_file_that_came_with_an_imported_run_is_not_run(client, services, tmp_path, name):
    file = services.runs_folder / "7" / name
    for made in (file.parent, services.runs_folder / "7" / "imported_code"):
        made.mkdir(parents=True, exist_ok=True)
    (services.runs_folder / "7" / "config.json").write_text("{}")
    file.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + OWN)
    (tmp_path / "link.py").symlink_to(file)
    for given in (file, tmp_path / "link.py"):
        knobs = {"task": "own_file", "task_file": str(given)}
        for path, more in (("preview", {}), ("grade", {"index": 0, "text": ""})):
            answer = client.post(f"/api/task/{path}", json={"knobs": knobs} | more)
            assert answer.status_code == 422 and "came with an imported run" in answer.json()["error"]
    assert not (tmp_path / "ran").exists()


def test_a_file_that_never_ends_is_ended(tmp_path):
    (tmp_path / "own.py").write_text("while True: pass\n")
    config = TrainConfig().model_copy(update={"task": "own_file", "task_file": str(tmp_path / "own.py")})
    with pytest.raises(TaskError, match="no answer within 1 seconds"):
        problems_of(config, 3, seconds=1.0)


def test_data_that_cannot_be_read_is_a_sentence(client, tmp_path):
    knobs = {"task": "gsm8k", "data": str(tmp_path / "none.jsonl")}
    answer = client.post("/api/task/preview", json={"knobs": knobs})
    assert answer.status_code == 422 and "none.jsonl" in answer.json()["error"]


@pytest.mark.parametrize("body", [
    {}, {"knobs": []}, {"knobs": {"task": "none"}}, {"knobs": {"data": 3}}, {"knobs": {"data": "x" * 2000}},
    {"knobs": {}, "index": "1", "text": ""}, {"knobs": {}, "index": 0, "text": 3},
    {"knobs": {}, "index": 99999, "text": ""},
])
def test_what_no_form_sends_is_refused(client, body):
    path = "/api/task/grade" if "index" in body else "/api/task/preview"
    answer = client.post(path, json=body)
    assert answer.status_code == 422 and answer.json()["error"].endswith(".")
