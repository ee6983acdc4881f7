"""When a run that is started now would begin, and on what: the queue's own rules, told in one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bgpo.config import TrainConfig
from bgpo.jobs import control
from bgpo.jobs.devices import Gpu, offer
from bgpo.jobs.times import time_words
from storage.database import Database
from storage.queue import Lease, Offer, free_devices, leases
from storage.runs import ENDED, LIVE, Run
from storage.settings import queue_paused
from ui.run_times import Span, remaining, span_words


@dataclass(frozen=True)
class Queue:
    """What decides when a run begins, as it is now.

    Attributes:
        offer: the devices that may be used, taken ones included; free: those that nobody has, by pool.
        gpus: the cards of this machine, in their order.
    """

    runs: Sequence[Run]
    leases: Sequence[Lease]
    offer: Offer
    free: Mapping[str, Sequence[str]]
    gpus: Sequence[Gpu]
    paused: bool
    now: float

    def pool(self, kind: str) -> tuple[str, ...]:
        return self.offer.gpu if self.offer.pool(kind) == "gpu" else self.offer.cpu

    def rivals(self, kind: str) -> list[Run]:
        """Runs that have one of the devices that this kind of run wants; CPU slots that are gone by now count."""
        gpu = self.offer.pool(kind) == "gpu"
        here = {device.rpartition(":")[0] for device in self.offer.cpu}
        holders = {
            lease.run_id for lease in self.leases
            if (lease.device in self.offer.gpu if gpu else lease.device.rpartition(":")[0] in here)
        }  # fmt: skip
        return [run for run in self.runs if run.id in holders]

    def ahead(self, kind: str, priority: int) -> list[Run]:
        """Queued runs for the same devices that go first: they may start, and are of no lower priority."""
        ended = {run.id for run in self.runs if run.status in ENDED}
        return sorted(
            (run for run in self.runs if run.status == "queued" and run.priority >= priority
             and self.offer.pool(run.device_kind) == self.offer.pool(kind)
             and (run.start_at or 0) <= self.now and (run.after_id is None or run.after_id in ended)),
            key=lambda run: run.queue_position or 0,
        )  # fmt: skip


def read_queue(db: Database, runs: Sequence[Run], slots: int, gpus: Sequence[Gpu], now: float) -> Queue:
    offered = offer(slots, list(gpus))
    return Queue(runs, leases(db), offered, free_devices(db, offered), gpus, queue_paused(db), now)


def start_words(config: TrainConfig, place: Mapping[str, Any], queue: Queue) -> str:
    """One line: "Starts now on GPU 0 (NVIDIA H100)", "Queued behind 2, about 1 h 40", ...

    Args:
        place: `priority`, `start_at` and `after_id` of the run, where they were chosen.
    """
    if queue.paused:
        return "The queue is paused: it will wait"
    after = next((run for run in queue.runs if run.id == place.get("after_id")), None)
    planned = place.get("start_at")
    if after is not None and after.status not in ENDED:
        left = remaining(after, queue.runs) if after.status in LIVE else None
        return f"Starts after run {after.id} has ended" + (f", in {span_words(left)}" if left else "")
    if planned and planned > queue.now:
        return f"Starts at {time_words(planned, queue.now)}, or when a device is free after that"
    return _turn(config, place.get("priority", 0), queue)


def _turn(config: TrainConfig, priority: int, queue: Queue) -> str:
    kind = control.device_kind(config)
    pool, rivals, ahead = queue.pool(kind), queue.rivals(kind), queue.ahead(kind, priority)
    if not pool:
        return "Waits: other programs hold the memory of every GPU"
    free = queue.free[queue.offer.pool(kind)]
    wanted = sum(run.devices for run in ahead)
    if wanted < len(free):
        return f"Starts now on {device_words(free[wanted], queue.gpus)}"
    wait = waiting_time(len(pool), rivals, ahead, queue.runs)
    before = max(1, len(rivals) + len(ahead) - len(pool) + 1)
    return f"Queued behind {before}" + (f", {span_words(wait)}" if wait else "")


def waiting_time(slots: int, rivals: Sequence[Run], ahead: Sequence[Run], runs: Sequence[Run]) -> Span | None:
    """Until a device is free for one more run; None where the length of any run before it is not known."""
    spans = [remaining(run, runs) for run in [*rivals, *ahead]]
    if any(span is None for span in spans):
        return None
    low = _free_at(slots, [span.low for span in spans if span])
    return Span(low, _free_at(slots, [span.high for span in spans if span]))


def _free_at(slots: int, lengths: Sequence[float]) -> float:
    """When one of `slots` is free again after runs of these lengths, each put on the first that is free."""
    ends = [0.0] * slots
    for length in lengths:
        first = ends.index(min(ends))
        ends[first] += length
    return min(ends)


def device_words(device: str, gpus: Sequence[Gpu]) -> str:
    """"the CPU", or "GPU 0 (its name)"."""
    number = next((index for index, gpu in enumerate(gpus) if gpu.uuid == device), None)
    return "the CPU" if number is None else f"GPU {number} ({gpus[number].name})"
