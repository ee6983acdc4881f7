"""A real database with the routes over it, without scheduler and chat; and, for page tests, the app as a process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest
from fastapi import FastAPI
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.testclient import TestClient

from bgpo.presets import PRESETS
from storage.database import Database, open_database, sqlite_url
from storage.runs import Run, create_run, get_run, transition
from tests.chromium import FLAGS, HOW, find_chromium
from tests.databases import new_database
from tests.ui.studio import App, apps
from tests.waiting import PATIENCE
from ui import api, assets
from ui.access import LOOPBACK, Access
from ui.services import Services

expect.set_options(timeout=PATIENCE * 1000)
# what Gradio's client says when a page is left while one of its streams is open
LEFT_THE_PAGE = re.compile("AbortError: (signal is|BodyStreamBuffer was) aborted|Connection errored out")


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
    db = new_database(tmp_path / "bgpo.db")
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


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    with apps(tmp_path_factory.mktemp("data")) as start:
        yield start()


@pytest.fixture
def start_app(tmp_path) -> Iterator[Callable[[], App]]:
    with apps(tmp_path) as start:
        yield start


@pytest.fixture
def db(app) -> Iterator[Database]:
    opened = open_database(sqlite_url(app.data_dir / "bgpo.db"))
    yield opened
    opened.close()


@pytest.fixture
def page(browser) -> Iterator[Page]:
    """A page that fails the test when anything went wrong in its console."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(PATIENCE * 1000)
    opened = context.new_page()
    wrong: list[str] = []

    def heard(message) -> None:
        if message.type == "error" and not LEFT_THE_PAGE.search(message.text):
            wrong.append(message.text)

    opened.on("console", heard)
    def thrown(error) -> None:
        if not LEFT_THE_PAGE.search(str(error)):
            wrong.append(str(error))

    opened.on("pageerror", thrown)
    yield opened
    context.close()
    assert wrong == []
