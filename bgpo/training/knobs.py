"""What a config's knobs of memory, fine-tuning and restarts have to agree on.

Torch-free: a form refuses what the worker would.
"""

from __future__ import annotations

from typing import Protocol

PRECISIONS = ("fp32", "bf16", "bf16_pure")
ADAPTERS = ("none", "lora")
LORA_TARGETS = ("all", "attention", "mlp")
QUANTIZATIONS = ("none", "4bit")
OPTIMIZERS = ("adamw", "adamw8bit")
LONG_EXAMPLES = ("refuse", "skip")
# AdamW moves a weight by about the learning rate; a bfloat16 of the usual 0.02 takes no step below 0.02 / 512
LEAST_PURE_RATE = 3e-5
_LONGEST_SHOWN = 60


class TrainingKnobs(Protocol):
    """The knobs of a config that decide where and how a run computes, beside what it learns."""

    job: str
    examples: str
    device: str
    precision: str
    adapter: str
    quantization: str
    optimizer: str
    learning_rate: float
    token_budget: int
    completion_length: int
    when_stalled: str
    retries: int


def training_contradictions(c: TrainingKnobs, prompt_length: int) -> dict[str, str]:
    """Knob -> one sentence for each that cannot hold with the others; `prompt_length` in tokens, template included."""
    problems: dict[str, str] = {}
    tokens = prompt_length + c.completion_length
    if 0 < c.token_budget < tokens:
        problems["token_budget"] = (
            f"token_budget = {c.token_budget} does not hold one prompt and completion_length = {c.completion_length} "
            f"({tokens} tokens together); raise token_budget to {tokens} or more, or to 0 (automatic), or lower "
            "completion_length."
        )
    if c.when_stalled == "restart" and not c.retries:
        problems["when_stalled"] = (
            "when_stalled = restart with retries = 0 would never restart; set retries to 1 or more, or when_stalled to "
            "show or kill."
        )
    return problems | _memory_contradictions(c) | _finetune_contradictions(c)


def _memory_contradictions(c: TrainingKnobs) -> dict[str, str]:
    problems: dict[str, str] = {}
    if c.quantization != "none" and c.adapter == "none":
        problems["quantization"] = (
            f"quantization = {c.quantization} freezes the weights, and adapter = none leaves nothing to train; set "
            "adapter to lora, or quantization to none."
        )
    for name, usual in (("quantization", "none"), ("optimizer", "adamw")):
        if getattr(c, name) != usual and c.device == "cpu":
            problems.setdefault(name, (
                f"{name} = {getattr(c, name)} needs an NVIDIA GPU, and device = cpu; set {name} to {usual}, or device "
                "to auto or cuda."
            ))
    if c.precision == "bf16_pure" and c.adapter == "none" and c.learning_rate < LEAST_PURE_RATE:
        problems["precision"] = (
            f"precision = bf16_pure rounds nearly every step of learning_rate = {c.learning_rate:g} away; set "
            f"precision to bf16, adapter to lora, or learning_rate to {LEAST_PURE_RATE:g} or more."
        )
    return problems


def _finetune_contradictions(c: TrainingKnobs) -> dict[str, str]:
    if c.job == "finetune" and not c.examples:
        return {"examples": "job = finetune has nothing to learn from; name a JSONL file or a hub id in examples."}
    if c.job != "finetune" and c.examples:
        return {"examples": (
            f"examples = {c.examples[:_LONGEST_SHOWN]} is not used by job = {c.job}; set job to finetune, or clear "
            "examples."
        )}
    return {}
