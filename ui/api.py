"""The routes that components poll and post to. Everything that changes with time goes through here, not through Gradio.

`GET /api/live` is the one poll of a page: rows of runs that changed since the last answer and the new points of
the selected runs. The others answer a question asked by a click.
"""

from __future__ import annotations

import gzip
import json
import threading
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.concurrency import run_in_threadpool

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.jobs import control
from bgpo.jobs.command import command_line
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS
from storage.alerts import alert_counts, alerts_of
from storage.checkpoints import checkpoints_of
from storage.completions import completions_of
from storage.database import StorageError
from storage.metrics import Bucket, Point, latest, newest_cursor, points_after, series, sparkline
from storage.runs import Run, RunNotFound, get_run, list_runs, run_events
from ui import run_words
from ui.services import Services

SPARK = "reward/heldout_greedy"
MAX_SELECTED = 24
MAX_POINTS = 20_000
MAX_BODY = 64 * 1024
LOG_TAIL = 64 * 1024
LONG_RUN = 3000  # steps; beyond it a run opens as buckets
OVERVIEW_BUCKETS = 600


class RunSummaries:
    """What the run list shows of each run, computed again only when the run's row has changed."""

    def __init__(self, services: Services):
        self._db = services.db
        self._lock = threading.Lock()
        self._known: dict[int, tuple[tuple[Run, Counter[str]], dict[str, Any]]] = {}
        self._sent: OrderedDict[str, dict[int, int]] = OrderedDict()

    def all(self) -> dict[int, dict[str, Any]]:
        runs = list_runs(self._db)
        alerts = alert_counts(self._db, [run.id for run in runs])
        with self._lock:
            stale = [run for run in runs if self._known.get(run.id, (None,))[0] != (run, alerts[run.id])]
            if stale:
                self._refresh(stale, {run.id: run for run in runs}, alerts)
            self._known = {run.id: self._known[run.id] for run in runs}
            return {run.id: self._known[run.id][1] for run in runs}

    def _refresh(self, stale: list[Run], runs: dict[int, Run], alerts: dict[int, Counter[str]]) -> None:
        ids = [run.id for run in stale]
        now, sparks = latest(self._db, ids), sparkline(self._db, ids, SPARK, points=40)
        for run in stale:
            best = series(self._db, run.id, SPARK, None, None, 1)
            shown = summary(run, now.get(run.id, {}), sparks.get(run.id, []), best, _before(run, runs), alerts[run.id])
            self._known[run.id] = ((run, alerts[run.id]), shown)

    def alert_totals(self) -> dict[int, int]:
        """How many alerts each run has, as of the last look."""
        with self._lock:
            return {run_id: shown["alerts"] for run_id, (_, shown) in self._known.items()}

    def since(self, token: str) -> tuple[dict[int, dict[str, Any]], list[int], str, bool]:
        """Against an earlier answer: changed summaries, ids that are gone, new token, whether this is everything."""
        now = self.all()
        prints = {run_id: zlib.crc32(json.dumps(item, sort_keys=True).encode()) for run_id, item in now.items()}
        fresh = f"{zlib.crc32(repr(sorted(prints.items())).encode()):08x}"
        with self._lock:
            before = self._sent.get(token)
            self._sent[fresh] = prints
            self._sent.move_to_end(fresh)
            while len(self._sent) > 64:
                self._sent.popitem(last=False)
        if before is None:
            return now, [], fresh, True
        changed = {run_id: now[run_id] for run_id in now if before.get(run_id) != prints[run_id]}
        return changed, [run_id for run_id in before if run_id not in now], fresh, False


def _before(run: Run, runs: dict[int, Run]) -> Run | None:
    """The run that this one is told apart from: its parent, else the newest earlier one on the same task."""
    if run.parent_id in runs:
        return runs[run.parent_id]
    mine = run_words.config_of(run)
    for other in sorted((i for i in runs if i < run.id), reverse=True):
        theirs = run_words.config_of(runs[other])
        if mine and theirs and theirs.task == mine.task:
            return runs[other]
    return None


def summary(
    run: Run,
    now: dict[str, tuple[int, float | None]],
    spark: Iterable[tuple[int, float | None]],
    best: list[Bucket],
    before: Run | None,
    alerts: Counter[str],
) -> dict[str, Any]:
    """One run as the page gets it: plain numbers and words, no paths of this machine but its own folder."""
    config = run_words.config_of(run)
    words, against = [], ""
    if config is not None:
        title, preset = run_words.preset_config(config)
        other = run_words.config_of(before) if before is not None else None
        words = run_words.change_words(other or preset, config)
        against = f"run {before.id}" if other is not None else title
    return {
        "id": run.id, "name": run.name, "status": run.status, "word": run_words.status_word(run),
        "tone": run_words.tone(run), "phase": run.phase, "done": run.phase_done, "total": run.phase_total,
        "rate": run.phase_rate, "eta": run_words.eta_seconds(run), "step": run.step, "steps": run.train_steps,
        "seconds": run.seconds, "created": run.created_at, "finished": run.finished_at, "beat": run.heartbeat_at,
        "reason": run.reason, "task": config.task if config else "", "readable": config is not None,
        "reward": now.get(SPARK, (0, None))[1],
        "best": max((bucket.maximum for bucket in best if bucket.maximum is not None), default=None),
        "train_reward": now.get("reward/mean", (0, None))[1], "spark": [_short(value) for _, value in spark],
        "changed": words, "against": against, "requested": run.requested or "", "queue_place": run.queue_position,
        "alerts": alerts.total(), "serious": alerts["serious"],
    }


def _short(value: float | None) -> float | None:
    """Six significant digits are more than a pixel shows, and keep an answer small."""
    return None if value is None else float(f"{value:.6g}")


def columns(points: Iterable[Point]) -> dict[str, list[list[float | None]]]:
    """Points as `{metric: [steps, seconds, values]}`: a third of the bytes of a list of objects."""
    found: dict[str, list[list[float | None]]] = {}
    for point in points:
        steps, seconds, values = found.setdefault(point.metric, [[], [], []])
        steps.append(point.step)
        seconds.append(round(point.seconds, 2))
        values.append(_short(point.value))
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


def _json(request: Request, answer: Any, status: int = 200) -> Response:
    body = json.dumps(answer, separators=(",", ":"), allow_nan=False).encode()
    headers = {"Cache-Control": "no-store"}
    if len(body) > 1000 and "gzip" in request.headers.get("accept-encoding", ""):
        body, headers["Content-Encoding"] = gzip.compress(body, 4), "gzip"
    return Response(body, status_code=status, media_type="application/json", headers=headers)


class RefusedRequest(Exception):
    """A request that gets a sentence instead of an answer."""

    def __init__(self, sentence: str, status: int = 400, problems: dict[str, str] | None = None):
        super().__init__(sentence)
        self.status = status
        self.problems = problems or {}


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request; raises RefusedRequest."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise RefusedRequest("Send JSON with the content type application/json.", 415)
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise RefusedRequest(f"The request is longer than {MAX_BODY} bytes.", 413)
    try:
        value = json.loads(body or b"{}")
    except ValueError:
        raise RefusedRequest("The request is not JSON.") from None
    if not isinstance(value, dict):
        raise RefusedRequest("The request is not a JSON object.")
    return value


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
        [_short(bucket.last) for bucket in buckets], [_short(bucket.minimum) for bucket in buckets],
        [_short(bucket.maximum) for bucket in buckets],
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
    }


def details(services: Services, run_id: int) -> dict[str, Any]:
    """What the run page shows beside the curves: knobs, exact command, checkpoints, history."""
    run = get_run(services.db, run_id)
    config = run_words.config_of(run)
    task = TASKS.get(config.task) if config else None
    return {
        "id": run.id, "folder": run.folder, "knobs": run_words.knob_rows(config) if config else [],
        "preset": run_words.preset_config(config)[0] if config else "",
        "command": command_line(config, services.database_url) if config else "",
        "careless": task.careless if task else "", "correct_fraction": config.correct_fraction if config else None,
        "checkpoints": [
            {"id": c.id, "step": c.step, "kind": c.kind, "created": c.created_at, "reward": _short(c.reward)}
            for c in checkpoints_of(services.db, run_id)
        ],
        "events": [
            {"time": event.time, "from": event.from_status, "to": event.to_status, "why": event.why, "who": event.who}
            for event in run_events(services.db, run_id)
        ],
    }


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
            "reward": _short(c.reward), "reason": c.reason, "trace": json.loads(c.trace or "[]"),
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
ACTIONS = {"stop": control.stop, "kill": control.kill, "resume": control.resume, "delete": control.delete}


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

    @router.get("/live")
    def live(request: Request, runs: str = "", seen: str = "") -> Response:
        return _json(request, live_answer(services, summaries, runs, seen))

    @router.get("/range")
    def window(request: Request, run: int, metric: str, low: int, high: int, buckets: int = 600) -> Response:
        found = series(services.db, run, metric, low, high, max(1, min(buckets, 2000)))
        return _json(request, bucket_columns(found))

    @router.get("/differences")
    def difference(request: Request, runs: str = "") -> Response:
        return _json(request, compared(services, selection(runs)))

    @router.get("/presets")
    def presets(request: Request) -> Response:
        return _json(request, preset_cards(dict(request.query_params)))

    @router.get("/runs/{run_id}")
    def one(request: Request, run_id: int) -> Response:
        return _json(request, details(services, run_id))

    @router.get("/runs/{run_id}/log")
    def log(request: Request, run_id: int, offset: int = -1) -> Response:
        return _json(request, tail(Path(get_run(services.db, run_id).folder) / "log.txt", offset))

    @router.get("/runs/{run_id}/completions")
    def completions(request: Request, run_id: int, after_step: int = -1) -> Response:
        return _json(request, shown_completions(services, run_id, after_step))

    @router.post("/runs")
    async def submit(request: Request) -> Response:
        body = await body_of(request)
        return _json(request, await run_in_threadpool(start, services, body), 201)

    @router.post("/runs/{run_id}/{action}")
    async def button(request: Request, run_id: int, action: str) -> Response:
        await body_of(request)
        return _json(request, await run_in_threadpool(act, services, run_id, action))

    return router


def preset_cards(query: dict[str, str]) -> list[dict[str, Any]]:
    """The presets with the knobs that the page's address changes (`?preset=adder&train_steps=3`), checked.

    A card whose changed knobs cannot run says why instead of offering Start.
    """
    values = {name: value for name, value in query.items() if name in KNOBS}
    cards = []
    for preset in PRESETS.values():
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


def add_refusals(app: FastAPI) -> None:
    """Every refusal of the routes is a sentence in JSON, never a traceback."""
    def say(status: int):
        def handler(request: Request, error: Exception) -> Response:
            problems = getattr(error, "problems", {})
            return _json(request, {"error": str(error), "problems": problems}, getattr(error, "status", status))
        return handler

    for kind, status in ((RefusedRequest, 400), (ConfigError, 422), (control.ControlError, 409), (RunNotFound, 404),
                         (StorageError, 503)):
        app.add_exception_handler(kind, say(status))
