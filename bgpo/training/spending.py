"""What training has spent so far, counted at the model and not timed, so that a busy machine does not change it.

A token in a forward pass counts 1, one in a forward and backward pass 3: a backward pass is twice a forward pass. What
a step forwards counts, whichever policy does it; the warm start and held-out evaluations do not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Spending:
    """Attributes:
    tokens: written by rollouts, up to and including end tokens.
    compute: tokens forwarded, those of backward passes three times.
    """

    def __init__(self, tokens: int = 0, compute: int = 0):
        self.tokens = tokens
        self.compute = compute
        self._step: int | None = None  # of the step under way; None outside of steps

    def watch(self, model: torch.nn.Module) -> None:
        """Counts what goes through this model from now on: every pass embeds each of its tokens once."""
        model.get_input_embeddings().register_forward_hook(self._embedded)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Counts one training step; a step that is left early has spent nothing, since it is done again."""
        self._step = 0
        try:
            yield
            self.compute += self._step
        finally:
            self._step = None

    def metrics(self) -> dict[str, float]:
        return {"progress/tokens": float(self.tokens), "progress/compute": float(self.compute)}

    def _embedded(self, module: torch.nn.Module, arguments: tuple[Any, ...], output: torch.Tensor) -> None:
        if self._step is not None:
            self._step += output.shape[:-1].numel() * (3 if torch.is_grad_enabled() else 1)
