"""How fast a run is, and how long without progress is too long for it."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict, deque

STALL_FACTOR = 3  # times the median step
UNKNOWN_FACTOR = 5  # times the least, for a phase of which nothing has been seen: loading, a first evaluation
_REMEMBERED = 50  # steps
_RATE_WINDOW = 10.0  # seconds over which units per second are measured


class Rate:
    """Units per second over the last seconds of one phase."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, done: int) -> None:
        now = time.monotonic()
        self._seen.append((now, done))
        # two marks stay, however old: slow units have a rate too
        while len(self._seen) > 2 and self._seen[1][0] < now - _RATE_WINDOW:
            self._seen.popleft()

    def value(self) -> float | None:
        if len(self._seen) < 2:
            return None
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start and last > first else None


class Pace:
    """When there was progress last, and how many seconds without any are too many."""

    def __init__(self, least: float):
        self.least = least  # seconds; a run of quick steps may pause this long
        self.progress_at = time.time()
        self._phase, self._done, self._since = "", 0, time.monotonic()
        self._taken: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_REMEMBERED))

    def mark(self, phase: str, done: int) -> None:
        """A phase says how far it is. An evaluation is one unit, however many problems it has."""
        now = time.monotonic()
        if self._phase == "evaluating" != phase or (self._phase == phase and done > self._done):
            self._taken[self._phase].append(now - self._since)
        if (phase, done) != (self._phase, self._done):
            self._phase, self._done, self._since = phase, done, now
            self.progress_at = time.time()

    def stall_after(self) -> float:
        """Seconds without progress after which this run counts as stalled."""
        taken = self._taken.get(self._phase)
        if not taken:
            return UNKNOWN_FACTOR * self.least
        return max(self.least, STALL_FACTOR * statistics.median(taken))
