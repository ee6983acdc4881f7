"""The machine under a run: device, threads, memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import torch
from torch.autograd.graph import saved_tensors_hooks

MB = 2**20
_WORTH_IT = 1.3
# beyond these a pass only takes more memory: caches on a CPU, occupied units on a GPU
_MOST_TOKENS = {"cpu": 4096, "cuda": 65_536}
_SHARE_OF_FREE = 0.5


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


def threads_for(device: torch.device, work: Callable[[], None]) -> int:
    """CPU threads for a run: the fastest count where the CPU does the work, else as many as torch has."""
    return fastest_threads(work) if device.type == "cpu" else torch.get_num_threads()


def largest_token_budget(
    device: torch.device, model: torch.nn.Module, one_pass: Callable[[int], torch.Tensor], tokens: int
) -> int:
    """Most tokens of a pass that take no more than half of the free memory, at least one pair's.

    Args:
        one_pass: number of pairs -> something to back-propagate, its graph behind it.
        tokens: of one pair.
    """
    sizes = []
    for pairs in (1, 3):
        saved = SavedBytes(model)
        with saved:
            held = one_pass(pairs)
        sizes.append(saved.peak_mb * MB)
        del held
    per_pair = max(1.0, (sizes[1] - sizes[0]) / 2)
    fitting = int(_SHARE_OF_FREE * free_bytes(device) / per_pair) * tokens
    return max(tokens, min(_MOST_TOKENS[device.type], fitting))


def free_bytes(device: torch.device) -> int:
    """What a process could still take on the device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def is_out_of_memory(error: BaseException) -> bool:
    """torch has its own class for a GPU, and says it of the CPU only in a message."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


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
