"""The routes that components poll and post to. Everything that changes with time goes through here, not through Gradio.

`GET /api/live` is the one poll of a page (live_routes.py); the others answer a question asked by a click, each file
those of one subject.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.jobs import control
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS
from storage.database import OutOfRange, StorageError
from storage.labels import LabelError
from storage.runs import RunNotFound
from ui import (
    evaluations,
    lab_routes,
    label_routes,
    live_routes,
    memory_view,
    queue_routes,
    rollout_routes,
    run_routes,
    run_words,
    storage_routes,
    task_routes,
)
from ui.answers import RefusedRequest, json_answer
from ui.run_summaries import knob_defaults
from ui.services import Services


def build_router(services: Services) -> APIRouter:
    """The routes over `services`."""
    router = APIRouter(prefix="/api")
    add(router)
    task_routes.add(router)
    for subject in (live_routes, label_routes, memory_view, queue_routes, rollout_routes, lab_routes, evaluations,
                    storage_routes, run_routes):
        subject.add(router, services)
    return router


def add(router: APIRouter) -> None:
    """Adds what is the same for every database: the knobs' defaults and the presets."""

    @router.get("/knobs")
    def knobs(request: Request) -> Response:
        return json_answer(request, knob_defaults())

    @router.get("/presets")
    def presets(request: Request) -> Response:
        return json_answer(request, preset_cards(dict(request.query_params)))


def preset_cards(query: dict[str, str]) -> list[dict[str, Any]]:
    """The presets with the knobs that the page's address changes (`?preset=adder&train_steps=3`), checked.

    A card whose changed knobs cannot run says why instead of offering Start.
    """
    values = {name: value for name, value in query.items() if name in KNOBS}
    cards = []
    for preset in PRESETS.values():
        if preset.needs_gpu and query.get("preset") != preset.name:
            continue  # the New run page has them; a first screen is for what starts at once
        card: dict[str, Any] = {"name": preset.name, "title": preset.title, "summary": preset.summary, "values": {}}
        config, problems = preset.config(), []
        if values and query.get("preset", preset.name) == preset.name:
            try:
                changed = config.with_values(**values)
                card["values"] = values
                card["changed"] = run_words.change_words(config, changed)
                config = changed
            except ConfigError as error:
                problems = list(error.problems.values())
        task = TASKS[config.task]
        cards.append(card | {
            "problems": problems, "careless": task.careless, "example": task.placeholder, "facts": plan_words(config),
        })
    return cards


def plan_words(config: TrainConfig) -> list[str]:
    """What Start will do, in three short lines."""
    each = config.prompts_per_step * config.group_size
    return [
        f"{config.warmup_steps:,} supervised steps on demonstrations that are only {config.correct_fraction:.0%} right",
        f"{config.train_steps:,} steps of {config.objective.upper()}, {each:,} completions each, "
        f"{config.mc_samples} mask draws per completion",
        f"Held-out check every {config.eval_every} steps on {config.eval_problems:,} problems, each with a checkpoint",
    ]


def _unreadable(request: Request, error: RequestValidationError) -> Response:
    """What FastAPI could not read, by name: it would answer with a structure that a person cannot."""
    names = ", ".join(sorted({str(item["loc"][-1]) for item in error.errors()}))
    return json_answer(request, {"error": f"The request's {names} cannot be read; give what the page gives."}, 422)


def add_refusals(app: FastAPI) -> None:
    """Every refusal of the routes is a sentence in JSON, never a traceback."""
    def say(status: int):
        def handler(request: Request, error: Exception) -> Response:
            problems = getattr(error, "problems", {})
            return json_answer(request, {"error": str(error), "problems": problems}, getattr(error, "status", status))
        return handler

    refusals = {
        RefusedRequest: 400, RunNotFound: 404, control.ControlError: 409, ConfigError: 422, LabelError: 422,
        OutOfRange: 422, StorageError: 503,
    }
    for kind, status in refusals.items():
        app.add_exception_handler(kind, say(status))
    app.add_exception_handler(RequestValidationError, _unreadable)
