"""What the memory explorer shows of a run: measured peaks, and the lines of both objectives against the mask draws.

The lines are arithmetic on one measured figure. A pass holds `base` MB when it scores one draw of a chunk of
completions; the chunk and the draws that share a pass follow from the token budget, as in `Passes.plan`. BGPO frees
each pass, so it holds one; the plain objective holds the passes of all draws until backward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import TrainConfig, prompt_room
from bgpo.jobs import control
from bgpo.training.hardware import Room, room_for
from bgpo.training.memory_estimate import estimate
from storage.labels import set_archived
from storage.metrics import points_after, series
from storage.run_list import latest
from storage.runs import HIGH, Run, get_run, list_runs
from ui import run_words
from ui.answers import RefusedRequest, body_of, json_answer
from ui.memory_words import beside_measured
from ui.services import Services

MB = 2**20
SAVED, PASS_TOKENS = "memory/saved_mb", "memory/pass_tokens"
PROBED = ("bgpo", "elbo")


@dataclass(frozen=True)
class Lines:
    """How memory held for backward follows from the number of draws.

    Attributes:
        base: MB of one draw of a chunk; shared: draws that share a pass.
        source: what `base` was read off: "probe", "run", or "estimate" before the first step; else "".
        own: as `base`, for BGPO where it was measured; the plain objective holds a little more for one draw.
    """

    base: float
    shared: int
    source: str
    own: float | None = None

    def bgpo(self, draws: int) -> float:
        return (self.base if self.own is None else self.own) * min(draws, self.shared)

    def plain(self, draws: int) -> float:
        return self.base * draws


def shared_draws(config: TrainConfig, pass_tokens: float) -> int:
    """Draws of one chunk of completions that fit a pass together; 1 where the budget is not known."""
    width = prompt_room(config) + config.completion_length
    pairs = max(1, int(pass_tokens) // width)
    return max(1, pairs // min(pairs, config.prompts_per_step * config.group_size)) if pass_tokens else 1


def lines_of(
    config: TrainConfig, peak: float | None, pass_tokens: float, probed: dict[str, dict[int, float]], room: Room
) -> Lines:
    """From the probe where there is one, else from the run's own peak, else from the estimate of the launch form.

    Args:
        peak: most MB that a step of the run has held; probed: MB by objective and draws.
    """
    shared = shared_draws(config, pass_tokens)
    if 1 in probed.get("elbo", {}):
        one = probed["elbo"][1]
        flat = [value for draws, value in probed.get("bgpo", {}).items() if draws > 1]
        if not flat or not one:
            return Lines(one, shared, "probe")
        shared = max(shared, round(max(flat) / one))
        return Lines(one, shared, "probe", max(flat) / shared)
    if not peak:
        one = config.with_values(job="train", objective="bgpo", mc_samples=1)
        expected = estimate(one, room, int(pass_tokens))
        return Lines(expected.saved / MB, shared, "estimate") if expected else Lines(0.0, shared, "")
    objective = OBJECTIVES.get(config.objective)
    held = config.mc_samples if objective is not None and objective.retained else min(config.mc_samples, shared)
    return Lines(peak / held, shared, "run")


def memory_of(services: Services, run_id: int) -> dict[str, Any]:
    """All figures of the explorer; raises RunNotFound, and RefusedRequest for a config of another version."""
    run = get_run(services.db, run_id)
    config = _config(run)
    now = {name: value for name, (_, value) in latest(services.db, [run_id])[run_id].items()}
    whole = series(services.db, run_id, SAVED, None, None, 1)
    peak = max((bucket.maximum for bucket in whole if bucket.maximum is not None), default=None)
    probe = newest_probe(services, run_id)
    probed = probed_points(services, probe) if probe else {}
    held = {objective: points for (objective, what), points in probed.items() if what == "saved_mb"}
    used, room = now.get("memory/cuda_peak_mb") or now.get("memory/rss_mb"), room_for(config)
    lines = lines_of(config, peak, now.get(PASS_TOKENS) or config.token_budget, held, room)
    objective = OBJECTIVES.get(config.objective)
    return {
        "id": run.id, "objective": config.objective, "draws": config.mc_samples, "peak": peak,
        "retained": objective is not None and objective.retained,
        "base": lines.base, "own": lines.own, "shared": lines.shared, "source": lines.source,
        "rest": max(0.0, used - (peak or 0)) if used else 0.0,
        "room": {"name": room.name, "kind": room.kind, "mb": room.total / MB},
        "probe": probe_words(probe, probed) if probe else None,
        "estimate": beside_measured(config, int(now.get(PASS_TOKENS) or 0), peak, used),
    }


def probe_words(probe: Run, probed: dict[tuple[str, str], dict[int, float]]) -> dict[str, Any]:
    """How far the probe is, and its points as [objective, what, draws, value]."""
    points = [[*key, draws, value] for key, found in probed.items() for draws, value in sorted(found.items())]
    return {
        "id": probe.id, "status": probe.status, "word": run_words.status_word(probe), "reason": probe.reason,
        "done": probe.phase_done, "total": probe.phase_total, "finished": probe.finished_at, "points": points,
    }


def newest_probe(services: Services, run_id: int) -> Run | None:
    """The newest run that measured this one."""
    for run in list_runs(services.db):  # newest first
        config = run_words.config_of(run) if run.parent_id == run_id else None
        if config is not None and config.job == "probe":
            return run
    return None


def probed_points(services: Services, probe: Run) -> dict[tuple[str, str], dict[int, float]]:
    """{("bgpo", "saved_mb"): {draws: value}, ...} of a probe."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for point in points_after(services.db, probe.id, 0)[0]:
        area, _, rest = point.metric.partition("/")
        objective, _, what = rest.partition("_")
        if area == "probe" and objective in PROBED and point.value is not None:
            found.setdefault((objective, what), {})[point.step] = point.value
    return found


def measure(services: Services, run_id: int) -> dict[str, Any]:
    """Queues a probe of this run's config, ahead of others: it takes seconds, and somebody waits for it.

    Raises RefusedRequest, ControlError, RunNotFound.
    """
    run = get_run(services.db, run_id)
    probe = newest_probe(services, run_id)
    if probe is not None and probe.status in ("queued", "launching", "running"):
        return {"id": probe.id}
    config = _config(run).with_values(job="probe")
    name = f"memory of {run.name}"[: control.NAME_LIMIT]
    made = control.submit(services.db, config, services.runs_folder, name, parent_id=run.id, priority=HIGH)
    set_archived(services.db, [made.id], True)  # what it found is shown here; the list keeps it out of the way
    return {"id": made.id}


def _config(run: Run) -> TrainConfig:
    config = run_words.config_of(run)
    if config is None:
        raise RefusedRequest(f"The config of run {run.id} was made by another version; this one cannot read it.", 409)
    return config


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes; before any route that takes every action of a run."""

    @router.get("/runs/{run_id}/memory")
    def memory(request: Request, run_id: int) -> Response:
        return json_answer(request, memory_of(services, run_id))

    @router.post("/runs/{run_id}/measure")
    async def begin(request: Request, run_id: int) -> Response:
        await body_of(request)
        return json_answer(request, await run_in_threadpool(measure, services, run_id), 201)
