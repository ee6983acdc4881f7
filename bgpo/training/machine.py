"""The machine under a run: device, threads, memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks

MB = 2**20
_WORTH_IT = 1.3


def choose_device(name: str) -> torch.device:
    """"auto" takes a GPU when there is one; raises ValueError when "cuda" is asked for and missing."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = cuda, but this machine shows no usable GPU; set device to auto or cpu.")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def fastest_threads(work: Callable[[], None], seconds: float = 0.25) -> int:
    """Times `work` at 1, 2 and all physical cores; more than one must be worth it.

    On a small model a second thread gains little, and on a busy machine it waits for the first: many times slower
    than one was measured. So a count has to be 1.3 times as fast as one thread to be taken.
    """
    cores = psutil.cpu_count(logical=False) or 1
    speeds: dict[int, float] = {}
    for threads in sorted({1, min(2, cores), cores}):
        torch.set_num_threads(threads)
        work()
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            work()
            rounds += 1
        speeds[threads] = rounds / (time.perf_counter() - start)
    best = max(speeds, key=speeds.__getitem__)
    return best if speeds[best] > _WORTH_IT * speeds[1] else 1


class SavedBytes(saved_tensors_hooks):
    """Counts the bytes that autograd holds for backward: each storage once, parameters not at all.

    `peak_mb` is the most that was alive at one time since the object was made.
    """

    def __init__(self, model: torch.nn.Module):
        self._ours = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._users: dict[int, int] = {}
        self._alive = 0
        self._peak = 0
        super().__init__(self._pack, lambda held: held.tensor)

    @property
    def peak_mb(self) -> float:
        return self._peak / MB

    def _pack(self, tensor: torch.Tensor) -> _Held:
        return _Held(tensor, self)

    def _hold(self, address: int, size: int) -> None:
        users = self._users.get(address, 0)
        self._users[address] = users + 1
        if not users and address not in self._ours:
            self._alive += size
            self._peak = max(self._peak, self._alive)

    def _release(self, address: int, size: int) -> None:
        self._users[address] -= 1
        if not self._users[address]:
            del self._users[address]
            if address not in self._ours:
                self._alive -= size


class _Held:
    """One saved tensor; its end is the moment that autograd lets go of it."""

    __slots__ = ("_key", "_meter", "tensor")

    def __init__(self, tensor: torch.Tensor, meter: SavedBytes):
        storage = tensor.untyped_storage()
        self.tensor = tensor.detach()  # the tensor itself would hold the graph that holds this
        self._meter = meter
        self._key = (storage.data_ptr(), storage.nbytes())
        meter._hold(*self._key)

    def __del__(self) -> None:
        self._meter._release(*self._key)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Resident memory of this process and, on a GPU, the peak allocated there, in MB."""
    values = {"memory/rss_mb": psutil.Process().memory_info().rss / MB}
    if device.type == "cuda":
        values["memory/cuda_peak_mb"] = torch.cuda.max_memory_allocated(device) / MB
    return values
