"""A run that failed starts again by itself: after a while, from its newest whole checkpoint, and not for ever."""

from __future__ import annotations

import time

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs.ends import End
from storage.checkpoints import checkpoints_of
from storage.database import Database
from storage.runs import LIVE, Run, get_run, transition

# What may have passed by the time of a second try. A config, a NaN, a full disk, broken files and a card that is too
# small are the same again, with the same seed even to the same step.
PASSING = ("exception", "killed", "oom_host", "lost", "launch_timeout")
BACKOFF, LONGEST_BACKOFF = 10.0, 600.0  # seconds before the first retry; doubled for each further one


def conclude(db: Database, run: Run, end: End, who: str, **columns: object) -> bool:
    """Gives a live run its end, or queues it again where its config allows a retry; False if it has ended already."""
    now = get_run(db, run.id)  # what was asked of it may have come a moment ago
    step = newest_step(db, run.id)
    if end.status == "failed" and may_retry(now, end, step):
        wait = min(BACKOFF * 2**now.retries, LONGEST_BACKOFF)
        again = f"Starts again from {'the beginning' if step is None else f'step {step}'} in {wait:.0f} s"
        return transition(
            db, run.id, LIVE, "queued", reason=f"{again}. {end.reason}", who=who, retries=now.retries + 1,
            retry_step=step, start_at=time.time() + wait, position=0.0, failure_kind=end.kind, **columns,
        )  # fmt: skip
    return transition(db, run.id, LIVE, end.status, reason=end.reason, who=who, failure_kind=end.kind, **columns)


def may_retry(run: Run, end: End, step: int | None) -> bool:
    """Whether a run that has failed with this end, and whose newest checkpoint is at `step`, is tried again."""
    try:
        config = TrainConfig.from_json(run.config_json)
    except ConfigError:
        return False
    passing = end.kind in PASSING or (end.kind == "hung" and config.when_stalled == "restart")
    wanted = run.epoch > 0 and run.requested in (None, "hung")  # not one that a person started or wanted to end
    advanced = run.retries == 0 or (step is not None and step > (-1 if run.retry_step is None else run.retry_step))
    # a start that nobody took up cost the run nothing: an app was killed in that moment, which is to change nothing
    allowed = max(config.retries, 1) if end.kind == "launch_timeout" else config.retries
    return passing and wanted and advanced and run.retries < allowed


def newest_step(db: Database, run_id: int) -> int | None:
    """The step of the run's newest checkpoint; None if it has none."""
    saved = checkpoints_of(db, run_id)
    return saved[-1].step if saved else None
