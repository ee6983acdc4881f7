"""A run that lives and makes no progress: shown first, and then, if it stays so, what its config wants is done."""

from __future__ import annotations

from bgpo.config import ConfigError, TrainConfig
from storage.database import Database
from storage.runs import Run, mark_stalled, request

ACTED_AFTER = 1 / 3  # of what counted as stalled: at four times the median step, or when a suspended machine is awake


def quiet_seconds(run: Run, now: float) -> float:
    """How long a running run has made no progress."""
    return max(0.0, now - run.progress_at) if run.status == "running" and run.progress_at else 0.0


def is_stalled(run: Run, now: float) -> bool:
    return run.stall_after is not None and quiet_seconds(run, now) > run.stall_after


def watch(db: Database, run: Run, now: float) -> None:
    """One look at a run: notes that it has stalled or goes on again, and ends it where its config says so."""
    if not is_stalled(run, now):
        if run.stalled_at is not None:
            mark_stalled(db, run.id, None, "It makes progress again.")
        return
    quiet = quiet_seconds(run, now)
    if run.stalled_at is None:
        mark_stalled(db, run.id, now, f"No progress for {quiet:.0f} s, where {run.stall_after:.0f} s are too many.")
    elif now - run.stalled_at > ACTED_AFTER * run.stall_after and policy(run) != "show" and not run.requested:
        request(db, run.id, "hung", who="scheduler")


def policy(run: Run) -> str:
    """show, restart or kill."""
    try:
        return TrainConfig.from_json(run.config_json).when_stalled
    except ConfigError:
        return "show"
