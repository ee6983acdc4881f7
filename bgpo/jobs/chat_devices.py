"""Where an answer is computed: on a GPU that nobody has, or on the CPU. Runs go first: chat takes no device away."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bgpo.config import TrainConfig
from bgpo.jobs.chat_settings import ChatError
from bgpo.jobs.devices import Gpu, Inventory, nvidia_gpus
from bgpo.models.registry import MODELS
from storage.queue import Lease

if TYPE_CHECKING:
    import torch

CPU, GPU = "cpu", "gpu"
REFUSE, WAIT = "refuse", "wait"  # what a question does while every GPU is taken; CPU: it is answered there


@dataclass(frozen=True)
class Seat:
    """A device for one answer. `pool` is "cpu" or "gpu", `uuid` the card's, `words` its name for people."""

    pool: str
    uuid: str = ""
    words: str = "the CPU"

    def torch_device(self) -> torch.device:
        """Raises ChatError when torch does not see the card that the driver names."""
        import torch

        if self.pool == CPU:
            return torch.device("cpu")
        for index in range(torch.cuda.device_count()):
            if str(torch.cuda.get_device_properties(index).uuid) == self.uuid.removeprefix("GPU-"):
                return torch.device("cuda", index)
        raise ChatError(f"torch does not see {self.words}; answer on the CPU.", "device")


class GpuTaken(ChatError):
    """Every GPU is in use.

    Attributes:
        runs: ids of the runs that hold them; empty where programs of others do.
    """

    def __init__(self, sentence: str, runs: tuple[int, ...]):
        self.runs = runs
        super().__init__(sentence, "device")


class Seats:
    """The devices of this machine as a chat sees them.

    Args:
        leases: what runs hold.
    """

    def __init__(self, leases: Callable[[], list[Lease]], gpus: Inventory = nvidia_gpus):
        self._leases, self._gpus = leases, gpus

    def pool(self, wish: str, instead: bool = False) -> str:
        """The pool that a wish for "cpu" or "gpu" comes to on this machine; `instead`: the CPU if no GPU is free."""
        if wish != GPU or not self._gpus():
            return CPU
        try:
            return self.choose(GPU).pool
        except GpuTaken:
            return CPU if instead else GPU

    def choose(self, pool: str, last: str = "") -> Seat:
        """A seat of a pool; the CPU's where there is no GPU. Raises GpuTaken.

        Args:
            last: the card that still holds a model, which is taken again if it may be.
        """
        cards = self._gpus() if pool == GPU else []
        if not cards:
            return Seat(CPU)
        held = {lease.device: lease.run_id for lease in self._leases()}
        free = [card for card in cards if card.uuid not in held and not card.avoided({os.getpid()})]
        if free:
            card = next((card for card in free if card.uuid == last), free[0])
            return Seat(GPU, card.uuid, card_words(cards, card))
        runs = tuple(sorted({held[card.uuid] for card in cards if card.uuid in held}))
        raise GpuTaken(taken_words(cards, held), runs)

    def given_away(self, seat: Seat) -> bool:
        """Whether a run has taken the seat's card since."""
        return seat.pool == GPU and any(lease.device == seat.uuid for lease in self._leases())


def pool_of(config: TrainConfig) -> str:
    """Where a run's checkpoints answer: where the run computes, but the built-in model always on the CPU, which is
    as fast for it."""
    return CPU if MODELS[config.model].built_in or config.device == "cpu" else GPU


def card_words(cards: list[Gpu], card: Gpu) -> str:
    return f"GPU {cards.index(card)} ({card.name})"


def taken_words(cards: list[Gpu], held: dict[str, int]) -> str:
    """`"Run 3 holds GPU 0 (NVIDIA H100)."`, one sentence per card."""
    return " ".join(
        f"Run {held[card.uuid]} holds {card_words(cards, card)}." if card.uuid in held
        else f"Programs of others hold {card_words(cards, card)}." for card in cards
    )
