"""A real database with the routes over it. The scheduler and the chat are left out: nothing here starts a process."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, expect, sync_playwright
from starlette.testclient import TestClient

from bgpo.presets import PRESETS
from storage.database import open_database, sqlite_url
from storage.runs import Run, create_run, get_run, transition
from tests.chromium import FLAGS, HOW, find_chromium
from tests.waiting import PATIENCE
from ui import api, assets
from ui.access import LOOPBACK, Access
from ui.services import Services

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium; without one the page tests are skipped, except where they must not be."""
    path = find_chromium()
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(HOW)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield running
        running.close()


@pytest.fixture
def services(tmp_path) -> Services:
    db = open_database(sqlite_url(tmp_path / "bgpo.db"))
    return Services(db, tmp_path, tmp_path / "runs", db.url, chat=None, scheduler=None)


@pytest.fixture
def routes(services) -> FastAPI:
    app = FastAPI()
    app.include_router(assets.router)
    app.include_router(api.build_router(services))
    api.add_refusals(app)
    return app


@pytest.fixture
def client(routes) -> TestClient:
    return TestClient(Access(routes, LOOPBACK), base_url="http://localhost")


@pytest.fixture
def new_run(services):
    """Makes a running run: `new_run(mc_samples=16)`."""

    def make(name: str = "a run", preset: str = "adder", **values) -> Run:
        config = PRESETS[preset].config().with_values(**values)
        run = create_run(services.db, name=name, config_json=config.to_json(), train_steps=config.train_steps,
                         runs_folder=services.runs_folder)
        assert transition(services.db, run.id, ("queued",), "launching")
        assert transition(services.db, run.id, ("launching",), "running")
        return get_run(services.db, run.id)

    return make
