"""What a config's sampler knobs have to agree on. Torch-free: a form refuses what the worker would.

A rollout has to come from the policy that is trained: its log-probability is then the sum over its commits. What breaks
that is refused here, with a way to have it in evaluation instead.
"""

from __future__ import annotations

from typing import Protocol

from bgpo.models.decoding import BLOCK_CAUSAL, EXACT_CACHES, FIXED_SCHEDULES, LOW_CONFIDENCE
from bgpo.models.registry import MODELS


class SamplerKnobs(Protocol):
    """The knobs of a config that the sampler reads."""

    model: str
    attention_block: int
    completion_length: int
    denoising_steps: int
    block_length: int
    remasking: str
    schedule: str
    cache: str
    cfg_scale: float
    eval_cache: str
    eval_schedule: str
    eval_tokens_per_pass: float
    eval_lengths: str


def eval_lengths(c: SamplerKnobs) -> list[int]:
    """Completion lengths of an evaluation; raises ValueError unless the knob holds whole numbers."""
    return [int(part) for part in c.eval_lengths.split(",")] if c.eval_lengths.strip() else [c.completion_length]


def sampler_contradictions(c: SamplerKnobs, *, trains: bool) -> dict[str, str]:
    """Knob -> one sentence for each that cannot hold with the others; `trains`: rollouts are made and learned from."""
    problems = _step_contradictions(c) | _cache_contradictions(c) | _length_contradictions(c)
    return problems | (_rollout_contradictions(c) if trains else {})


def _step_contradictions(c: SamplerKnobs) -> dict[str, str]:
    length, block, steps = c.completion_length, c.block_length, c.denoising_steps
    if length % block:
        return {"block_length": (
            f"completion_length = {length} does not divide into blocks of block_length = {block}; set block_length to "
            f"a divisor of {length}, such as {_divisor(length, block)}, or completion_length to a multiple of {block}."
        )}
    evaluated = c.eval_schedule in FIXED_SCHEDULES and not c.eval_tokens_per_pass  # in as many steps
    if c.schedule not in FIXED_SCHEDULES and not evaluated:
        return {}
    blocks = length // block
    if steps % blocks:
        return {"denoising_steps": (
            f"denoising_steps = {steps} does not divide into the {blocks} blocks of block_length = {block}; use a "
            f"multiple of {blocks}, such as {max(1, steps // blocks) * blocks}, or one block of block_length = "
            f"{length}."
        )}
    if steps > length:
        return {"denoising_steps": (
            f"denoising_steps = {steps} is more than the completion_length = {length} positions there are to fill; "
            f"lower denoising_steps to {length} or raise completion_length."
        )}
    return {}


def _rollout_contradictions(c: SamplerKnobs) -> dict[str, str]:
    problems: dict[str, str] = {}
    if c.remasking == LOW_CONFIDENCE:
        problems["remasking"] = (
            "remasking = low_confidence looks at the tokens it has drawn, so rollouts would be sharper than the policy "
            "that is trained; set remasking to max_prob, or use low_confidence in eval_remasking."
        )
    if c.cache not in EXACT_CACHES:
        problems["cache"] = (
            f"cache = {c.cache} is an approximation, so rollouts would not come from the policy that is trained; set "
            "cache to none (block_causal for a block-causal model), or use it in eval_cache."
        )
    if c.cfg_scale:
        problems["cfg_scale"] = (
            f"cfg_scale = {c.cfg_scale:g} guides rollouts away from the policy that is trained; set cfg_scale to 0, or "
            "use it in eval_cfg_scale."
        )
    return problems


def _cache_contradictions(c: SamplerKnobs) -> dict[str, str]:
    attention = c.attention_block or MODELS[c.model].attention_block
    return {
        name: (
            f"{name} = block_causal is for block-causal models, and model = {c.model} is none; set {name} to none, or "
            "model to a2d_block."
        )
        for name in ("cache", "eval_cache")
        if getattr(c, name) == BLOCK_CAUSAL and not attention
    }


def _length_contradictions(c: SamplerKnobs) -> dict[str, str]:
    longest = MODELS[c.model].max_completion_length
    try:
        lengths = eval_lengths(c)
    except ValueError:
        lengths = [0]
    if not all(0 < length <= longest and length % c.block_length == 0 for length in lengths) and c.eval_lengths.strip():
        return {"eval_lengths": (
            f"eval_lengths = {c.eval_lengths[:60]} has to be whole numbers with commas between, each a multiple of "
            f"block_length = {c.block_length} and at most {longest}, such as {c.block_length},{2 * c.block_length}; "
            "correct it, or leave it empty for completion_length."
        )}
    return {}


def _divisor(length: int, near: int) -> int:
    """The divisor of `length` closest to `near`."""
    return min((d for d in range(1, length + 1) if length % d == 0), key=lambda d: abs(d - near))
