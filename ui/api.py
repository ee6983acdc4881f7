"""The routes that components poll and post to. Everything that changes with time goes through here, not through Gradio.

`GET /api/live` is the one poll of a page: rows of runs that changed since the last answer and the new points of
the selected runs. The others answer a question asked by a click.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.jobs import control
from bgpo.jobs.command import command_line, export_command
from bgpo.jobs.retention import disk_use
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS
from storage.alerts import alerts_of
from storage.checkpoints import checkpoints_of
from storage.completions import completions_of
from storage.database import OutOfRange, StorageError
from storage.labels import LabelError
from storage.metrics import Point, newest_cursor, points_after, series
from storage.rollups import Bucket
from storage.run_list import latest
from storage.runs import RunNotFound, get_run, list_runs, run_events
from ui import (
    evaluations,
    lab_routes,
    label_routes,
    memory_view,
    queue_routes,
    rollout_routes,
    run_words,
    storage_routes,
    task_routes,
)
from ui.answers import RefusedRequest, body_of, json_answer
from ui.run_summaries import RunSummaries, knob_defaults, short
from ui.services import Services

MAX_SELECTED = 24
MAX_POINTS = 20_000
LOG_TAIL = 64 * 1024
LONG_RUN = 3000  # steps; beyond it a run opens as buckets
OVERVIEW_BUCKETS = 600
MOST_BUCKETS = 2000
MOST_METRICS = 100  # that one answer zooms into


def columns(points: Iterable[Point]) -> dict[str, list[list[float | None]]]:
    """Points as `{metric: [steps, seconds, values]}`: a third of the bytes of a list of objects."""
    found: dict[str, list[list[float | None]]] = {}
    for point in points:
        steps, seconds, values = found.setdefault(point.metric, [[], [], []])
        steps.append(point.step)
        seconds.append(round(point.seconds, 2))
        values.append(short(point.value))
    return found


@dataclass(frozen=True)
class Seen:
    """What the page has of a selected run: points up to a cursor, and so many alerts."""

    cursor: int
    alerts: int


def selection(text: str) -> dict[int, Seen]:
    """`"3:120:2,4"` -> {3: Seen(120, 2), 4: Seen(0, 0)}, by run id. Anything else is left out."""
    found: dict[int, Seen] = {}
    for part in text.split(",")[:MAX_SELECTED]:
        run_id, *seen = part.split(":")
        if run_id.isascii() and run_id.isdigit() and len(run_id) < 16:
            found[int(run_id)] = Seen(*[_number(item) for item in [*seen, "", ""][:2]])
    return found


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def tail(path: Path, offset: int, most: int = LOG_TAIL) -> dict[str, Any]:
    """Text of a growing log from byte `offset` on (negative: its last part), at most `most` bytes, and where to go on.

    A character that is cut in half at the end waits for the next call; bytes that are no text become a mark.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            start = max(0, size - most) if offset < 0 or offset > size else offset
            skipped = start if offset < 0 else 0
            file.seek(start)
            data = file.read(most)
    except FileNotFoundError:
        return {"text": "", "offset": 0, "size": 0, "skipped": 0}
    keep = len(data)
    for back in range(1, min(4, len(data)) + 1):
        lead = data[-back]
        if lead >= 0xC0:
            keep -= back if back < (2 if lead < 0xE0 else 3 if lead < 0xF0 else 4) else 0
            break
        if lead < 0x80:
            break
    return {"text": data[:keep].decode("utf-8", "replace"), "offset": start + keep, "size": size, "skipped": skipped}


def new_points(services: Services, run_id: int, cursor: int) -> dict[str, Any]:
    """What the page does not have yet. A long run opens as buckets with their extremes; its tail then comes raw."""
    longest = max((step for step, _ in latest(services.db, [run_id])[run_id].values()), default=0) if cursor == 0 else 0
    if longest <= LONG_RUN:
        points, after = points_after(services.db, run_id, cursor, limit=MAX_POINTS)
        return {"metrics": columns(points), "cursor": after, "restart": cursor == 0, "more": len(points) == MAX_POINTS}
    after = newest_cursor(services.db, run_id)
    metrics = {
        name: bucket_columns(series(services.db, run_id, name, None, None, OVERVIEW_BUCKETS))
        for name in latest(services.db, [run_id])[run_id]
    }
    return {"metrics": metrics, "cursor": after, "restart": True, "more": False}


def bucket_columns(buckets: list[Bucket]) -> list[list[float | None]]:
    """Buckets as `[steps, seconds, last values, minima, maxima]`."""
    return [
        [bucket.step for bucket in buckets], [round(bucket.seconds, 2) for bucket in buckets],
        [short(bucket.last) for bucket in buckets], [short(bucket.minimum) for bucket in buckets],
        [short(bucket.maximum) for bucket in buckets],
    ]


def live_answer(services: Services, summaries: RunSummaries, runs: str, seen: str) -> dict[str, Any]:
    """The answer to one poll."""
    changed, gone, token, everything = summaries.since(seen)
    points, alerts = {}, {}
    counts = summaries.alert_totals()
    for run_id, has in selection(runs).items():
        part = new_points(services, run_id, has.cursor)
        if part["metrics"] or part["restart"]:
            points[run_id] = part
        if counts.get(run_id, 0) != has.alerts:
            alerts[run_id] = [asdict(alert) for alert in alerts_of(services.db, run_id)]
    return {
        "now": round(time.time(), 2), "seen": token, "all": everything, "runs": list(changed.values()), "gone": gone,
        "points": points, "alerts": alerts, "more": any(part["more"] for part in points.values()),
        "queue": queue_routes.queue_state(services),
    }


def details(services: Services, run_id: int) -> dict[str, Any]:
    """What the run page shows beside the curves: knobs, exact command, checkpoints, history."""
    run = get_run(services.db, run_id)
    config = run_words.config_of(run)
    task = TASKS.get(config.task) if config else None
    job = config.job if config else ""
    return {
        "id": run.id, "folder": run.folder, "knobs": run_words.knob_rows(config) if config else [],
        "preset": run_words.preset_config(config)[0] if config else "",
        "command": command_line(config, services.database_url) if config else "",
        "config": run_words.config_file(config) if config else "",
        "fork": run_words.form_address(config) if config else "",
        "careless": task.careless if task else "", "correct_fraction": config.correct_fraction if config else None,
        "checkpoints": [
            {
                "id": c.id, "step": c.step, "kind": c.kind, "created": c.created_at, "reward": short(c.reward),
                "pinned": c.pinned,
                "onward": run_words.onward_query(config, run_id, c.step) if job == "finetune" else None,
                "export": export_command(config, c.folder, run_id, c.step) if config else "",
            }
            for c in checkpoints_of(services.db, run_id)
        ],
        "disk_bytes": disk_use(run),
        "events": [
            {"time": event.time, "from": event.from_status, "to": event.to_status, "why": event.why, "who": event.who}
            for event in run_events(services.db, run_id)
        ],
    }


def marks(services: Services, run_id: int) -> list[dict[str, Any]]:
    """What happened to a run along its steps, for its charts: checkpoints, and where a process began or ended."""
    found = [
        {"step": c.step, "kind": "checkpoint", "what": c.kind, "time": c.created_at, "reward": short(c.reward)}
        for c in checkpoints_of(services.db, run_id) if not c.folder.rsplit("/", 1)[-1].startswith("warm-up")
    ]
    found += [
        {"step": event.step, "kind": "status", "what": event.to_status, "from": event.from_status, "time": event.time,
         "who": event.who, "why": event.why}
        for event in run_events(services.db, run_id) if event.step is not None and event.from_status != event.to_status
    ]
    return sorted(found, key=lambda mark: (mark["step"], mark["time"]))


def compared(services: Services, run_ids: Iterable[int]) -> list[dict[str, Any]]:
    """What differs between the configs of several runs; runs that are gone or unreadable are left out."""
    wanted = set(run_ids)
    configs = {run.id: run_words.config_of(run) for run in list_runs(services.db) if run.id in wanted}
    readable = {run_id: config for run_id, config in sorted(configs.items()) if config is not None}
    return run_words.differing_knobs(readable) if len(readable) > 1 else []


def shown_completions(services: Services, run_id: int, after_step: int) -> list[dict[str, Any]]:
    """The held-out problems at each evaluation after a step, each with its trace as a list."""
    get_run(services.db, run_id)
    return [
        {
            "step": c.step, "index": c.index, "prompt": c.prompt, "completion": c.completion, "expected": c.expected,
            "reward": short(c.reward), "reason": c.reason, "trace": json.loads(c.trace or "[]"),
        }
        for c in completions_of(services.db, run_id, after_step)
        if c.kind == "held_out"
    ]


def start(services: Services, body: dict[str, Any]) -> dict[str, Any]:
    """Queues a run of a preset with some knobs changed.

    Raises:
        RefusedRequest: unknown preset.
        ConfigError: knobs out of range or at odds.
    """
    preset = PRESETS.get(str(body.get("preset", "")))
    if preset is None:
        raise RefusedRequest(f"There is no such preset; the presets are {', '.join(PRESETS)}.", 422)
    values = body.get("values") or {}
    if not isinstance(values, dict):
        raise RefusedRequest("values must be a JSON object of knobs.", 422)
    run = control.submit(services.db, preset.config().with_values(**values), services.runs_folder)
    return {"id": run.id}


GOING = ("queued", "launching", "running")
LAST_WORDS_S = 5  # how long Delete waits for a process that has just stopped
ACTIONS = {
    "stop": control.stop, "pause": control.pause, "kill": control.kill, "resume": control.resume,
    "smaller": control.resume_smaller, "delete": control.delete,
}


def act(services: Services, run_id: int, action: str) -> dict[str, Any]:
    """Carries out a button of the run page; raises RefusedRequest, RunNotFound or ControlError."""
    if action not in ACTIONS:
        raise RefusedRequest(f"There is no action of that name; there are {', '.join(ACTIONS)}.", 404)
    deadline = time.monotonic() + LAST_WORDS_S
    while True:
        try:
            ACTIONS[action](services.db, run_id)
            return {"id": run_id}
        except control.ControlError:
            # a process says that it has stopped a moment before it is gone
            waits = action == "delete" and get_run(services.db, run_id).status not in GOING
            if not waits or time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def build_router(services: Services) -> APIRouter:
    """The routes over `services`. Handlers are plain functions, so FastAPI runs them beside the event loop."""
    router = APIRouter(prefix="/api")
    summaries = RunSummaries(services)
    label_routes.add(router, services)
    memory_view.add(router, services)
    queue_routes.add(router, services)
    rollout_routes.add(router, services)
    lab_routes.add(router, services)
    evaluations.add(router, services)
    storage_routes.add(router, services)
    task_routes.add(router)

    @router.get("/live")
    def live(request: Request, runs: str = "", seen: str = "") -> Response:
        return json_answer(request, live_answer(services, summaries, runs, seen))

    @router.get("/range")
    def window(
        request: Request, run: int, low: int, high: int, metric: str = "", metrics: str = "", buckets: int = 600
    ) -> Response:
        """One `metric` as columns, or several `metrics`, separated by commas, each under its name."""
        def curve(name: str) -> list[list[float | None]]:
            return bucket_columns(series(services.db, run, name, low, high, max(1, min(buckets, MOST_BUCKETS))))

        if metric:
            return json_answer(request, curve(metric))
        return json_answer(request, {name: curve(name) for name in metrics.split(",")[:MOST_METRICS] if name})

    @router.get("/differences")
    def difference(request: Request, runs: str = "") -> Response:
        return json_answer(request, compared(services, selection(runs)))

    @router.get("/knobs")
    def knobs(request: Request) -> Response:
        return json_answer(request, knob_defaults())

    @router.get("/marks")
    def events(request: Request, runs: str = "") -> Response:
        return json_answer(request, {run_id: marks(services, run_id) for run_id in selection(runs)})

    @router.get("/presets")
    def presets(request: Request) -> Response:
        return json_answer(request, preset_cards(dict(request.query_params)))

    @router.get("/runs/{run_id}")
    def one(request: Request, run_id: int) -> Response:
        return json_answer(request, details(services, run_id))

    @router.get("/runs/{run_id}/log")
    def log(request: Request, run_id: int, offset: int = -1) -> Response:
        return json_answer(request, tail(Path(get_run(services.db, run_id).folder) / "log.txt", offset))

    @router.get("/runs/{run_id}/completions")
    def completions(request: Request, run_id: int, after_step: int = -1) -> Response:
        return json_answer(request, shown_completions(services, run_id, after_step))

    @router.post("/runs")
    async def submit(request: Request) -> Response:
        body = await body_of(request)
        return json_answer(request, await run_in_threadpool(start, services, body), 201)

    @router.post("/runs/{run_id}/{action}")
    async def button(request: Request, run_id: int, action: str) -> Response:
        await body_of(request)
        return json_answer(request, await run_in_threadpool(act, services, run_id, action))

    return router


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
