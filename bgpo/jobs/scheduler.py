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

from bgpo.jobs import stalls
from bgpo.jobs.devices import Inventory, nvidia_gpus, offer
from bgpo.jobs.launcher import LaunchError, launch
from bgpo.jobs.leasing import devices_of, release_unused
from bgpo.jobs.settling import kill_tree, live_runs, settle
from storage.database import Database
from storage.queue import claim_next, queued_runs
from storage.runs import Run, transition
from storage.settings import cpu_slots, queue_paused

DISPATCH_EVERY = 1  # seconds
REAP_EVERY = 2  # seconds

_log = logging.getLogger(__name__)


class Scheduler:
    """APScheduler jobs on one database. As many runs compute at once as there are devices for."""

    def __init__(self, db: Database, gpus: Inventory = nvidia_gpus):
        self._db, self._gpus = db, gpus
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
        """One tick: carries out kills, takes devices back, then starts queued runs while there are devices for them."""
        for run in live_runs(self._db):
            if run.requested in ("kill", "hung"):
                kill_tree(run)
        release_unused(self._db)
        if queue_paused(self._db) or not queued_runs(self._db):
            return
        offered = offer(cpu_slots(self._db), self._gpus())
        while run := claim_next(self._db, offered):
            self._launch(run)

    def _launch(self, run: Run) -> None:
        try:
            self._runners.append(launch(self._db, run, devices_of(self._db, run.id)))
        except LaunchError as error:
            transition(
                self._db, run.id, ("launching",), "failed", reason=str(error), who="scheduler", failure_kind="exception"
            )

    def reap(self) -> None:
        """One tick: every run whose process is gone gets its end and the sentence why; those that stall are noted."""
        self._runners = [runner for runner in self._runners if runner.poll() is None]
        now = time.time()
        for run in live_runs(self._db):
            try:
                settle(self._db, run, now)
                stalls.watch(self._db, run, now)
            except Exception:  # one run's broken folder must not keep the others from being settled
                _log.exception("Run %d could not be settled", run.id)
