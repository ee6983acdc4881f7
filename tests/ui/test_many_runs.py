"""Ten thousand runs and one of a million steps: what a page is sent, and what that costs the database. No clock."""

from __future__ import annotations

from contextlib import closing

import pytest
from fastapi import FastAPI
from playwright.sync_api import expect
from starlette.testclient import TestClient

from benchmarks.many_runs import METRICS, REWARD, SHOWN, copy_run
from bgpo.presets import PRESETS
from storage.database import open_database, sqlite_url
from storage.metrics import Point, flush
from storage.rollups import WIDTHS
from storage.runs import create_run, delete_run, get_run, transition
from tests.databases import new_database
from tests.statements import selects, statements_to, work
from tests.ui.studio import apps
from ui import api
from ui.access import LOOPBACK, Access
from ui.run_summaries import FIRST
from ui.services import Services

RUNS, STEPS, MOST_BYTES = 10_000, 1_000_000, 300_000


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    with_many = Services(new_database(folder / "bgpo.db"), folder, folder / "runs", "", None, None)
    db, config = with_many.db, PRESETS["adder"].config().with_values(retries=0)
    long_run = create_run(db, name="long", config_json=config.to_json(), train_steps=STEPS,
                          runs_folder=folder / "runs", status="finished").id  # fmt: skip
    names = [SHOWN, REWARD, *(f"m{k}" for k in range(METRICS - 2))]
    flush(db, long_run, [Point(name, step, step * 0.5, 0.5) for name in names for step in (0, STEPS - 1)])
    with db.write() as connection:  # the buckets of the points that there would be
        for level, width in enumerate(WIDTHS):
            connection.exec_driver_sql(
                "WITH RECURSIVE b(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM b WHERE n + 1 < ?) INSERT OR REPLACE"
                " INTO rollup SELECT ?, id, ?, n, n * ? + ?, n * ? * 0.5, abs(random() % 1000000) / 2e6,"
                " 1 - abs(random() % 1000000) / 2e6, abs(random() % 1000000) / 1e6, ? FROM metric, b",
                ((STEPS - 1) // width, long_run, level, width, width - 1, width, width),
            )
    copy_run(db, long_run, RUNS)
    yield with_many
    db.close()


@pytest.fixture
def client(services):
    """Over an app that nobody has asked yet."""
    app = FastAPI()
    app.include_router(api.build_router(services))
    return TestClient(Access(app, LOOPBACK), base_url="http://localhost")


def size(answer) -> int:
    """Bytes on the wire."""
    return int(answer.headers["content-length"])


def test_a_page_begins_with_the_newest_and_a_few_queries(client, services):
    with statements_to(services.db) as statements:
        answer = client.get("/api/live")
    found = answer.json()
    assert [run["id"] for run in found["runs"]] == list(range(RUNS, RUNS - FIRST, -1))
    assert (found["all"], found["newest"], found["older"]) == (True, FIRST, RUNS - FIRST)
    assert found["runs"][-1]["against"] == f"run {RUNS - FIRST}"  # of which this answer says nothing
    assert size(answer) < MOST_BYTES
    assert 5 < len(selects(statements)) < 25, statements


def test_a_run_of_a_million_steps_is_opened_beside_the_list_within_the_bytes(client, services):
    with work(services.db) as instructions:
        answer = client.get("/api/live?runs=1:0:0")
    found = answer.json()
    assert len(found["points"]["1"]["metrics"]) == METRICS
    assert all(len(curve[0]) > 400 for curve in found["points"]["1"]["metrics"].values())
    assert found["runs"][-1]["id"] == 1 and found["older"] == RUNS - FIRST - 1  # selected, so it is there
    assert size(answer) < MOST_BYTES
    assert 100_000 < sum(instructions) < 10_000_000  # a million points each of twenty curves would be far more
    curve = client.get(f"/api/range?run=1&metric={REWARD}&low=0&high={STEPS}&buckets=600")
    assert len(curve.json()[0]) > 400 and size(curve) < 30_000


@pytest.mark.parametrize("pieces", [2, pytest.param(RUNS // FIRST - 1, marks=pytest.mark.slow)])
def test_older_runs_come_in_pieces_until_all_are_there(client, pieces):
    wanted = FIRST * (pieces + 1)
    answer = client.get("/api/live")
    found, counted = {run["id"] for run in answer.json()["runs"]}, 0
    while answer.json()["older"] and answer.json()["newest"] < wanted:
        answer = client.get(f"/api/live?newest={wanted}&seen={answer.json()['seen']}")
        ids = [run["id"] for run in answer.json()["runs"]]
        assert size(answer) < MOST_BYTES and 0 < len(ids) <= FIRST and found.isdisjoint(ids)
        assert not answer.json()["gone"] and not answer.json()["all"]
        found.update(ids)
        counted += 1
    assert found == set(range(RUNS, RUNS - wanted, -1)) and counted == pieces
    again = client.get(f"/api/live?newest={wanted}&seen={answer.json()['seen']}").json()
    assert again.get("runs", []) == []


def test_what_works_or_waits_is_listed_however_old(client, services):
    assert transition(services.db, 7, ("finished",), "queued")
    seen = client.get("/api/live").json()
    assert [run["id"] for run in seen["runs"]][-1] == 7 and seen["older"] == RUNS - FIRST - 1
    assert transition(services.db, 7, ("queued",), "finished")
    after = client.get(f"/api/live?seen={seen['seen']}").json()
    assert (after["gone"], after["older"]) == ([7], RUNS - FIRST)


def test_a_tick_costs_what_is_new_and_not_all_runs(client, services):
    seen = client.get("/api/live").json()["seen"]
    flush(services.db, RUNS, [Point(REWARD, 60, 60.0, 0.5)])
    with statements_to(services.db) as statements, work(services.db) as instructions:
        answer = client.get(f"/api/live?seen={seen}")
    assert [run["id"] for run in answer.json()["runs"]] == [RUNS]
    assert size(answer) < 2048 and 5 < len(selects(statements)) < 25, statements
    assert sum(instructions) < 100_000  # no row but that run's is read whole


def test_a_new_run_moves_the_oldest_out_of_the_page_and_a_deleted_one_brings_it_back(client, services):
    seen = client.get("/api/live").json()["seen"]
    config = get_run(services.db, 2).config_json
    new = create_run(services.db, name="new", config_json=config, train_steps=9, runs_folder=services.runs_folder,
                     status="finished").id  # fmt: skip
    answer = client.get(f"/api/live?seen={seen}").json()
    assert ([run["id"] for run in answer["runs"]], answer["gone"]) == ([new], [RUNS - FIRST + 1])
    delete_run(services.db, new)
    answer = client.get(f"/api/live?seen={answer['seen']}").json()
    assert ([run["id"] for run in answer["runs"]], answer["gone"]) == ([RUNS - FIRST + 1], [new])


@pytest.mark.slow
def test_the_list_goes_further_back_and_finds_among_all(tmp_path, page):
    with closing(open_database(sqlite_url(tmp_path / "bgpo.db"))) as db:
        config = PRESETS["adder"].config().with_values(retries=0)
        first = create_run(db, name="the very first", config_json=config.to_json(), train_steps=9,
                           runs_folder=tmp_path / "runs", status="finished").id  # fmt: skip
        flush(db, first, [Point(name, 0, 0.0, 0.5) for name in (SHOWN, REWARD)])
        copy_run(db, first, 3 * FIRST)
    with apps(tmp_path) as start:
        page.goto(start().url)
        side = page.locator(".bgpo-run-list")
        rows, more = side.locator("li[data-run]"), side.get_by_role("button", name="Show more runs")
        expect(rows).to_have_count(FIRST)
        expect(side.locator("h2")).to_have_text("500 of 1,500 runs")
        more.click()
        expect(rows).to_have_count(2 * FIRST)
        side.get_by_label("Filter the runs").fill("very")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("the very first")
        expect(side.locator("h2")).to_have_text("1 of 1,500 runs")
        side.get_by_label("Filter the runs").fill("")
        expect(rows).to_have_count(FIRST)  # as it began, although all of them are there now
        more.click()
        more.click()
        expect(rows).to_have_count(3 * FIRST)
        expect(more).to_have_count(0)
