"""Routes of one run, or of some: what its page shows beside the curves, its log, its held-out samples, its buttons."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from bgpo.jobs import control
from bgpo.jobs.command import command_line, export_command
from bgpo.jobs.lineage import reference
from bgpo.jobs.retention import disk_use
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS
from storage.checkpoints import checkpoints_of
from storage.completions import completions_of
from storage.runs import get_run, list_runs, run_events
from ui import run_words
from ui.answers import RefusedRequest, body_of, json_answer
from ui.live_routes import selection
from ui.run_summaries import short
from ui.services import Services

LOG_TAIL = 64 * 1024


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes; last, because one of them takes every action of a run."""

    @router.get("/differences")
    def difference(request: Request, runs: str = "") -> Response:
        return json_answer(request, compared(services, selection(runs)))

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

    @router.post("/runs/{run_id}/evaluate")
    async def evaluate(request: Request, run_id: int) -> Response:
        await body_of(request)
        run = await run_in_threadpool(control.evaluate, services.db, run_id, services.runs_folder)
        return json_answer(request, {"id": run.id}, 201)

    @router.post("/runs/{run_id}/{action}")
    async def button(request: Request, run_id: int, action: str) -> Response:
        await body_of(request)
        return json_answer(request, await run_in_threadpool(act, services, run_id, action))


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
        "fork": run_words.fork_address(config, reference(run_id, "newest")) if config else "",
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


def compared(services: Services, run_ids: Iterable[int]) -> list[dict[str, Any]]:
    """What differs between the configs of several runs; runs that are gone or unreadable are left out."""
    configs = {run.id: run_words.config_of(run) for run in list_runs(services.db, ids=set(run_ids))}
    readable = {run_id: config for run_id, config in sorted(configs.items()) if config is not None}
    return run_words.differing_knobs(readable) if len(readable) > 1 else []


def shown_completions(services: Services, run_id: int, after_step: int) -> list[dict[str, Any]]:
    """The held-out problems at each evaluation after a step, each with its trace as a list."""
    get_run(services.db, run_id)
    return [
        {
            "step": c.step, "index": c.index, "prompt": c.prompt, "completion": c.completion, "expected": c.expected,
            "reward": short(c.reward), "solved": c.solved, "reason": c.reason, "trace": json.loads(c.trace or "[]"),
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


ACTIONS = {
    "stop": control.stop, "pause": control.pause, "kill": control.kill, "resume": control.resume,
    "smaller": control.resume_smaller, "delete": control.delete,
}


def act(services: Services, run_id: int, action: str) -> dict[str, Any]:
    """Carries out a button of the run page; raises RefusedRequest, RunNotFound or ControlError."""
    if action not in ACTIONS:
        raise RefusedRequest(f"There is no action of that name; there are {', '.join(ACTIONS)}.", 404)
    ACTIONS[action](services.db, run_id)
    return {"id": run_id}
