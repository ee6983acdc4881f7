"""What a training process tells the database, through one writer thread.

Training never waits for storage: it leaves points in a bounded queue. The thread writes them in one short
transaction about every 0.3 seconds, keeps the heartbeat going through a long step, and reads the stop request
back. While the database is busy or away, points wait in `spool.jsonl` in the run's folder and are replayed by
upsert, by this process, by the next one of the run, or by the scheduler when it settles the run. The health rules
look at every step on its way; their alerts travel with the points of the step, through queue and spool.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bgpo.config import KNOBS
from bgpo.jobs.mirror import Mirror
from bgpo.jobs.narrator import Narrator
from bgpo.jobs.pace import Pace, Rate
from bgpo.training.health import WATCHED, Health
from bgpo.training.metrics import explained
from storage.alerts import Alert
from storage.checkpoints import add_checkpoint
from storage.completions import Completion
from storage.database import Database, StorageError
from storage.metrics import Point, Progress, flush, values_by_step
from storage.rollouts import Rollout
from storage.runs import Run, RunNotFound

FLUSH_EVERY = 0.3  # seconds between two transactions; the first points after a pause go at once
HEARTBEAT_EVERY = 1.0  # seconds
QUEUE_LIMIT = 50_000  # items in memory; more go to the spool
BATCH = 2_000  # items per transaction
_RECALLED = 20_000  # steps that the health rules of a resumed run see again; some seconds of reading at most


@dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint on its way to its row."""

    step: int
    kind: str
    folder: str
    reward: float | None


Item = Point | Completion | SavedCheckpoint | Alert | Rollout
_ITEMS = {kind.__name__: kind for kind in (Point, Completion, SavedCheckpoint, Alert, Rollout)}


def store(db: Database, run_id: int, items: Sequence[Item], progress: Progress | None = None) -> str | None:
    """Writes items by upsert, so twice does no harm; returns what was requested of the run."""
    for item in items:
        if isinstance(item, SavedCheckpoint):
            add_checkpoint(db, run_id, item.step, item.kind, item.folder, item.reward)
    points, completions, alerts, rollouts = (
        [item for item in items if isinstance(item, kind)] for kind in (Point, Completion, Alert, Rollout)
    )
    return flush(db, run_id, points, completions, progress, alerts, rollouts)


class Spool:
    """Items that could not be written yet, one `["Point", {...}]` per line.

    Safe to call from two threads: to append never waits for the database that a replay waits for.
    """

    def __init__(self, folder: Path):
        self._path = folder / "spool.jsonl"
        self._lock = threading.Lock()  # held while the file changes

    def __bool__(self) -> bool:
        return self._path.exists()

    def append(self, items: Iterable[Item]) -> None:
        """Raises OSError when the disk does not take them either."""
        lines = [json.dumps([type(item).__name__, _values(item)]) + "\n" for item in items]
        with self._lock, open(self._path, "a") as file:
            file.writelines(["\n", *lines])  # behind the half line, perhaps, of a process that was killed

    def replay(self, db: Database, run_id: int) -> None:
        """Stores everything and removes the file. Raises what `store` raises, and then keeps it all.

        By one thread at a time.
        """
        with self._lock:
            end = self._path.stat().st_size if self else 0
        batch: list[Item] = []
        for item in self._items(end):
            batch.append(item)
            if len(batch) == BATCH:
                store(db, run_id, batch)
                batch = []
        if batch:
            store(db, run_id, batch)
        with self._lock:
            self._drop(end)

    def _items(self, end: int) -> Iterator[Item]:
        """Those in the first `end` bytes."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            for line in file:
                end -= len(line)
                if end < 0:
                    return
                # a process that was killed while writing leaves half a line
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    name, values = json.loads(line)
                    yield _ITEMS[name](**values)

    def _drop(self, end: int) -> None:
        """Removes the first `end` bytes, and the file if it holds no more."""
        with contextlib.suppress(FileNotFoundError), open(self._path, "rb") as file:
            file.seek(end)
            if rest := file.read():
                draft = self._path.with_name(self._path.name + ".new")
                draft.write_bytes(rest)
                draft.replace(self._path)
            else:
                self._path.unlink()


class Reporter:
    """The trainer's listener: turns what it hears into rows and passes it on to the narrator."""

    def __init__(self, db: Database, run: Run, narrator: Narrator):
        self._db, self._run_id, self._narrator = db, run.id, narrator
        self._spool = Spool(Path(run.folder))
        self._began, self._seconds_before = time.monotonic(), run.seconds
        self._phase, self._done, self._total, self._step = "starting", 0, 0, run.step
        self._rates: dict[str, Rate] = defaultdict(Rate)
        self._pace = Pace(KNOBS["stalled_after"].default)
        self._waiting: deque[Item] = deque()
        self._writing: list[Item] = []  # what the writer has taken and the database has not yet
        self._lock = threading.Lock()  # guards the fields above
        self._wake, self._closing = threading.Event(), threading.Event()
        self._stop = False
        self.requested: str | None = None  # the last word of the database: pause, stop, ...
        self._health: Health | None = None
        self._mirror: Mirror | None = None
        self._finally: Callable[[], None] = lambda: None
        self._away = False  # the database did not take the last batch
        self._writer = threading.Thread(target=self._write_until_closed, name="reporter", daemon=True)
        self._writer.start()

    def watch(self, health: Health) -> None:
        """From here on `health` looks at every step. It first sees what an earlier process of the run has stored."""
        try:
            for step, values in values_by_step(self._db, self._run_id, WATCHED, self._step - _RECALLED):
                health.observe(step, values)  # its alerts were stored with these points
        except StorageError as error:
            self._narrator.say(f"The health rules begin anew: earlier points cannot be read ({_first_line(error)}).")
        self._health = health

    def mirror_to(self, mirror: Mirror | None) -> None:
        """From here on `mirror` gets a copy of every step's metrics."""
        self._mirror = mirror

    def finally_do(self, work: Callable[[], None]) -> None:
        """What `close` does once the last row is written."""
        self._finally = work

    def patience(self, least: float) -> None:
        """A run counts as stalled after so many seconds without progress, at the least."""
        self._pace.least = least

    def phase(self, name: str, done: int, total: int) -> None:
        with self._lock:
            self._pace.mark(name, done)
            self._phase, self._done, self._total = name, done, total
            self._rate().update(done)
            if name == "training":
                self._step = done
        self._narrator.phase(name, done, total)
        self._wake.set()

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Raises ValueError for a name that METRICS does not explain."""
        unknown = sorted(name for name in values if explained(name) is None)
        if unknown:
            raise ValueError(f"The metric {unknown[0]} is not declared; add it to METRICS in bgpo/training/metrics.py.")
        seconds = self.seconds()
        points = [Point(name, int(step), seconds, _finite(value)) for name, value in values.items()]
        alerts = self._examine(int(step), {point.metric: point.value for point in points})
        self._put([*points, *alerts])
        if self._mirror:
            self._mirror.log(int(step), {point.metric: point.value for point in points if point.value is not None})
        self._narrator.metrics(step, values)
        for alert in alerts:
            self._narrator.say(f"{alert.severity.capitalize()} at step {alert.step}: {alert.message}")

    def completions(self, step: int, rows: Sequence[Any]) -> None:
        """`rows` are the trainer's HeldOutCompletions, which this module does not import: they come with torch."""
        self._put([_completion(step, row) for row in rows])

    def rollouts(self, step: int, kept: Sequence[Any]) -> None:
        """`kept` are the trainer's KeptRollouts, which this module does not import either."""
        self._put([_rollout(step, item) for item in kept])

    def keep(self) -> None:
        """Puts what the database does not have yet into the spool, which a kill of the process does not touch."""
        with self._lock:
            unsafe = [*self._writing, *self._waiting]
            self._waiting.clear()
        self._set_aside(unsafe)
        self._wake.set()

    def checkpoint(self, step: int, kind: str, folder: Path, reward: float | None) -> None:
        self._put([SavedCheckpoint(int(step), kind, str(folder), _finite(reward))])
        self._narrator.checkpoint(step, kind)

    def should_stop(self) -> bool:
        return self._stop

    def stop(self) -> None:
        """Asks the trainer to stop at its next look. Only sets a flag, so a signal handler may call it."""
        self._stop = True

    def seconds(self) -> float:
        """Running seconds of the run so far, over all its resumes."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def step(self) -> int:
        """The last finished training step."""
        return self._step

    def close(self) -> bool:
        """Writes what is left and ends the thread. False when some of it had to stay in the spool."""
        if self._mirror:  # first, while the heartbeat still goes
            self._mirror.close()
            self._mirror = None
        self._closing.set()
        self._wake.set()
        self._writer.join()
        self._write()
        while self._waiting and not self._away:
            self._write()
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
        self._set_aside(left)
        self._finally()
        return not (self._waiting or self._spool)

    def _examine(self, step: int, values: dict[str, float | None]) -> list[Alert]:
        if self._health is None:
            return []
        try:
            found = self._health.observe(step, values)
        except Exception as error:  # a rule that fails must not end a run
            self._health = None
            self._narrator.say(f"The health rules are switched off, one has failed ({_first_line(error)}).")
            return []
        now = time.time()
        return [Alert(item.step, item.name, item.severity, item.message, now) for item in found]

    def _rate(self) -> Rate:
        # an evaluation comes between two training steps and belongs to their rate, and so to the time left
        return self._rates["training" if self._phase == "evaluating" else self._phase]

    def _put(self, items: list[Item]) -> None:
        with self._lock:
            fits = len(self._waiting) + len(items) <= QUEUE_LIMIT
            if fits:
                self._waiting.extend(items)
        if not fits:
            self._set_aside(items)
        self._wake.set()

    def _write_until_closed(self) -> None:
        while not self._closing.is_set():
            self._wake.wait(HEARTBEAT_EVERY)
            self._wake.clear()
            self._write()
            self._closing.wait(FLUSH_EVERY)

    def _write(self) -> None:
        """One batch and the progress into the database, or into the spool."""
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
            self._writing = batch
            progress = Progress(
                self._phase, self._done, self._total, self._rate().value(), self._step, self.seconds(),
                self._pace.progress_at, self._pace.stall_after(),
            )
        try:
            if self._spool:  # before the batch: what is older is written first
                self._spool.replay(self._db, self._run_id)
            requested = store(self._db, self._run_id, batch, progress)
        except RunNotFound:
            self._narrator.say("The run's row has been deleted; stopping.")
            self._stop = True
        except Exception as error:  # whatever it is, training goes on and nothing may be lost
            self._database_away(batch, error)
        else:
            if self._away:
                self._away = False
                self._narrator.say("The database is back; everything that waited has been written.")
            self.requested = requested
            if requested:  # a kill, too: nobody may be there to carry it out
                self._stop = True
        with self._lock:
            self._writing = []

    def _database_away(self, batch: list[Item], error: Exception) -> None:
        self._set_aside(batch)
        if not self._away:
            self._away = True
            self._narrator.say(f"The database does not answer ({_first_line(error)}); points wait in the run's folder.")

    def _set_aside(self, items: list[Item]) -> None:
        if not items:
            return
        try:
            self._spool.append(items)
        except OSError:
            with self._lock:  # the disk is full as well: back into memory, whatever the limit
                self._waiting.extendleft(reversed(items))


def replay_spool(db: Database, run: Run, say: Callable[[str], None]) -> None:
    """Writes what a dead worker left in its spool; on failure it stays for the next try."""
    spool = Spool(Path(run.folder))
    if spool:
        try:
            spool.replay(db, run.id)
        except Exception as error:  # the points are safe, and the run must be settled all the same
            say(f"The points that wait in {run.folder} could not be written yet ({_first_line(error)}).")


def _completion(step: int, row: Any) -> Completion:
    return Completion(
        step=int(step), kind="held_out", index=row.index, prompt=row.prompt, completion=row.completion,
        expected=row.expected, reward=_finite(row.reward), reason=row.reason, trace=row.trace, solved=row.solved,
    )


def _values(item: Item) -> dict[str, Any]:
    return item._asdict() if isinstance(item, Point) else asdict(item)


def _rollout(step: int, kept: Any) -> Rollout:
    values = {field.name: getattr(kept, field.name) for field in fields(Rollout) if field.name != "step"}
    parts = {str(name): _finite(value) for name, value in kept.parts.items()}
    numbers = {name: _finite(values[name]) for name in ("reward", "advantage")}
    return Rollout(int(step), **values | numbers | {"parts": parts})


def _finite(value: float | None) -> float | None:
    """NaN and infinities are gaps in a plot, and JSON cannot hold them."""
    if value is None:
        return None
    number = float(value)
    return number if number - number == 0 else None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
