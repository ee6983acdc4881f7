"""Routes for what a run keeps on disk: pins of checkpoints, its archive for download, archives that come in."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from bgpo.jobs.archive import ArchiveError, export_run, import_run
from storage.checkpoints import pin_checkpoint
from storage.runs import get_run
from ui.answers import RefusedRequest, body_of, json_answer
from ui.services import Services

_PIECE = 2**20
_ABANDONED = 24 * 3600  # seconds without a write to a file that is on its way


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes; before any route that takes every action of a run."""

    @router.post("/runs/{run_id}/pin")
    async def pin(request: Request, run_id: int) -> Response:
        body = await body_of(request)
        number, pinned = body.get("checkpoint"), body.get("pinned")
        if type(number) is not int or type(pinned) is not bool or not 0 < number < 2**31:
            raise RefusedRequest("Say which checkpoint, by its number, and pinned as true or false.", 422)
        if not await run_in_threadpool(pin_checkpoint, services.db, run_id, number, pinned):
            raise RefusedRequest("The run has no such checkpoint; it may have been freed.", 404)
        return json_answer(request, {"checkpoint": number, "pinned": pinned})

    @router.get("/runs/{run_id}/archive")
    def archive(run_id: int, checkpoints: str = "best_and_last") -> Response:
        run = get_run(services.db, run_id)
        path = _new_file(services)
        try:
            export_run(services.db, run_id, path, checkpoints)
        except BaseException as error:
            path.unlink(missing_ok=True)
            if isinstance(error, ArchiveError):
                raise RefusedRequest(str(error), 422) from error
            raise
        file = path.open("rb")
        path.unlink()  # whoever reads it, and to whatever end, it is gone with this answer
        size = os.fstat(file.fileno()).st_size
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run.name).strip("-.")[:60]
        shown = f'attachment; filename="run-{run_id}-{name}.zip"'
        headers = {"Content-Disposition": shown, "Content-Length": str(size), "Cache-Control": "no-store"}
        return StreamingResponse(_pieces(file), media_type="application/zip", headers=headers)

    @router.post("/archives")
    async def take_in(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/zip":
            raise RefusedRequest("Send the archive itself with the content type application/zip.", 415)
        path = _new_file(services)
        try:
            with path.open("wb") as file:
                async for chunk in request.stream():
                    file.write(chunk)
            run = await run_in_threadpool(import_run, services.db, path, services.runs_folder)
        except ArchiveError as error:
            raise RefusedRequest(str(error).replace(path.name, "The file"), 422) from error
        except OSError as error:
            why = f"The archive cannot be kept ({error.strerror or error}); free some space and send it again."
            raise RefusedRequest(why, 507) from error
        finally:
            path.unlink(missing_ok=True)
        return json_answer(request, {"id": run.id, "name": run.name}, 201)


def _new_file(services: Services) -> Path:
    """An empty file on the disk that holds the runs, which has room if any has. Raises RefusedRequest."""
    folder = services.data_dir / "uploads"
    try:
        folder.mkdir(exist_ok=True)
        for left in folder.glob("tmp*.zip"):  # by an app that was killed while it wrote
            if time.time() - left.stat().st_mtime > _ABANDONED:
                left.unlink(missing_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".zip", dir=folder)
    except OSError as error:
        raise RefusedRequest(f"Nothing can be written to the data folder ({error.strerror or error}).", 507) from error
    os.close(descriptor)
    return Path(name)


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    with file:
        while piece := file.read(_PIECE):
            yield piece
