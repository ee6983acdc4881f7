"""Routes for a look at a task before it is launched: real problems, and its grader on a text that somebody pastes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from bgpo.config import KNOBS
from bgpo.tasks.base import PARTS, TaskError, TaskKnobs
from bgpo.tasks.preview_child import KNOBS_READ, problems_of, verdict_on
from ui.answers import RefusedRequest, body_of, json_answer
from ui.queue_routes import number_of

_SHOWN = 6
_LONGEST_PATH = 1000  # characters


def add(router: APIRouter) -> None:
    """Adds the routes. Both run what the task runs, so they are posts: no other site can ask for them."""

    @router.post("/task/preview")
    async def look(request: Request) -> Response:
        chosen = chosen_of((await body_of(request)).get("knobs"))
        return json_answer(request, await _asked(problems_of, chosen, _SHOWN))

    @router.post("/task/grade")
    async def grade(request: Request) -> Response:
        body = await body_of(request)
        chosen, index, text = chosen_of(body.get("knobs")), number_of(body, "index"), body.get("text")
        if not isinstance(text, str):
            raise RefusedRequest("text must be a text.", 422)
        verdict = await _asked(verdict_on, chosen, index, text)
        return json_answer(request, verdict | {"parts": part_words(verdict["parts"])})


async def _asked(question: Callable[..., dict[str, Any]], *about: Any) -> dict[str, Any]:
    """Raises RefusedRequest with the task's sentence, for instance when its data cannot be read."""
    try:
        return await run_in_threadpool(question, *about)
    except TaskError as error:
        raise RefusedRequest(str(error), 422) from None


def chosen_of(knobs: Any) -> TaskKnobs:
    """The knobs that a task reads, whatever the rest of the form says; raises RefusedRequest for impossible ones."""
    if not isinstance(knobs, Mapping):
        raise RefusedRequest("knobs must be an object.", 422)
    values = {name: knobs.get(name, KNOBS[name].default) for name in KNOBS_READ}
    for name, value in values.items():
        choices = KNOBS[name].choices
        if not isinstance(value, str) or len(value) > _LONGEST_PATH or (choices and value not in choices):
            raise RefusedRequest(f"{name} needs another value; give {KNOBS[name].allowed}.", 422)
    return SimpleNamespace(**values)


def part_words(parts: Mapping[str, float]) -> list[list[Any]]:
    """The parts of a reward as [name for people, value, what it says]."""
    named = ((*PARTS.get(name, (name, "")), value) for name, value in parts.items())
    return [[name, value, says] for name, says, value in named]
