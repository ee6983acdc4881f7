"""One ELBO sample per (completion, mask draw) pair; the only caller of the model in `algorithm`."""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor


class Scorer(Protocol):
    """What the ELBO needs of a model."""

    mask_id: int

    def hidden(self, ids: Tensor) -> Tensor:
        """(N, T) ids -> (N, T, D)."""

    def logits(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, V)."""


def noise(completion_ids: Tensor, masked: Tensor, mask_id: int) -> Tensor:
    """The forward process: (N, L) ids with `masked` (N, L) positions replaced by the mask token."""
    return completion_ids.masked_fill(masked, mask_id)


def estimate_elbo(model: Scorer, prompt_ids: Tensor, completion_ids: Tensor, masked: Tensor, weight: Tensor) -> Tensor:
    """ell = (L / l) * sum over masked i of log p(y_i | y with the mask, x)  (BGPO, arXiv 2510.11683, eqs. 3 to 5).

    The head runs on the masked rows alone: the other rows' logits have no part in the sum.

    Args:
        prompt_ids: (N, P) and completion_ids: (N, L), one row per pair.
        masked: (N, L) bool; weight: (N,) L / l.

    Returns:
        (N,) float32 or wider.
    """
    P = prompt_ids.shape[1]
    ids = torch.cat([prompt_ids, noise(completion_ids, masked, model.mask_id)], dim=1)  # (N, P + L)
    hidden = model.hidden(ids)[:, P:][masked]  # (M, D), M masked positions in all
    logits = model.logits(hidden)  # (M, V)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    token_logprob = -F.cross_entropy(wide, completion_ids[masked], reduction="none")  # (M,)
    row = masked.nonzero()[:, 0]
    total = torch.zeros(len(ids), dtype=token_logprob.dtype, device=ids.device).index_add(0, row, token_logprob)
    return weight * total
