"""Routes for the queue: its order, its pause, when a run may start; and the whole log of a run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool

from bgpo.jobs import logs, queueing
from bgpo.jobs.times import parse_time
from storage import settings
from storage.runs import get_run
from storage.settings import pause_queue, set_cpu_slots
from ui.answers import RefusedRequest, body_of, json_answer
from ui.services import Services


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes; before any route that takes every action of a run."""
    db = services.db

    @router.post("/queue/pause")
    async def pause(request: Request) -> Response:
        paused = (await body_of(request)).get("paused")
        if not isinstance(paused, bool):
            raise RefusedRequest("paused must be true or false.", 422)
        await run_in_threadpool(pause_queue, db, paused)
        return json_answer(request, {"paused": paused})

    @router.post("/queue/slots")
    async def slots(request: Request) -> Response:
        number = number_of(await body_of(request), "slots")
        try:
            await run_in_threadpool(set_cpu_slots, db, number)
        except ValueError as error:
            raise RefusedRequest(str(error), 422) from None
        return json_answer(request, {"slots": number})

    @router.post("/runs/{run_id}/move")
    async def move(request: Request, run_id: int) -> Response:
        place = number_of(await body_of(request), "place")
        await run_in_threadpool(queueing.move_to, db, run_id, place)
        return json_answer(request, {"id": run_id})

    @router.post("/runs/{run_id}/plan")
    async def plan(request: Request, run_id: int) -> Response:
        wishes = wishes_of(await body_of(request))
        await run_in_threadpool(lambda: queueing.plan_start(db, run_id, **wishes))
        return json_answer(request, {"id": run_id})

    @router.get("/runs/{run_id}/log/whole")
    def whole(run_id: int) -> Response:
        folder = Path(get_run(db, run_id).folder)
        headers = {"Content-Disposition": f'attachment; filename="run-{run_id}.log.txt"', "Cache-Control": "no-store"}
        return StreamingResponse(logs.whole(folder), media_type="text/plain; charset=utf-8", headers=headers)


def queue_state(services: Services) -> dict[str, Any]:
    """What every poll says of the queue as a whole."""
    return settings.queue_state(services.db)


def wishes_of(body: dict[str, Any]) -> dict[str, Any]:
    """`priority`, `start` (a time in words or epoch seconds) and `after` of a posted object; raises RefusedRequest."""
    wishes: dict[str, Any] = {}
    if "priority" in body:
        wishes["priority"] = number_of(body, "priority")
    if "after" in body:
        wishes["after_id"] = None if body["after"] is None else number_of(body, "after")
    if "start" in body:
        start = body["start"]
        if isinstance(start, str):
            try:
                start = parse_time(start, time.time())
            except ValueError as error:
                raise RefusedRequest(str(error), 422) from None
        elif start is not None and (isinstance(start, bool) or not isinstance(start, (int, float))):
            raise RefusedRequest("start must be a time.", 422)
        wishes["start_at"] = start
    return wishes


def number_of(body: dict[str, Any], name: str) -> int:
    """A whole number of the posted object; raises RefusedRequest."""
    value = body.get(name)
    if type(value) is not int or abs(value) >= 2**31:
        raise RefusedRequest(f"{name} must be a whole number.", 422)
    return value
