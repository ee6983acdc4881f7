"""Routes of the denoising lab: checkpoints to choose from, a denoising as it happens, and traces to take away."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from bgpo.config import TrainConfig
from bgpo.jobs.chat import ChatError
from bgpo.jobs.chat_devices import CPU, REFUSE, WAIT, GpuTaken, pool_of
from bgpo.jobs.chat_settings import Piece
from bgpo.tasks.registry import TASKS
from storage.checkpoints import Checkpoint, all_checkpoints
from storage.runs import list_runs
from ui.answers import EventStream, RefusedRequest, body_of, json_answer
from ui.chat_words import checkpoint_choices, taken_words, waiting_words
from ui.run_words import config_of
from ui.services import Services
from ui.trace_gif import gif
from ui.trace_player import BadTrace, check_events, player

MAX_TRACE = 4 * 2**20  # bytes
EXAMPLES = 6


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes to the API's router."""

    @router.get("/lab/checkpoints")
    def checkpoints(request: Request) -> Response:
        return json_answer(request, choices(services))

    @router.post("/lab/denoise")
    async def denoise(request: Request) -> Response:
        body = await body_of(request)
        checkpoint, config, folder = await run_in_threadpool(find, services, body.get("checkpoint"))
        return EventStream(answer(services, checkpoint, config, folder, body))

    @router.post("/lab/player")
    async def to_player(request: Request) -> Response:
        events = traced(await body_of(request, MAX_TRACE))
        return attachment(player(events).encode(), "text/html; charset=utf-8", "denoising.html")

    @router.post("/lab/gif")
    async def to_gif(request: Request) -> Response:
        events = traced(await body_of(request, MAX_TRACE))
        return attachment(await run_in_threadpool(gif, events), "image/gif", "denoising.gif")


def choices(services: Services) -> list[dict[str, Any]]:
    """Every checkpoint that can be asked, newest first, with its task's examples and its run's sampler settings."""
    found = all_checkpoints(services.db)
    runs = list_runs(services.db)
    words = dict((id, label) for label, id in checkpoint_choices(runs, found))
    configs = {run.id: config for run in runs if (config := config_of(run))}
    by_id = {checkpoint.id: checkpoint for checkpoint in found}
    return [
        {
            "id": id, "label": label, "run": by_id[id].run_id, "step": by_id[id].step,
            "task": configs[by_id[id].run_id].task, "placeholder": TASKS[configs[by_id[id].run_id].task].placeholder,
            "settings": settings_of(configs[by_id[id].run_id]),
        }
        for id, label in words.items()
    ]


def settings_of(config: TrainConfig) -> dict[str, Any]:
    return {
        "completion_length": config.completion_length, "denoising_steps": config.denoising_steps,
        "block_length": config.block_length, "temperature": 0, "remasking": config.eval_remasking, "seed": 0,
        "stop_at_eos": config.stop_at_eos,
    }


def find(services: Services, checkpoint_id: Any) -> tuple[Checkpoint, TrainConfig, str]:
    """(checkpoint, its run's config and folder). Raises RefusedRequest when it is gone or the config cannot be read."""
    runs = {run.id: run for run in list_runs(services.db)}
    for checkpoint in all_checkpoints(services.db):
        run = runs.get(checkpoint.run_id)
        if checkpoint.id == checkpoint_id and run and (config := config_of(run)):
            return checkpoint, config, run.folder
    raise RefusedRequest("This checkpoint does not exist; it may have been deleted. Choose another.", 404)


def answer(
    services: Services, checkpoint: Checkpoint, config: TrainConfig, folder: str, body: dict[str, Any]
) -> Generator[dict[str, Any], None, None]:
    """The events of one denoising; a refusal is its last event, so that what was made before it is kept.

    `body["device"]`: what to do while no GPU is free, "cpu" or "wait"; else it is refused with a choice.
    """
    settings, prompt, device = body.get("settings"), body.get("prompt"), body.get("device")
    chat = services.chat
    try:
        if not isinstance(settings, dict) or not isinstance(prompt, str):
            raise ChatError("The request needs a prompt and settings.")
        events = chat.answer(
            checkpoint.folder, config.task, prompt, settings, locked=locks(body.get("locked", [])),
            grader=chat.desk.grader(config, folder), pool=pool_of(config),
            if_taken=device if device in (CPU, WAIT) else REFUSE,
        )
        for event in events:
            waits = event["kind"] == "waiting"
            yield event | {"text": waiting_words(event, list_runs(services.db))} if waits else event
    except GpuTaken as error:
        yield {"kind": "taken", "message": taken_words(str(error), error.runs, list_runs(services.db))}
    except ChatError as error:
        yield {"kind": "error", "message": str(error), "field": error.field}


def locks(given: Any) -> list[tuple[int, int | str | Piece]]:
    """`[[position, token id, text or {"piece": a token as a trace shows it}], ...]` as the page sends it.

    Raises:
        ChatError: for anything else.
    """
    def text(what: Any) -> bool:
        return isinstance(what, str) and 0 < len(what) <= 2000

    def plain(item: Any) -> bool:
        if not (isinstance(item, list) and len(item) == 2 and type(item[0]) is int):
            return False
        what = item[1]
        piece = isinstance(what, dict) and [*what] == ["piece"] and text(what["piece"])
        return type(what) is int or text(what) or piece

    if not isinstance(given, list) or not all(plain(item) for item in given):
        raise ChatError("locked must be a list of [position, token id, text or piece].", "locked")
    return [(position, Piece(what["piece"]) if isinstance(what, dict) else what) for position, what in given]


def traced(body: dict[str, Any]) -> list[dict[str, Any]]:
    try:
        return check_events(body.get("events"))
    except BadTrace as error:
        raise RefusedRequest(str(error), 422) from None


def attachment(content: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type=media_type, headers=headers)
