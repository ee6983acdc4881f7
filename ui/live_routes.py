"""The one poll of a page, `GET /api/live`, and what its charts ask for beside it: a window in finer buckets, marks.

An answer holds the rows of runs that changed since the last one and the new points of the selected runs. When nothing
at all was written in between it says so, without a look at any row. Of very many runs it holds the newest, and older
ones as the page asks for them.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from fastapi import APIRouter, Request, Response

from storage.alerts import alerts_of
from storage.changes import Changes
from storage.checkpoints import checkpoints_of
from storage.metrics import Point, newest_cursor, points_after, series
from storage.rollups import Bucket
from storage.run_list import latest
from storage.runs import run_events
from ui import queue_routes
from ui.answers import json_answer
from ui.run_summaries import FIRST, RunSummaries, short
from ui.services import Services

MAX_SELECTED = 24
MAX_POINTS = 20_000
LONG_RUN = 3000  # steps; beyond it a run opens as buckets
OVERVIEW_BUCKETS = 600
MOST_BUCKETS = 2000
MOST_METRICS = 100  # that one answer zooms into
_REMEMBERED_POLLS = 256


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes. Handlers are plain functions, so FastAPI runs them beside the event loop."""
    poll = Poll(services)

    @router.get("/live")
    def live(request: Request, runs: str = "", seen: str = "", newest: int = FIRST) -> Response:
        """`newest`: how many runs the page wants to see; it asks again for what one answer leaves out of them."""
        return json_answer(request, poll.answer(runs, seen, newest))

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

    @router.get("/marks")
    def events(request: Request, runs: str = "") -> Response:
        return json_answer(request, {run_id: marks(services, run_id) for run_id in selection(runs)})


class Poll:
    """Answers polls, and knows which of them had nothing to bring."""

    def __init__(self, services: Services):
        self._services = services
        self._summaries = RunSummaries(services)
        self._changes = Changes(services.db)
        self._lock = threading.Lock()
        self._empty: OrderedDict[tuple[str, str, int], str] = OrderedDict()  # question -> when its answer was empty

    def answer(self, runs: str, seen: str, newest: int = FIRST) -> dict[str, Any]:
        """`{"now", "same"}` while an earlier answer to the very same question, an empty one, still is the answer."""
        mark, question = self._changes.mark(), (runs, seen, newest)
        with self._lock:
            if self._empty.get(question) == mark:
                if newest > FIRST:
                    self._summaries.still_looked_at()
                return {"now": round(time.time(), 2), "same": True}
        found = live_answer(self._services, self._summaries, mark, runs, seen, newest)
        with self._lock:
            self._empty.pop(question, None)
            if not any(found[part] for part in ("all", "runs", "gone", "points", "alerts")) and found["seen"] == seen:
                self._empty[question] = mark
                while len(self._empty) > _REMEMBERED_POLLS:
                    self._empty.popitem(last=False)
        return found


def columns(points: Iterable[Point]) -> dict[str, list[list[float | None]]]:
    """Points as `{metric: [steps, seconds, values]}`: a third of the bytes of a list of objects."""
    curves: dict[str, tuple[list[int], list[float], list[float | None]]] = {}
    for metric, step, seconds, value in points:
        curve = curves.get(metric)
        if curve is None:
            curve = curves[metric] = ([], [], [])
        curve[0].append(step)
        curve[1].append(seconds)
        curve[2].append(value)
    return {
        metric: [steps, [round(at, 2) for at in seconds], list(map(short, values))]
        for metric, (steps, seconds, values) in curves.items()
    }


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


def live_answer(
    services: Services, summaries: RunSummaries, mark: str, runs: str, seen: str, newest: int = FIRST
) -> dict[str, Any]:
    """The answer to one poll, read anew, if the database has changed since `mark`."""
    selected = selection(runs)
    changed, gone, view, everything = summaries.since(mark, seen, newest, selected)
    points, alerts = {}, {}
    counts = summaries.alert_totals(selected)
    for run_id, has in selected.items():
        part = new_points(services, run_id, has.cursor)
        if part["metrics"] or part["restart"]:
            points[run_id] = part
        if counts.get(run_id, 0) != has.alerts:
            alerts[run_id] = [asdict(alert) for alert in alerts_of(services.db, run_id)]
    return {
        "now": round(time.time(), 2), "seen": view.token, "all": everything, "runs": list(changed.values()),
        "gone": gone, "newest": view.newest, "older": view.older, "points": points, "alerts": alerts,
        "more": any(part["more"] for part in points.values()),
        "queue": queue_routes.queue_state(services) | {"queued": view.queued},
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
