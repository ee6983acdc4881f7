"""Presets: functions that return a whole config. A variant is `adder().with_values(mc_samples=16)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgpo.config import TrainConfig


@dataclass(frozen=True)
class Preset:
    """A named config with the words that its card shows; `needs_gpu` ones are not on the first screen."""

    name: str
    title: str
    summary: str
    config: Callable[[], TrainConfig]
    needs_gpu: bool = False


def adder() -> TrainConfig:
    """Two-digit sums that need a carry; the warm start mostly forgets it."""
    return TrainConfig(task="adder")


def stack_programs() -> TrainConfig:
    """Expressions compiled to stack programs; the warm start mostly ignores precedence."""
    return TrainConfig(task="stack_programs", warmup_steps=1200, train_steps=40)


def countdown() -> TrainConfig:
    """A target and four numbers; the warm start mostly subtracts, whatever the target."""
    return TrainConfig(
        task="countdown", completion_length=4, denoising_steps=4, block_length=4, warmup_steps=4000, train_steps=80
    )


def finetune_adder() -> TrainConfig:
    """Right sums to learn from, by a model that knows nothing yet."""
    return TrainConfig(
        job="finetune", task="adder", examples="examples/adder.jsonl", train_steps=1000, eval_every=200,
        examples_per_step=32, learning_rate=2e-3, lr_warmup_steps=50, lr_schedule="linear", max_grad_norm=1.0,
        warmup_steps=0,
    )


def llada_gsm8k() -> TrainConfig:
    """BGPO's settings for mathematics (arXiv 2510.11683, section 4.1 and table 5), all weights, on one GPU.

    The paper chooses positions by the sampled token's confidence, whose probability is not the policy's; here by the
    surest prediction. Its float32 moments need several GPUs; here they have 8 bits.
    """
    return TrainConfig(
        task="gsm8k", model="llada", model_path="GSAI-ML/LLaDA-8B-Instruct", precision="bf16", optimizer="adamw8bit",
        activation_checkpointing=True, device="cuda", warmup_steps=0, mc_samples=16, prompts_per_step=16, group_size=8,
        completion_length=512, denoising_steps=256, block_length=32, temperature=0.6, remasking="max_prob",
        learning_rate=5e-7, lr_warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0, train_steps=700, eval_every=20,
        eval_problems=128,
    )


def llada_sudoku() -> TrainConfig:
    """BGPO's settings for 4x4 Sudoku (the same sections)."""
    return llada_gsm8k().with_values(
        task="sudoku", mc_samples=32, completion_length=256, denoising_steps=128, train_steps=400,
    )


PRESETS: dict[str, Preset] = {
    "adder": Preset(
        "adder", "Adder (maths), tiny model, CPU",
        "Adds two numbers. It starts out forgetting the carry, and learns from 0/1 rewards to keep it.", adder,
    ),
    "stack_programs": Preset(
        "stack_programs", "Stack programs (code), tiny model, CPU",
        "Compiles an expression to a stack program. It starts out ignoring precedence; every program it writes is "
        "executed.",
        stack_programs,
    ),
    "countdown": Preset(
        "countdown", "Countdown (planning), tiny model, CPU",
        "Reaches a target with two of four numbers. It starts out subtracting, whatever the target; every expression "
        "is evaluated.",
        countdown,
    ),
    "finetune_adder": Preset(
        "finetune_adder", "Fine-tune (supervised), tiny model, CPU",
        "Learns sums from 2,000 examples in a JSONL file, with the loss of masked diffusion. RL can start from any of "
        "its checkpoints.",
        finetune_adder,
    ),
    "llada_gsm8k": Preset(
        "llada_gsm8k", "GSM8K, LLaDA-8B, needs a GPU",
        "Needs an NVIDIA GPU of about 140 GB and a download of 16 GB. Word problems with the settings of BGPO's paper: "
        "all weights are trained.",
        llada_gsm8k, needs_gpu=True,
    ),
    "llada_sudoku": Preset(
        "llada_sudoku", "4x4 Sudoku, LLaDA-8B, needs a GPU",
        "Needs an NVIDIA GPU of about 140 GB and a download of 16 GB. Sudoku with the settings of BGPO's paper: all "
        "weights are trained.",
        llada_sudoku, needs_gpu=True,
    ),
}
