"""Pins, archives out and in, over HTTP."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest

from storage.checkpoints import add_checkpoint, checkpoints_of
from storage.metrics import Point, flush, points_after
from storage.runs import list_runs, transition


@pytest.fixture
def run(services, new_run):
    run = new_run("one / two")
    flush(services.db, run.id, [Point("lr", step, 0.0, 1.0) for step in range(10)])
    folder = Path(run.folder, "checkpoints", "step-000005")
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"x" * 9999)
    add_checkpoint(services.db, run.id, 5, "evaluation", str(folder), 0.5)
    transition(services.db, run.id, ("running",), "finished")
    return run


def test_a_checkpoint_is_pinned_and_let_go(client, services, run):
    (saved,) = checkpoints_of(services.db, run.id)
    for pinned in (True, False):
        answer = client.post(f"/api/runs/{run.id}/pin", json={"checkpoint": saved.id, "pinned": pinned})
        assert answer.json() == {"checkpoint": saved.id, "pinned": pinned}
        details = client.get(f"/api/runs/{run.id}").json()
        assert details["checkpoints"][0]["pinned"] is pinned and details["disk_bytes"] >= 9999


@pytest.mark.parametrize("body, status", [
    ({"checkpoint": 999, "pinned": True}, 404), ({"checkpoint": "1", "pinned": True}, 422),
    ({"checkpoint": 1, "pinned": 1}, 422), ({"checkpoint": 10**30, "pinned": True}, 422), ({}, 422),
])
def test_a_pin_that_means_nothing(client, run, body, status):
    answer = client.post(f"/api/runs/{run.id}/pin", json=body)
    assert answer.status_code == status and answer.json()["error"].endswith(".")


def test_a_run_is_downloaded_and_comes_in_again(client, services, run):
    out = client.get(f"/api/runs/{run.id}/archive")
    assert out.headers["content-type"] == "application/zip"
    assert out.headers["content-disposition"] == f'attachment; filename="run-{run.id}-one-two.zip"'
    into = client.post("/api/archives", content=out.content, headers={"content-type": "application/zip"})
    assert into.status_code == 201 and into.json()["name"] == "one / two"
    assert points_after(services.db, into.json()["id"], 0) == points_after(services.db, run.id, 0)
    assert not list((services.data_dir / "uploads").iterdir())


def test_a_download_that_nobody_reads_leaves_nothing(routes, services, run):
    """As when the browser goes away while the archive is made."""
    path, began = f"/api/runs/{run.id}/archive", []
    scope = {
        "type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "server": ("localhost", 80), "asgi": {},
    }

    async def receive():
        while not began:
            await anyio.sleep(0.01)
        return {"type": "http.disconnect"}

    async def send(message):
        began.append(message)
        await anyio.sleep_forever()

    with ThreadPoolExecutor(1) as thread:  # in this one a browser's loop may be running
        thread.submit(anyio.run, routes, scope, receive, send).result()
    assert [message["status"] for message in began] == [200]
    assert not list((services.data_dir / "uploads").iterdir())


def test_what_a_killed_app_left_of_its_archives_goes_with_the_next(client, services, run):
    uploads = services.data_dir / "uploads"
    uploads.mkdir(exist_ok=True)
    for name, age in (("tmpold.zip", 2 * 24 * 3600), ("tmpnew.zip", 60)):
        (uploads / name).write_bytes(b"half")
        os.utime(uploads / name, (time.time() - age,) * 2)
    client.get(f"/api/runs/{run.id}/archive")
    assert [path.name for path in uploads.iterdir()] == ["tmpnew.zip"]
    (uploads / "tmpnew.zip").unlink()


def test_a_full_disk_is_said(client, services, run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ui.storage_routes.import_run", full)
    answer = client.post("/api/archives", content=b"x", headers={"content-type": "application/zip"})
    assert answer.status_code == 507 and "No space left on device" in answer.json()["error"]
    assert not list((services.data_dir / "uploads").iterdir())


@pytest.mark.parametrize("content, kind, status", [
    (b"no zip", "application/zip", 422), (b"", "application/zip", 422), (b"x", "text/plain", 415),
])
def test_what_is_no_archive(client, services, run, content, kind, status):
    answer = client.post("/api/archives", content=content, headers={"content-type": kind})
    assert answer.status_code == status and answer.json()["error"].endswith(".")
    assert "/" not in answer.json()["error"].replace("application/zip", "")
    assert [item.id for item in list_runs(services.db)] == [run.id]
    uploads = services.data_dir / "uploads"
    assert not uploads.exists() or not list(uploads.iterdir())


def test_an_unknown_choice_of_checkpoints(client, run):
    assert client.get(f"/api/runs/{run.id}/archive?checkpoints=some").status_code == 422
    assert client.get("/api/runs/999/archive").status_code == 404
