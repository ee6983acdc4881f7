"""What a config's model knobs have to agree on. Torch-free: a form refuses what the worker would."""

from __future__ import annotations

from typing import Protocol

from bgpo.models.decoding import BLOCK_CAUSAL
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.models.registry import MODELS


class ModelKnobs(Protocol):
    """The knobs of a config that models read."""

    model: str
    model_path: str
    start_from: str
    prompt_style: str
    mask_id: int
    attention_block: int
    completion_length: int
    block_length: int
    cache: str
    eval_cache: str
    eval_lengths: str


def model_contradictions(c: ModelKnobs, prompt_length: int) -> dict[str, str]:
    """Knob -> one sentence for each that cannot hold with the others; `prompt_length` in tokens, template included."""
    family = MODELS[c.model]
    problems: dict[str, str] = {}
    if c.completion_length > family.max_completion_length:
        problems["completion_length"] = (
            f"completion_length = {c.completion_length} is longer than the {family.max_completion_length} tokens that "
            f"model = {c.model} is built for; lower completion_length or choose another model."
        )
    if family.built_in:
        for name, usual in (("model_path", "''"), ("prompt_style", "auto"), ("mask_id", -1), ("attention_block", 0)):
            value = getattr(c, name)
            if value not in (usual, ""):
                problems[name] = (
                    f"{name} = {str(value)[:60]} means nothing to model = {c.model}, which is made here; set {name} to "
                    f"{usual}, or choose the model family."
                )
        return problems
    if not c.model_path and not c.start_from:
        problems["model_path"] = (
            f"model = {c.model} has no weights to read; give a hub id or a folder in model_path, or a checkpoint in "
            "start_from."
        )
    if c.model_path and c.start_from:
        problems["start_from"] = (
            "start_from and model_path both say where the weights come from; clear one of them."
        )
    for name, length in (("completion_length", c.completion_length), *(("eval_lengths", n) for n in _lengths(c))):
        if prompt_length + length > family.max_length:
            problems[name] = (
                f"{name} = {getattr(c, name)} after prompts of up to {prompt_length} tokens is more than the "
                f"{family.max_length} that model = {c.model} was trained for; lower {name} or prompt_length."
            )
    if not family.attention_block:
        if c.attention_block:
            problems["attention_block"] = (
                f"attention_block = {c.attention_block} means nothing to model = {c.model}, in which every token sees "
                "every token; set it to 0, or model to a2d_block."
            )
        return problems
    return problems | block_contradictions(c, c.attention_block or family.attention_block)


def _lengths(c: ModelKnobs) -> list[int]:
    """Completion lengths of evaluations besides the config's own; none where the knob cannot be read."""
    try:
        return eval_lengths(c) if c.eval_lengths.strip() else []
    except ValueError:
        return []


def block_contradictions(c: ModelKnobs, block: int) -> dict[str, str]:
    """What does not fit a model that reads blocks of `block` tokens: knob -> one sentence."""
    for name, length in (("completion_length", c.completion_length), *(("eval_lengths", n) for n in _lengths(c))):
        if length % block:
            return {name: (
                f"{name} = {getattr(c, name)} holds no whole number of the model's blocks of {block} tokens; give a "
                f"multiple of {block}, or the block length it was trained with in attention_block."
            )}
    if block % c.block_length:
        return {"block_length": (
            f"block_length = {c.block_length} does not divide the model's blocks of {block} tokens, which it reads "
            f"only when those before are finished; set block_length to {block} or a divisor of it."
        )}
    return {
        name: (
            f"{name} = block_causal keeps finished blocks of {block} tokens, and block_length = {c.block_length} would "
            f"keep unfinished ones, which the model still changes; set block_length to {block}, or {name} to none."
        )
        for name in ("cache", "eval_cache") if getattr(c, name) == BLOCK_CAUSAL and block != c.block_length
    }
