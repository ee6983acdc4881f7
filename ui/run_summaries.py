"""What the run list shows of each run, and how little of it has to be sent again."""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from bgpo.config import KNOBS, TrainConfig
from storage.alerts import alert_counts
from storage.labels import Labels, labels_of
from storage.queue import queued_runs
from storage.run_list import bests, latest, sparkline
from storage.runs import Run, change_counts, configs_before, list_runs, live_and_all
from storage.sweeps import sweep_names
from ui import run_words
from ui.services import Services

SPARK, TRAIN_REWARD = "reward/heldout_greedy", "reward/mean"
FIRST = 500  # runs that a list begins with, and by how many an answer goes further back at most
_REMEMBERED_ANSWERS = 64
_MOST_ASKED = 500  # older runs that are kept up to date because somebody has selected them
_REACH_SECONDS = 120.0  # after which nobody looks at older runs any more, if nobody has asked
_LOOKED_BACK = 50  # runs among which one on the same task is looked for


@dataclass(frozen=True)
class _Shown:
    """A summary as the page gets it, and its checksum, by which an answer knows what it need not repeat."""

    at: tuple[int, int | None]  # the run's count of changes and place in the queue: the same, and so is the summary
    curve: tuple[Any, ...]  # what tells whether the sparkline is still the same: newest point, best, and which start
    item: dict[str, Any]
    print: int


@dataclass(frozen=True)
class View:
    """The runs that one page sees: the newest so many, those that work or wait, and those it has selected."""

    newest: int
    prints: dict[int, int]  # checksum of each run's summary, newest run first
    token: str
    older: int  # runs that there are beside these
    queued: int  # runs that wait, whether they are among these or not


class RunSummaries:
    """What the run list shows of each run, computed again only when something of the run has changed.

    And only of runs that somebody looks at: a page begins with the newest and asks for older ones as it goes on.
    """

    def __init__(self, services: Services):
        self._db = services.db
        self._lock = threading.Lock()
        self._mark = ""  # of the database at the last look, as `Changes` gives it
        self._reach, self._asked = 0, set[int]()  # the newest so many, and others, that were looked at
        self._reached_at = 0.0  # when anybody asked for as many last
        self._newest: list[int] = []
        self._working: list[int] = []
        self._count = self._queued = 0  # of all runs, of those that wait
        self._known: dict[int, _Shown] = {}
        self._views: dict[tuple[int, frozenset[int]], View] = {}
        self._sent: OrderedDict[str, dict[int, int]] = OrderedDict()

    def alert_totals(self, ids: Collection[int]) -> dict[int, int]:
        """How many alerts each of these runs has, as of the last look."""
        with self._lock:
            return {id: self._known[id].item["alerts"] for id in ids if id in self._known}

    def still_looked_at(self) -> None:
        """A page that has older runs was told that nothing has changed: they are kept up to date for it."""
        self._reached_at = time.monotonic()

    def since(
        self, mark: str, token: str, newest: int = FIRST, selected: Collection[int] = ()
    ) -> tuple[dict[int, dict[str, Any]], list[int], View, bool]:
        """Against an earlier answer: changed summaries, ids that are gone, the view, whether this is everything.

        An answer goes at most FIRST runs further back than the page's own, so none is long; the page asks again.

        Args:
            mark: of the database, taken before this call; with the one of the last call nothing is read again.
        """
        with self._lock:
            before = self._sent.get(token)
            view = self._view(mark, max(FIRST, min(newest, len(before or ()) + FIRST)), frozenset(selected))
            self._sent[view.token] = view.prints
            self._sent.move_to_end(view.token)
            while len(self._sent) > _REMEMBERED_ANSWERS:
                self._sent.popitem(last=False)
            if before is view.prints:
                return {}, [], view, False
            changed = {id: self._known[id].item for id, at in view.prints.items()
                       if before is None or before.get(id) != at}
        return changed, [id for id in before or () if id not in view.prints], view, before is None

    def _view(self, mark: str, newest: int, selected: frozenset[int]) -> View:
        self._look(mark, newest, selected)
        key = newest, selected
        if key not in self._views:
            wanted = {*self._newest[:newest], *self._working, *selected}
            prints = {id: shown.print for id, shown in self._known.items() if id in wanted}
            token = f"{hash(tuple(prints.items())) % 2**64:016x}"
            if len(self._views) >= _REMEMBERED_ANSWERS:
                self._views.clear()
            self._views[key] = View(min(newest, len(self._newest)), prints, token, self._count - len(prints),
                                    self._queued)
        return self._views[key]

    def _look(self, mark: str, newest: int, selected: Collection[int]) -> None:
        """Brings what is known up to date; costs next to nothing while nobody has written or asked for more."""
        if newest >= self._reach:
            self._reached_at = time.monotonic()
        if mark == self._mark and newest <= self._reach and self._asked.issuperset(selected):
            return
        if newest >= self._reach or time.monotonic() - self._reached_at > _REACH_SECONDS:
            self._reach, self._reached_at = newest, time.monotonic()
        self._asked = {*selected} if len(self._asked) > _MOST_ASKED else self._asked.union(selected)
        queue = queued_runs(self._db)
        live, self._count = live_and_all(self._db)
        self._working, self._queued = [*live, *queue[:FIRST]], len(queue)
        counts = change_counts(self._db, self._reach, {*self._working, *self._asked})
        self._newest = list(counts)[: self._reach]
        places = {id: place for place, id in enumerate(queue, 1)}
        now = {id: (count, places.get(id)) for id, count in counts.items()}
        stale = [id for id, at in now.items() if id not in self._known or self._known[id].at != at]
        known = self._known | (self._refreshed(stale, now) if stale else {})
        self._known = {id: known[id] for id in now if id in known}
        self._views.clear()
        self._mark = mark

    def _refreshed(self, stale: list[int], counted: dict[int, tuple[int, int | None]]) -> dict[int, _Shown]:
        """The runs of `stale` that are still there."""
        runs = {run.id: run for run in list_runs(self._db, ids=stale)}
        now, best = latest(self._db, stale, (SPARK, TRAIN_REWARD)), bests(self._db, stale, SPARK)
        alerts, labels = alert_counts(self._db, stale), labels_of(self._db, stale)
        sweeps = sweep_names(self._db) if any(run.sweep_id for run in runs.values()) else {}
        curves = {id: (now[id].get(SPARK), best.get(id), run.epoch) for id, run in runs.items()}
        grown = [id for id in runs if id not in self._known or self._known[id].curve != curves[id]]
        sparks = sparkline(self._db, grown, SPARK) if grown else {}
        against = self._against(runs.values())
        found = {}
        for id, run in runs.items():
            spark = [short(value, 3) for _, value in sparks[id]] if id in sparks else self._known[id].item["spark"]
            item = summary(
                run, now[id], spark, best.get(id), against.get(id), alerts[id], labels.get(id, Labels()),
            ) | {"sweep_name": sweeps.get(run.sweep_id, "")}
            print_ = zlib.crc32(json.dumps(item, sort_keys=True).encode())
            found[id] = _Shown(counted[id], curves[id], item, print_)
        return found

    def _against(self, runs: Collection[Run]) -> dict[int, tuple[int, TrainConfig] | None]:
        """What each is told apart from: its parent, else the newest on the same task among those just before it."""
        wanted = {run.parent_id for run in runs if run.parent_id is not None}
        parents = {run.id: run_words.config_of(run) for run in list_runs(self._db, ids=wanted)} if wanted else {}
        orphans = [run for run in runs if run.parent_id not in parents]
        # all of a list at once: whom one of them follows mostly is another of them
        rows = configs_before(self._db, max(run.id for run in orphans) + 1, len(orphans) + 1) if orphans else []
        place = {id: number for number, (id, _) in enumerate(rows)}
        found = {run.id: self._just_before(run, rows[place.get(run.id, len(rows)) + 1 :]) for run in orphans}
        for run in runs:
            if (config := parents.get(run.parent_id)) is not None:
                found[run.id] = run.parent_id, config
        return found

    def _just_before(self, run: Run, known: Sequence[tuple[int, str]]) -> tuple[int, TrainConfig] | None:
        """Args: known: (id, config) of runs just before it, the newest first, as far as they have been read."""
        mine = run_words.config_of(run)
        if mine is None:
            return None
        found = _on_task(mine.task, known[:_LOOKED_BACK])
        if found is None and len(known) < _LOOKED_BACK:
            found = _on_task(mine.task, configs_before(self._db, run.id, _LOOKED_BACK))
        return found


def _on_task(task: str, configs: Sequence[tuple[int, str]]) -> tuple[int, TrainConfig] | None:
    """The first of (id, config) that is of a task."""
    read = ((id, run_words.config_in(text)) for id, text in configs)
    return next(((id, config) for id, config in read if config is not None and config.task == task), None)


def summary(
    run: Run,
    now: dict[str, tuple[int, float | None]],
    spark: list[float | None],
    best: float | None,
    before: tuple[int, TrainConfig] | None,
    alerts: Counter[str],
    labels: Labels,
) -> dict[str, Any]:
    """One run as the page gets it: plain numbers and words, no paths of this machine but its own folder."""
    config = run_words.config_of(run)
    words, against = [], ""
    if config is not None:
        title, preset = run_words.preset_config(config)
        other, against = (before[1], f"run {before[0]}") if before else (preset, title)
        words = [word for word in run_words.change_words(other, config) if not word.startswith("start_from ")]
    return {
        "id": run.id, "name": run.name, "status": run.status, "word": run_words.status_word(run),
        "tone": run_words.tone(run), "phase": run.phase, "done": run.phase_done, "total": run.phase_total,
        "rate": run.phase_rate, "eta": run_words.eta_seconds(run), "step": run.step, "steps": run.train_steps,
        "seconds": run.seconds, "created": _moment(run.created_at), "finished": _moment(run.finished_at),
        "beat": _moment(run.heartbeat_at),
        "reason": run.reason, "task": config.task if config else "", "readable": config is not None,
        "reward": short(now.get(SPARK, (0, None))[1]), "best": short(best),
        "train_reward": short(now.get(TRAIN_REWARD, (0, None))[1]), "spark": spark,
        "changed": words, "against": against, "requested": run.requested or "", "queue_place": run.queue_position,
        "alerts": alerts.total(), "serious": alerts["serious"], "parent": run.parent_id, "tags": list(labels.tags),
        "priority": run.priority, "start_at": run.start_at, "after": run.after_id, "parent_step": run.parent_step,
        "sweep": run.sweep_id, "retries": run.retries, "failure": run_words.failure(run, config),
        "quiet_since": run.progress_at if run.stalled_at else None, "notes": bool(labels.notes),
        "archived": labels.archived, "knobs": unusual_knobs(config) if config else {},
    }


def _moment(seconds: float | None) -> float | None:
    """Epoch seconds to a hundredth: pages show ages."""
    return None if seconds is None else round(seconds, 2)


def unusual_knobs(config: TrainConfig) -> dict[str, Any]:
    """The knobs whose values are not the defaults; the page is told those once, so a long list stays small."""
    return {name: value for name, knob in KNOBS.items() if (value := getattr(config, name)) != knob.default}


def knob_defaults() -> dict[str, Any]:
    """Every knob's default, by name: what a run has where its summary names no other value."""
    return {name: knob.default for name, knob in KNOBS.items()}


def short(value: float | None, digits: int = 6) -> float | None:
    """Six significant digits are more than a chart's pixel shows, three than a sparkline's; answers stay small."""
    return None if value is None else float(f"{value:.{digits}g}")
