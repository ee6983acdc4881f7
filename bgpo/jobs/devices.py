"""What there is to compute with: NVIDIA GPUs, asked of the driver, and as many CPU slots as somebody has set.

A run leases its devices (`storage.queue`). GPUs go by their UUID, since their order may change from boot to boot.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache

import pynvml

from storage.queue import Offer

FOREIGN_SHARE = 0.1  # of a card's memory: so much in the hands of other people's processes, and no run is put there
CPU_PREFIX = "cpu@"


@dataclass(frozen=True)
class Gpu:
    """One card as it is now; memory in bytes.

    Attributes:
        processes: (pid, bytes) of the processes that the driver names; in a container it often names none.
        busy: per cent, None where the driver does not say.
    """

    uuid: str
    name: str
    total: int
    used: int
    busy: int | None = None
    processes: tuple[tuple[int, int], ...] = ()

    def foreign(self, ours: Collection[int] = ()) -> int:
        """Bytes that processes other than `ours` hold. What the driver names nobody for counts once it is much."""
        unnamed = self.used - sum(held for _, held in self.processes)
        strange = sum(held for pid, held in self.processes if pid not in ours)
        return strange + (unnamed if unnamed > FOREIGN_SHARE * self.total else 0)

    def avoided(self, ours: Collection[int] = ()) -> bool:
        """Whether other people use the card so much that no run is put there."""
        return self.foreign(ours) > FOREIGN_SHARE * self.total


Inventory = Callable[[], list[Gpu]]


def nvidia_gpus() -> list[Gpu]:
    """The cards of this machine; empty without a driver."""
    if not _driver():
        return []
    found = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            found.append(_gpu(pynvml.nvmlDeviceGetHandleByIndex(index)))
        except pynvml.NVMLError:  # a card that has fallen off the bus must not hide the others
            continue
    return found


@cache
def _driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    return True


def _gpu(handle) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        _text(pynvml.nvmlDeviceGetUUID(handle)), _text(pynvml.nvmlDeviceGetName(handle)), int(memory.total),
        int(memory.used), _busy(handle), _processes(handle),
    )


def _busy(handle) -> int | None:
    try:
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


def _processes(handle) -> tuple[tuple[int, int], ...]:
    try:
        running = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
    except pynvml.NVMLError:
        return ()
    return tuple((process.pid, int(process.usedGpuMemory or 0)) for process in running)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def cpu_devices(slots: int) -> tuple[str, ...]:
    """The CPU slots of this machine by id."""
    return tuple(f"{CPU_PREFIX}{platform.node() or 'here'}:{number}" for number in range(slots))


def is_cpu(device: str) -> bool:
    return device.startswith(CPU_PREFIX)


def offer(slots: int, gpus: list[Gpu]) -> Offer:
    """What runs may be put on now. The app itself may hold a model, for chat: that is no stranger."""
    usable = tuple(gpu.uuid for gpu in gpus if not gpu.avoided({os.getpid()}))
    return Offer(cpu_devices(slots), usable, bool(gpus))
