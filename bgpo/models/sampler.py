"""The denoising sampler that rollouts, evaluation and chat all use.

It starts from a fully masked completion and commits a few positions per step, block by block from left
to right. Which positions: at random, where the model is surest (`max_prob`), or where the token just
sampled is likeliest (`low_confidence`, LLaDA's published rule, arXiv 2502.09992). The last one depends on
the sampled tokens, so at T > 0 it draws from a sharper law than the policy's: evaluation and chat
may use it, rollouts may not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpo.models.denoiser import Denoiser


@dataclass(frozen=True)
class SamplerSettings:
    """How a completion is denoised. `temperature` 0 takes the likeliest token."""

    completion_length: int
    denoising_steps: int
    block_length: int
    temperature: float
    remasking: str
    masked_rows_only: bool = True  # off: the head runs on the whole block, committed positions included

    def quotas(self) -> list[tuple[int, int]]:
        """(first position of the block, positions to commit) for each step; remainders go first.

        Raises:
            ValueError: when the steps do not divide into the blocks, or outnumber the positions.
        """
        blocks, rest = divmod(self.completion_length, self.block_length)
        if rest or self.denoising_steps % blocks or self.denoising_steps > self.completion_length:
            raise ValueError(
                f"completion_length = {self.completion_length} with block_length = {self.block_length} and "
                f"denoising_steps = {self.denoising_steps} does not divide: block_length must divide "
                "completion_length, and denoising_steps must be a multiple of the number of blocks and at most "
                "completion_length."
            )
        steps_per_block = self.denoising_steps // blocks
        base, extra = divmod(self.block_length, steps_per_block)
        return [
            (block * self.block_length, base + (step < extra))
            for block in range(blocks)
            for step in range(steps_per_block)
        ]


@dataclass(frozen=True)
class StepEvent:
    """What one denoising step did. B rows, L completion positions.

    Attributes:
        step: 1..N.
        committed: (B, L) bool, positions fixed in this step.
        ids: (B, L) the canvas after the step.
        confidence: (B, L) float32 probability of the token, at temperature 1, where committed; else 0.
        logprob: (B, L) float32 log-probability that the token was drawn with (at the settings' temperature),
            where committed; else 0.
        guess_ids, guess_confidence: (B, L) the likeliest token and its probability where still masked,
            when the caller asked for guesses; else None.
    """

    step: int
    committed: Tensor
    ids: Tensor
    confidence: Tensor
    logprob: Tensor
    guess_ids: Tensor | None = None
    guess_confidence: Tensor | None = None


@dataclass(frozen=True)
class Denoised:
    """Finished completions. ids (B, L); commit_step (B, L) int, 1..N; confidence, logprob (B, L); nfe forward calls."""

    ids: Tensor
    commit_step: Tensor
    confidence: Tensor
    logprob: Tensor
    nfe: int


def denoise(
    model: Denoiser,
    prompt_ids: Tensor,
    settings: SamplerSettings,
    generator: torch.Generator,
    guesses: bool = False,
) -> Iterator[StepEvent]:
    """Fills a masked completion for each prompt, yielding each step as it is made.

    Args:
        prompt_ids: (B, P).
        generator: all randomness; the same seed gives the same completions.
        guesses: also report the current guess at each masked position (one more head call per step).

    Raises:
        ValueError: when the settings contradict each other.
    """
    quotas = settings.quotas()
    choose = _CHOOSERS[settings.remasking]
    B, P = prompt_ids.shape
    ids = torch.full((B, settings.completion_length), model.mask_id, device=prompt_ids.device)
    for step, (start, quota) in enumerate(quotas, start=1):
        block = slice(start, start + settings.block_length)
        with torch.no_grad():
            hidden = model.hidden(torch.cat([prompt_ids, ids], dim=1))[:, P:]
            positions, tokens, confidence, logprob = _choose(
                choose, model, hidden[:, block], ids[:, block], quota, settings, generator
            )
            positions = positions + start
            before = ids
            ids = ids.scatter(1, positions, tokens)
            event = StepEvent(
                step=step,
                committed=before != ids,  # a committed token is never the mask token, so it differs
                ids=ids,
                confidence=torch.zeros(ids.shape, device=ids.device).scatter(1, positions, confidence),
                logprob=torch.zeros(ids.shape, device=ids.device).scatter(1, positions, logprob),
                **(_guesses(model, hidden) if guesses else {}),
            )
        yield event


def complete(
    model: Denoiser,
    prompt_ids: Tensor,
    settings: SamplerSettings,
    generator: torch.Generator,
    check: Callable[[], None] = lambda: None,
) -> Denoised:
    """Runs `denoise` to its end. `check` is called between steps and may raise to leave early."""
    commit_step = torch.zeros(len(prompt_ids), settings.completion_length, dtype=torch.long, device=prompt_ids.device)
    confidence = torch.zeros(commit_step.shape, device=prompt_ids.device)
    logprob = torch.zeros_like(confidence)
    for event in denoise(model, prompt_ids, settings, generator):
        commit_step += event.step * event.committed
        confidence += event.confidence
        logprob += event.logprob
        check()
    return Denoised(event.ids, commit_step, confidence, logprob, nfe=event.step)


def _probabilities(model: Denoiser, hidden: Tensor) -> Tensor:
    """(..., D) -> (..., V) float32 at temperature 1, with the tokens that may not be written at 0."""
    logits = model.logits(hidden).float()
    logits[..., model.banned_ids] = -torch.inf
    return logits.softmax(-1)


def _choose(choose, model, hidden, ids, quota, settings, generator):
    """Applies a rule to the block's masked rows, the only ones it may pick; (B, quota) each, positions in the block."""
    if not settings.masked_rows_only:
        return choose(model, hidden, ids, quota, settings, generator)
    masked = (ids == model.mask_id).nonzero()[:, 1].view(len(ids), -1)  # (B, m): every row has as many left
    positions, *rest = choose(model, _at(hidden, masked), ids.gather(1, masked), quota, settings, generator)
    return masked.gather(1, positions), *rest


def _top(score: Tensor, ids: Tensor, quota: int, mask_id: int) -> Tensor:
    """(B, block) scores -> (B, quota) masked positions with the highest; ties go to the lowest position."""
    score = score.masked_fill(ids != mask_id, -torch.inf)
    return score.argsort(dim=1, descending=True, stable=True)[:, :quota]


def _at(values: Tensor, positions: Tensor) -> Tensor:
    """(B, block, X) and (B, quota) -> (B, quota, X)."""
    return values.gather(1, positions[..., None].expand(-1, -1, values.shape[-1]))


def _commit(
    probabilities: Tensor, settings: SamplerSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., V) -> token ids, their probability at temperature 1 and the log-probability they were drawn with, (...).

    Exponential races in float32: half-precision noise cannot lift rare tokens.
    """
    T = settings.temperature
    if T == 0:
        confidence, tokens = probabilities.max(-1)
        return tokens, confidence, torch.zeros_like(confidence)
    tempered = probabilities if T == 1 else (probabilities.log() / T).softmax(-1)
    race = torch.empty_like(tempered).exponential_(generator=generator)
    tokens = (tempered / race).argmax(-1)
    drawn, confidence = (p.gather(-1, tokens[..., None])[..., 0] for p in (tempered, probabilities))
    return tokens, confidence, drawn.log()


def _choose_random(model, hidden, ids, quota, settings, generator):
    score = torch.rand(ids.shape, generator=generator, device=ids.device)
    positions = _top(score, ids, quota, model.mask_id)
    # positions do not depend on the logits, so only these rows need the head
    return positions, *_commit(_probabilities(model, _at(hidden, positions)), settings, generator)


def _choose_max_prob(model, hidden, ids, quota, settings, generator):
    probabilities = _probabilities(model, hidden)  # (B, block, V)
    positions = _top(probabilities.amax(-1), ids, quota, model.mask_id)
    return positions, *_commit(_at(probabilities, positions), settings, generator)


def _choose_low_confidence(model, hidden, ids, quota, settings, generator):
    tokens, confidence, logprob = _commit(_probabilities(model, hidden), settings, generator)  # (B, block) each
    positions = _top(confidence, ids, quota, model.mask_id)
    return positions, *(values.gather(1, positions) for values in (tokens, confidence, logprob))


_CHOOSERS = {
    "random": _choose_random,
    "max_prob": _choose_max_prob,
    "low_confidence": _choose_low_confidence,
}


def _guesses(model: Denoiser, hidden: Tensor) -> dict[str, Tensor]:
    confidence, ids = _probabilities(model, hidden).max(-1)
    return {"guess_ids": ids, "guess_confidence": confidence}
