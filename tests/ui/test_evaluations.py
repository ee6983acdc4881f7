"""The table of evaluated checkpoints: what is in it, and what a person does with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect

from bgpo.config import TrainConfig
from bgpo.presets import PRESETS
from bgpo.training.metrics import at_length, evaluation_file
from storage.checkpoints import add_checkpoint
from storage.database import Database
from storage.metrics import Point, flush
from storage.runs import Run, create_run, transition

HOSTILE = "<img src=x onerror=window.hacked=1>"


def evaluated(
    db: Database, folder: Path, scores: dict[int, float], parent: Run | None = None, step: int = 0, **values
) -> Run:
    """A finished evaluation of a run's step, or of the weights that the values name; pass@1 by length."""
    config = TrainConfig(job="evaluate").with_values(**{"eval_lengths": ",".join(map(str, scores)), **values})
    run = create_run(db, name="an evaluation", config_json=config.to_json(), train_steps=1, runs_folder=folder,
                     status="stopped", parent_id=parent and parent.id, parent_step=step if parent else None)
    points = [
        Point(f"eval/{name}", length, 1.0, value)
        for length, share in scores.items()
        for name, value in (("pass_1", share), ("pass_1_low", share - 0.1), ("pass_1_high", share + 0.1),
                            ("pass_k", share + 0.05), ("tokens", 7.0), ("nfe", 4.0))
    ]
    flush(db, run.id, points)
    assert transition(db, run.id, ("stopped",), "finished")
    return run


def trained(db: Database, folder: Path, name: str) -> Run:
    config = PRESETS["adder"].config()
    return create_run(db, name=name, config_json=config.to_json(), train_steps=9, runs_folder=folder, status="stopped")


def test_rows_are_checkpoints_and_columns_are_tasks_by_length(services, client):
    assert client.get("/api/evaluations").json() == {"columns": [], "rows": []}
    db, folder = services.db, services.runs_folder
    parent = trained(db, folder, "the parent")
    evaluated(db, folder, {8: 0.2, 16: 0.3}, parent, 5, task="adder", eval_problems=20)
    evaluated(db, folder, {8: 0.4}, parent, 10, task="stack_programs", eval_samples=4)
    again = evaluated(db, folder, {8: 0.25}, parent, 5, task="adder", eval_problems=50)
    evaluated(db, folder, {8: 0.1}, task="adder", start_from="/some/where/old-weights")
    trained(db, folder, 'not "evaluate"')

    table = client.get("/api/evaluations").json()
    keys = {(column["task"], column["length"]): column["key"] for column in table["columns"]}
    assert list(keys) == [("adder", 8), ("adder", 16), ("stack_programs", 8)]
    assert [(row["run"], row["name"], row["step"]) for row in table["rows"]] == [
        (parent.id, "the parent", 5), (parent.id, "the parent", 10), (None, "old-weights", None)]
    first = table["rows"][0]["cells"]
    cell = first[keys["adder", 8]]
    assert (cell["pass_1"], cell["problems"], cell["evaluation"], cell["times"]) == (0.25, 50, again.id, 2)
    assert (cell["pass_1_low"], cell["pass_1_high"]) == pytest.approx((0.15, 0.35))
    assert first[keys["adder", 16]]["problems"] == 20 and keys["stack_programs", 8] not in first
    assert table["rows"][1]["cells"][keys["stack_programs", 8]]["samples"] == 4


@pytest.mark.slow
def test_the_table_is_sorted_widened_and_filled_from_a_checkpoint(app, db, page):
    folder = app.data_dir / "runs"
    one, other = trained(db, folder, HOSTILE), trained(db, folder, "another line")
    add_checkpoint(db, one.id, 5, "evaluation", str(Path(one.folder, "checkpoints", "step-000005")))
    page.goto(f"{app.url}/?run={one.id}")
    page.get_by_role("tab", name="Evaluations").click()
    expect(page.get_by_text("No checkpoint has been evaluated yet.")).to_be_visible()
    evaluated(db, folder, {8: 0.2, 16: 0.5}, one, 5, eval_problems=40, eval_samples=4)
    evaluated(db, folder, {8: 0.6}, one, 9)
    evaluated(db, folder, {8: 0.7}, other, 3)

    rows = page.locator(".bgpo-evaluations tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("th")).to_have_text(f"{HOSTILE}step 5")
    expect(rows.first.locator("td").first).to_have_attribute("title", re.compile("n = 40 problems, k = 4 tries each"))
    expect(rows.first.locator("td").first).to_contain_text("pass@4 0.25")
    expect(page.locator(".bgpo-evaluations td.best b")).to_have_text(["0.6"])
    page.get_by_label("Which checkpoints").select_option("all")
    expect(rows).to_have_count(3)
    page.get_by_role("button", name=re.compile("8 tokens")).click()
    expect(page.locator(".bgpo-evaluations td:nth-of-type(1) b")).to_have_text(["0.7", "0.6", "0.2"])
    expect(page.locator(".bgpo-evaluations td.best b")).to_have_text(["0.7"])

    page.get_by_role("tab", name="Checkpoints").click()
    page.get_by_role("button", name="Evaluate step 5").click()
    expect(page).to_have_url(re.compile(rf"tab=new.*job=evaluate.*start_from=run%3A{one.id}%405"))
    expect(page.get_by_label("Start from", exact=False).first).to_have_value(f"run:{one.id}@5")
    expect(page.get_by_text(f"Measures run:{one.id}@5; nothing is trained.")).to_be_visible()
    assert page.evaluate("window.hacked") is None


def test_what_a_run_measures_on_its_way_stands_beside_evaluations_of_its_checkpoints(services, client):
    db, folder = services.db, services.runs_folder
    config = PRESETS["adder"].config().with_values(eval_lengths="8,16", eval_samples=2)
    run = create_run(db, name="on its way", config_json=config.to_json(), train_steps=9, runs_folder=folder,
                     status="stopped")
    for step in (0, 5, 9):
        flush(db, run.id, [Point(at_length(f"eval/{name}", length), step, 1.0, step / 10) for length in (8, 16)
                           for name in ("pass_1", "pass_1_low", "pass_1_high", "pass_k", "tokens", "nfe")])
        if step:  # the first one's has been freed
            add_checkpoint(db, run.id, step, "evaluation", str(Path(run.folder, "checkpoints", f"step-{step:06d}")))
    later = evaluated(db, folder, {16: 0.7}, run, 9)

    rows = client.get("/api/evaluations").json()["rows"]
    assert [(row["run"], row["step"]) for row in rows] == [(run.id, 5), (run.id, 9)]
    cells = [sorted((cell["evaluation"], cell["of_step"], cell["pass_1"]) for cell in row["cells"].values())
             for row in rows]
    assert cells == [[(run.id, 5, 0.5)] * 2, [(run.id, 9, 0.9), (later.id, None, 0.7)]]

    address = f"/api/runs/{run.id}/judged"
    assert client.get(f"{address}?step=5").status_code == client.get(address).status_code == 404
    Path(run.folder, "evaluations").mkdir(parents=True)
    Path(run.folder, "evaluations", evaluation_file(5)).write_text('{"solved": true}\n')
    assert client.get(f"{address}?step=5").text == '{"solved": true}\n'
    assert client.get(f"{address}?step=../5").status_code == 422
    assert client.get("/api/runs/99/judged").status_code == 404
