"""Which positions a step commits, and the token that it writes there.

Axes: N masked positions of a batch, V vocabulary. Logits are float32 with the tokens that may not be written at BANNED.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BANNED = -1e9  # finite: a probability of 0 whose entropy term is 0 as well, not NaN


@dataclass(frozen=True)
class Prediction:
    """What the logits say of N positions; only what was asked for is there.

    Attributes:
        token: the likeliest; confidence: its probability at temperature 1.
        score: of the order, the higher the sooner.
        entropy: nats, at temperature 1.
    """

    token: Tensor
    confidence: Tensor
    score: Tensor
    entropy: Tensor | None


def predict(logits: Tensor, order: str, entropy: bool) -> Prediction:
    """Reads (N, V) logits, which are overwritten."""
    margin = _margin(logits) if order == "margin" else None
    top, token = logits.max(-1)
    shifted = logits.sub_(top[:, None])
    if entropy or order == "entropy":
        odds = shifted.exp()
        total = odds.sum(-1)
        nats = total.log() - torch.linalg.vecdot(odds, shifted) / total
    else:
        total, nats = shifted.exp_().sum(-1), None
    confidence = total.reciprocal()
    score = {"margin": margin, "entropy": None if nats is None else -nats}.get(order, confidence)
    return Prediction(token, confidence, score, nats)


def _margin(logits: Tensor) -> Tensor:
    first, second = logits.topk(2).values.unbind(-1)
    total = logits.logsumexp(-1)
    return (first - total).exp() - (second - total).exp()


@dataclass(frozen=True)
class Drawn:
    """Tokens for N positions, (N,) each: id, probability at temperature 1, log-probability it was drawn with."""

    token: Tensor
    confidence: Tensor
    logprob: Tensor


def likeliest(logits: Tensor) -> Drawn:
    """Temperature 0: the likeliest token, whose draw was certain."""
    top, token = logits.max(-1)
    return Drawn(token, (top - logits.logsumexp(-1)).exp(), torch.zeros_like(top))


def draw(logits: Tensor, temperature: float, race: Tensor) -> Drawn:
    """Samples softmax(logits / temperature) by an exponential race: the token whose clock rings first.

    Args:
        logits: (N, V), kept.
        race: (N, V) exponential noise, overwritten.
    """
    tempered = logits if temperature == 1 else logits / temperature
    token = (tempered - race.log_()).argmax(-1, keepdim=True)
    logprob = (tempered.gather(-1, token)[:, 0] - tempered.logsumexp(-1))
    at_one = logprob if temperature == 1 else logits.gather(-1, token)[:, 0] - logits.logsumexp(-1)
    return Drawn(token[:, 0], at_one.exp(), logprob)


def runners_up(logits: Tensor, token: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N, V) logits and the tokens committed -> the likeliest others, (N, count) ids and probabilities."""
    total = logits.logsumexp(-1, keepdim=True)
    best, ids = logits.topk(min(count + 1, logits.shape[-1]))
    itself = ids == token[:, None]
    itself[:, -1] |= ~itself.any(-1)  # the committed token is not among the best: leave out the last instead
    others = ~itself
    shape = (len(ids), ids.shape[1] - 1)
    return ids[others].view(shape), (best - total).exp()[others].view(shape)


Blind = Callable[[Tensor, Tensor], Tensor]

# orders that look at no logits: (position (N,), uniform noise (N,)) -> score (N,)
BLIND: dict[str, Blind] = {
    "random": lambda position, noise: noise,
    "left_to_right": lambda position, noise: -position.to(noise.dtype),
}
