"""Routes for what people write on runs and for the views they keep."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from storage.labels import (
    Labels,
    delete_view,
    labels_of,
    list_views,
    save_view,
    set_archived,
    set_notes,
    set_tags,
)
from ui.answers import RefusedRequest, body_of, json_answer
from ui.services import Services


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes; before any route that takes every action of a run."""
    db = services.db

    @router.get("/runs/{run_id}/notes")
    def notes(request: Request, run_id: int) -> Response:
        return json_answer(request, {"notes": labels_of(db, [run_id]).get(run_id, Labels()).notes})

    @router.post("/runs/{run_id}/notes")
    async def write_notes(request: Request, run_id: int) -> Response:
        text = text_of(await body_of(request), "notes")
        await run_in_threadpool(set_notes, db, run_id, text)
        return json_answer(request, {"notes": text})

    @router.post("/runs/{run_id}/tags")
    async def write_tags(request: Request, run_id: int) -> Response:
        tags = list_of(await body_of(request), "tags", str)
        return json_answer(request, {"tags": await run_in_threadpool(set_tags, db, run_id, tags)})

    @router.post("/archive")
    async def archive(request: Request) -> Response:
        body = await body_of(request)
        runs, archived = list_of(body, "runs", int), bool(body.get("archived", True))
        await run_in_threadpool(set_archived, db, runs, archived)
        return json_answer(request, {"runs": runs, "archived": archived})

    @router.get("/views")
    def views(request: Request) -> Response:
        return json_answer(request, [asdict(view) for view in list_views(db)])

    @router.post("/views")
    async def keep_view(request: Request) -> Response:
        body = await body_of(request)
        view = await run_in_threadpool(save_view, db, text_of(body, "name"), text_of(body, "query"))
        return json_answer(request, asdict(view), 201)

    @router.post("/views/{view_id}/delete")
    async def forget_view(request: Request, view_id: int) -> Response:
        await body_of(request)
        await run_in_threadpool(delete_view, db, view_id)
        return json_answer(request, {"id": view_id})


def text_of(body: dict[str, Any], name: str) -> str:
    """A text of the posted object; raises RefusedRequest."""
    value = body.get(name)
    if not isinstance(value, str):
        raise RefusedRequest(f"{name} must be a text.", 422)
    return value


def list_of(body: dict[str, Any], name: str, kind: type) -> list[Any]:
    """A list of one kind of the posted object; raises RefusedRequest."""
    value = body.get(name)
    if not isinstance(value, list) or not all(type(item) is kind for item in value):
        raise RefusedRequest(f"{name} must be a list of {'numbers' if kind is int else 'texts'}.", 422)
    return value
