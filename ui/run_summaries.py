"""What the run list shows of each run, and how little of it has to be sent again."""

from __future__ import annotations

import json
import threading
import zlib
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import Any

from bgpo.config import KNOBS, TrainConfig
from storage.alerts import alert_counts
from storage.changes import Changes
from storage.labels import Labels, labels_of
from storage.queue import queued_runs
from storage.run_list import bests, latest, sparkline
from storage.runs import Run, change_counts, list_runs
from storage.sweeps import sweep_names
from ui import run_words
from ui.services import Services

SPARK, TRAIN_REWARD = "reward/heldout_greedy", "reward/mean"
_REMEMBERED_ANSWERS = 64


@dataclass(frozen=True)
class _Shown:
    """A summary as the page gets it, and its checksum, by which an answer knows what it need not repeat."""

    at: tuple[int, int | None]  # the run's count of changes and place in the queue: the same, and so is the summary
    curve: tuple[Any, ...]  # what tells whether the sparkline is still the same: newest point, best, and which start
    item: dict[str, Any]
    print: int


class RunSummaries:
    """What the run list shows of each run, computed again only when something of the run has changed."""

    def __init__(self, services: Services):
        self._db = services.db
        self._lock = threading.Lock()
        self._changes = Changes(services.db)
        self._mark = ""  # of the database at the last look
        self._runs: dict[int, Run] = {}
        self._known: dict[int, _Shown] = {}
        self._prints: dict[int, int] = {}
        self._token = ""
        self._sent: OrderedDict[str, dict[int, int]] = OrderedDict()

    def all(self) -> dict[int, dict[str, Any]]:
        """Every run's summary by id, newest run first."""
        with self._lock:
            self._look()
            return {run_id: shown.item for run_id, shown in self._known.items()}

    def alert_totals(self) -> dict[int, int]:
        """How many alerts each run has, as of the last look."""
        with self._lock:
            return {run_id: shown.item["alerts"] for run_id, shown in self._known.items()}

    def since(self, token: str) -> tuple[dict[int, dict[str, Any]], list[int], str, bool]:
        """Against an earlier answer: changed summaries, ids that are gone, new token, whether this is everything."""
        with self._lock:
            self._look()
            now, prints, fresh = self._known, self._prints, self._token
            before = self._sent.get(token)
            self._sent[fresh] = prints
            self._sent.move_to_end(fresh)
            while len(self._sent) > _REMEMBERED_ANSWERS:
                self._sent.popitem(last=False)
        if before is None:
            return {run_id: shown.item for run_id, shown in now.items()}, [], fresh, True
        if before is prints:
            return {}, [], fresh, False
        changed = {run_id: shown.item for run_id, shown in now.items() if before.get(run_id) != shown.print}
        return changed, [run_id for run_id in before if run_id not in now], fresh, False

    def _look(self) -> None:
        """Brings what is known up to date; costs next to nothing while nobody has written anything."""
        mark = self._changes.mark()
        if mark == self._mark:
            return
        counts = change_counts(self._db)
        places = {id: place for place, id in enumerate(queued_runs(self._db), 1)}
        now = {id: (count, places.get(id)) for id, count in counts.items()}
        stale = [id for id, at in now.items() if id not in self._known or self._known[id].at != at]
        self._runs = {id: run for id, run in self._runs.items() if id in now}
        known = self._known | (self._refreshed(stale, now) if stale else {})
        self._known = {id: known[id] for id in now if id in known}
        if stale or len(self._known) != len(self._prints):
            self._prints = {id: shown.print for id, shown in self._known.items()}
            self._token = f"{zlib.crc32(repr(sorted(self._prints.items())).encode()):08x}"
        self._mark = mark

    def _refreshed(self, stale: list[int], counted: dict[int, tuple[int, int | None]]) -> dict[int, _Shown]:
        """The runs of `stale` that are still there."""
        runs = {run.id: run for run in list_runs(self._db, ids=stale)}
        self._runs |= runs
        now, best = latest(self._db, stale, (SPARK, TRAIN_REWARD)), bests(self._db, stale, SPARK)
        alerts, labels = alert_counts(self._db, stale), labels_of(self._db, stale)
        sweeps = sweep_names(self._db) if any(run.sweep_id for run in runs.values()) else {}
        curves = {id: (now[id].get(SPARK), best.get(id), run.epoch) for id, run in runs.items()}
        grown = [id for id in runs if id not in self._known or self._known[id].curve != curves[id]]
        sparks = sparkline(self._db, grown, SPARK, points=40) if grown else {}
        found = {}
        for id, run in runs.items():
            spark = [short(value, 3) for _, value in sparks[id]] if id in sparks else self._known[id].item["spark"]
            item = summary(
                run, now[id], spark, best.get(id), _before(run, self._runs), alerts[id], labels.get(id, Labels()),
            ) | {"sweep_name": sweeps.get(run.sweep_id, "")}
            print_ = zlib.crc32(json.dumps(item, sort_keys=True).encode())
            found[id] = _Shown(counted[id], curves[id], item, print_)
        return found


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
    spark: list[float | None],
    best: float | None,
    before: Run | None,
    alerts: Counter[str],
    labels: Labels,
) -> dict[str, Any]:
    """One run as the page gets it: plain numbers and words, no paths of this machine but its own folder."""
    config = run_words.config_of(run)
    words, against = [], ""
    if config is not None:
        title, preset = run_words.preset_config(config)
        other = run_words.config_of(before) if before is not None else None
        words = [word for word in run_words.change_words(other or preset, config) if not word.startswith("start_from ")]
        against = f"run {before.id}" if other is not None else title
    return {
        "id": run.id, "name": run.name, "status": run.status, "word": run_words.status_word(run),
        "tone": run_words.tone(run), "phase": run.phase, "done": run.phase_done, "total": run.phase_total,
        "rate": run.phase_rate, "eta": run_words.eta_seconds(run), "step": run.step, "steps": run.train_steps,
        "seconds": run.seconds, "created": run.created_at, "finished": run.finished_at, "beat": run.heartbeat_at,
        "reason": run.reason, "task": config.task if config else "", "readable": config is not None,
        "reward": now.get(SPARK, (0, None))[1],
        "best": best,
        "train_reward": now.get(TRAIN_REWARD, (0, None))[1], "spark": spark,
        "changed": words, "against": against, "requested": run.requested or "", "queue_place": run.queue_position,
        "alerts": alerts.total(), "serious": alerts["serious"], "parent": run.parent_id, "tags": list(labels.tags),
        "priority": run.priority, "start_at": run.start_at, "after": run.after_id, "parent_step": run.parent_step,
        "sweep": run.sweep_id, "retries": run.retries, "failure": run_words.failure(run, config),
        "quiet_since": run.progress_at if run.stalled_at else None, "notes": bool(labels.notes),
        "archived": labels.archived, "knobs": unusual_knobs(config) if config else {},
    }


def unusual_knobs(config: TrainConfig) -> dict[str, Any]:
    """The knobs whose values are not the defaults; the page is told those once, so a long list stays small."""
    return {name: value for name, knob in KNOBS.items() if (value := getattr(config, name)) != knob.default}


def knob_defaults() -> dict[str, Any]:
    """Every knob's default, by name: what a run has where its summary names no other value."""
    return {name: knob.default for name, knob in KNOBS.items()}


def short(value: float | None, digits: int = 6) -> float | None:
    """Six significant digits are more than a chart's pixel shows, three than a sparkline's; answers stay small."""
    return None if value is None else float(f"{value:.{digits}g}")
