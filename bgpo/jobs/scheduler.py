"""The clockwork of the app: starts what is queued, carries out what was requested, settles what has ended.

It touches rows and signals, never tensors, and keeps nothing in memory that a restarted app would miss:
the database says what should be, locks and process identities say what is. So reconciling after a restart
is an ordinary tick, and two apps on one database do no harm to each other.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apscheduler.schedulers.background import BackgroundScheduler

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs import logs, runner, stalls
from bgpo.jobs.devices import Inventory, nvidia_gpus, offer
from bgpo.jobs.launcher import LaunchError, launch
from bgpo.jobs.leasing import devices_of, release_unused
from bgpo.jobs.lineage import origin_now
from bgpo.jobs.settling import kill_tree, live_runs, settle
from bgpo.jobs.stopping import GRACE, Escalation
from storage.database import Database, StorageError
from storage.queue import claim_next, queued_runs
from storage.runs import BY_FORCE, Run, settle_origin, transition
from storage.settings import cpu_slots, note_app, queue_paused

DISPATCH_EVERY = 1  # seconds
REAP_EVERY = 2  # seconds
LOGS_EVERY = 15  # seconds
PRESENT_EVERY = 10  # seconds
LATE = 5.0  # seconds without a dispatch tick, by the monotonic clock, after which the clockwork is built anew

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chore:
    """Something else to be done now and then, such as freeing old checkpoints."""

    name: str
    seconds: float
    work: Callable[[], object]


class Scheduler:
    """APScheduler jobs on one database. As many runs compute at once as there are devices for."""

    def __init__(
        self, db: Database, gpus: Inventory = nvidia_gpus, chores: Sequence[Chore] = (), grace: float = GRACE
    ):
        self._db, self._gpus = db, gpus
        self._escalation = Escalation(grace)
        own = [
            Chore("dispatch", DISPATCH_EVERY, self._dispatch_tick), Chore("reap", REAP_EVERY, self.reap),
            Chore("logs", LOGS_EVERY, self.cut_logs), Chore("presence", PRESENT_EVERY, self.be_present),
        ]
        self._chores = [*own, *chores]
        self._runners: list[subprocess.Popen[bytes]] = []  # only to bury those of ours that end; never asked for state
        self._clock: BackgroundScheduler | None = None
        self._ticked, self._ticking = time.monotonic(), False
        self._closed = threading.Event()
        self.restarts = 0  # of a clockwork that stood still

    def start(self) -> None:
        """Settles what was lost while no app was there, then ticks in the background."""
        if self._clock is not None:
            return
        for first in (self.reap, self.be_present):
            try:
                first()
            except StorageError as error:  # a disk that is full now, say: the ticks try again
                _log.warning("The scheduler starts all the same. %s", error)
        self._closed.clear()
        self._clock = self._wind_up()
        threading.Thread(target=self._watch, name="scheduler-watchdog", daemon=True).start()

    def shutdown(self) -> None:
        """Ends the ticking. Runs go on; the next app finds them."""
        self._closed.set()
        if self._clock is not None:
            self._clock.shutdown(wait=True)
            self._clock = None
            with contextlib.suppress(StorageError):
                note_app(self._db, 0.0)

    def _wind_up(self) -> BackgroundScheduler:
        self._ticked = time.monotonic()
        clock = BackgroundScheduler(timezone="UTC")  # jobs in memory: they are made here at every start
        for chore in self._chores:
            # a tick that comes late, after a suspended laptop for instance, still runs, and runs once
            clock.add_job(
                chore.work, "interval", seconds=chore.seconds, id=chore.name, max_instances=1, coalesce=True,
                misfire_grace_time=None,
            )  # fmt: skip
        clock.start()
        return clock

    def _watch(self) -> None:
        """Builds the clockwork anew when it stands still.

        APScheduler's thread ends at an exception between two jobs, and after the wall clock was set back it waits for
        the time that it had planned; either way it goes on saying that it runs.
        """
        while not self._closed.wait(LATE / 5):
            late = time.monotonic() - self._ticked > LATE and not self._ticking
            if not late or self._closed.is_set():
                continue
            self.restarts += 1
            _log.warning("The scheduler stood still and is started again.")
            stopped, self._clock = self._clock, self._wind_up()
            with contextlib.suppress(Exception):  # it may be in any state
                stopped.shutdown(wait=False)

    def _dispatch_tick(self) -> None:
        self._ticking = True
        try:
            self.dispatch()
        finally:
            self._ticked, self._ticking = time.monotonic(), False

    def dispatch(self) -> None:
        """One tick: carries out kills, takes devices back, then starts queued runs while there are devices for them."""
        live = live_runs(self._db)
        for run in live:
            if run.requested in BY_FORCE:
                kill_tree(run)
        self._escalation.look(self._db, live)
        release_unused(self._db)
        if queue_paused(self._db) or not queued_runs(self._db):
            return
        offered = offer(cpu_slots(self._db), self._gpus())
        while run := claim_next(self._db, offered):
            self._launch(run)

    def _launch(self, run: Run) -> None:
        if runner.lock_state(Path(run.folder)) == "held":
            # a process in a terminal still ends; the lease that the run has now keeps it waiting for that
            transition(self._db, run.id, ("launching",), "queued", who="scheduler", position=0.0)
            return
        try:
            _settle_origin(self._db, run)
            self._runners.append(launch(self._db, run, devices_of(self._db, run.id)))
        except (LaunchError, ConfigError) as error:
            kind = "config_invalid" if isinstance(error, ConfigError) else "exception"
            transition(
                self._db, run.id, ("launching",), "failed", reason=str(error), who="scheduler", failure_kind=kind
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

    def cut_logs(self) -> None:
        """One tick: no log of a working run grows without end."""
        for run in live_runs(self._db):
            logs.keep_within(Path(run.folder))

    def be_present(self) -> None:
        """One tick: a command line can tell whether what it queues will be started."""
        note_app(self._db, time.time())


def _settle_origin(db: Database, run: Run) -> None:
    """A run that waited for another one to end now knows the checkpoint that it begins with. Raises ConfigError."""
    try:
        config = TrainConfig.from_json(run.config_json)
    except ConfigError:
        return  # its worker says so, with a log
    if config.start_from.startswith("run:"):
        begin = origin_now(db, config)
        settle_origin(db, run.id, begin.config.to_json(), begin.parent_id, begin.parent_step)
