"""The clockwork of the app: starts what is queued, carries out what was requested, settles what has ended.

It touches rows and signals, never tensors, and keeps nothing in memory that a restarted app would miss:
the database says what should be, locks and process identities say what is. So reconciling after a restart
is an ordinary tick, and two apps on one database do no harm to each other.
"""

from __future__ import annotations

import logging
import subprocess
import time

from apscheduler.schedulers.background import BackgroundScheduler

from bgpo.jobs.launcher import LaunchError, launch
from bgpo.jobs.settling import kill_tree, live_runs, settle
from storage.database import Database
from storage.runs import Run, claim_next, transition

DISPATCH_EVERY = 1  # seconds
REAP_EVERY = 2  # seconds

_log = logging.getLogger(__name__)


class Scheduler:
    """Two APScheduler jobs, `dispatch` and `reap`, on one database. At most `cpu_slots` runs train at once."""

    def __init__(self, db: Database, cpu_slots: int = 1):
        if cpu_slots < 1:
            raise ValueError(f"cpu_slots = {cpu_slots} would never start a run; give 1 or more")
        self._db, self._cpu_slots = db, cpu_slots
        self._runners: list[subprocess.Popen[bytes]] = []  # only to bury those of ours that end; never asked for state
        self._clock: BackgroundScheduler | None = None

    def start(self) -> None:
        """Settles what was lost while no app was there, then ticks in the background."""
        if self._clock is not None:
            return
        self.reap()
        self._clock = BackgroundScheduler(timezone="UTC")  # jobs in memory: they are made here at every start
        for name, tick, seconds in (("dispatch", self.dispatch, DISPATCH_EVERY), ("reap", self.reap, REAP_EVERY)):
            # a tick that comes late, after a suspended laptop for instance, still runs, and runs once
            self._clock.add_job(
                tick, "interval", seconds=seconds, id=name, max_instances=1, coalesce=True, misfire_grace_time=None
            )
        self._clock.start()

    def shutdown(self) -> None:
        """Ends the ticking. Runs go on; the next app finds them."""
        if self._clock is not None:
            self._clock.shutdown(wait=True)
            self._clock = None

    def dispatch(self) -> None:
        """One tick: carries out kills, then starts queued runs while there are free slots."""
        live = live_runs(self._db)
        for run in live:
            if run.requested == "kill":
                kill_tree(run)
        for _ in range(self._cpu_slots - len(live)):
            run = claim_next(self._db)
            if run is None or self._give_back(run):
                return
            try:
                self._runners.append(launch(self._db, run))
            except LaunchError as error:
                transition(self._db, run.id, ("launching",), "failed", reason=str(error), who="scheduler")

    def _give_back(self, claimed: Run) -> bool:
        """Queues a run again when another app took the last slot between our look and our claim."""
        live = sorted(live_runs(self._db), key=lambda run: (run.status != "running", run.heartbeat_at, run.id))
        if claimed.id in [run.id for run in live[: self._cpu_slots]]:
            return False
        return transition(self._db, claimed.id, ("launching",), "queued", reason="", who="scheduler")

    def reap(self) -> None:
        """One tick: every run whose process is gone gets its end and the sentence why."""
        self._runners = [runner for runner in self._runners if runner.poll() is None]
        now = time.time()
        for run in live_runs(self._db):
            try:
                settle(self._db, run, now)
            except Exception:  # one run's broken folder must not keep the others from being settled
                _log.exception("Run %d could not be settled", run.id)
