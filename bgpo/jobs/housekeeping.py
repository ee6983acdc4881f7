"""What a worker does for its own run beside training, so that it holds without an app: old checkpoints, a full disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from bgpo.jobs.retention import FREE_EVERY, LOOK_EVERY, free_checkpoints, watch_disk
from storage.database import Database, StorageError
from storage.runs import Run


class Housekeeping:
    """A thread that frees what the run's retention does not keep, and has the run paused before its disk is full.

    The app does the same for all runs; that both do it does no harm.
    """

    def __init__(self, db: Database, run: Run, say: Callable[[str], None]):
        self._db, self._run, self._say = db, run, say
        self._complained = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="housekeeping", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread, then frees once more. Call it when the last checkpoint is stored."""
        self._closing.set()
        self._thread.join()
        self._attempt(self._free)

    def _keep(self) -> None:
        looks = 0
        while not self._closing.wait(LOOK_EVERY):
            looks += 1
            self._attempt(self._watch)
            if looks % max(1, FREE_EVERY // LOOK_EVERY) == 0:
                self._attempt(self._free)

    def _watch(self) -> None:
        watch_disk(self._db, Path(self._run.folder).parent, self._run.id)

    def _free(self) -> None:
        if freed := free_checkpoints(self._db, self._run):
            self._say(f"Freed {freed} checkpoints; the first, the best, the last and those that are pinned are kept.")

    def _attempt(self, work: Callable[[], None]) -> None:
        """Whatever goes wrong, training goes on; it is said once."""
        try:
            work()
        except (OSError, StorageError) as error:
            if not self._complained:
                self._complained = True
                self._say(f"Checkpoints and disk could not be looked after ({error}); it is tried again.")
