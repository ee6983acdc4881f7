"""Presets: functions that return a whole config. A variant is `adder().with_values(mc_samples=16)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bgpo.config import TrainConfig

LLADA_INSTRUCT = "GSAI-ML/LLaDA-8B-Instruct"
LENGTHS = "128,256,512"  # at which pass@1 is reported


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
    return TrainConfig(task="stack_programs", warmup_steps=1200, warmup_learning_rate=2e-3, train_steps=40)


def countdown() -> TrainConfig:
    """A target and four numbers; the warm start mostly subtracts, whatever the target."""
    return TrainConfig(
        task="countdown", completion_length=4, denoising_steps=4, block_length=4, warmup_steps=4000, train_steps=80,
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
    surest prediction. Its float32 moments need several GPUs; here they have 8 bits. It trains on GSM8K and MATH mixed;
    here each has a preset. It keeps the checkpoint that is best on the test set; here validation chooses.
    """
    return TrainConfig(
        task="gsm8k", model="llada", model_path=LLADA_INSTRUCT, precision="bf16", optimizer="adamw8bit",
        activation_checkpointing=True, device="cuda", warmup_steps=0, mc_samples=16, prompts_per_step=16, group_size=8,
        advantage="std", completion_length=512, denoising_steps=256, block_length=32, temperature=0.6,
        remasking="max_prob", learning_rate=5e-7, lr_warmup_steps=0, weight_decay=0.01, max_grad_norm=1.0,
        train_steps=700, eval_every=20, eval_problems=128, eval_lengths=LENGTHS,
    )


def llada_math() -> TrainConfig:
    """The same on MATH, held out: MATH-500."""
    return llada_gsm8k().with_values(task="math")


def llada_countdown() -> TrainConfig:
    """BGPO's settings for Countdown with three numbers (the same sections)."""
    return llada_gsm8k().with_values(
        task="countdown_numbers", data="Jiayi-Pan/Countdown-Tasks-3to4", completion_length=256, denoising_steps=128,
        train_steps=560,
    )


def llada_sudoku() -> TrainConfig:
    """BGPO's settings for 4x4 Sudoku (the same sections)."""
    return llada_gsm8k().with_values(
        task="sudoku", mc_samples=32, completion_length=256, denoising_steps=128, train_steps=400,
    )


def llada_code() -> TrainConfig:
    """BGPO's settings for code (the same sections): a token a pass, five epochs of 112 steps.

    Its 1,792 problems come from three collections; here they are MBPP's training problems.
    """
    return llada_gsm8k().with_values(task="mbpp", denoising_steps=512, train_steps=560, eval_problems=64)


def dream_gsm8k() -> TrainConfig:
    """The same objective and sizes on Dream, which chooses positions by the entropy of its prediction."""
    return llada_gsm8k().with_values(
        model="dream", model_path="Dream-org/Dream-v0-Instruct-7B", remasking="entropy", eval_remasking="entropy",
    )


def llada_evaluation(task: str, problems: int, **values: str) -> TrainConfig:
    """BGPO's settings of evaluation at 128, 256 and 512 tokens: greedy, blocks of 32, one token a pass.

    Args:
        problems: nearly all of the held-out ones; data sets hold a few twice, which are taken out.
    """
    return TrainConfig(
        job="evaluate", task=task, model="llada", model_path=LLADA_INSTRUCT, precision="bf16", device="cuda",
        warmup_steps=0, completion_length=512, denoising_steps=256, block_length=32, eval_lengths=LENGTHS,
        eval_tokens_per_pass=1, eval_problems=problems, **values,
    )


_WHOLE = "Needs an NVIDIA GPU of about 140 GB and a download of 16 GB"
_ONLY_READ = "Needs an NVIDIA GPU of about 40 GB and a download of 16 GB"


def _evaluation(task: str, title: str, needed: str, problems: int, **values: str) -> Preset:
    return Preset(
        f"evaluate_{task}", f"Evaluate {title}, LLaDA-8B, needs a GPU",
        f"{_ONLY_READ}, and {needed}. pass@1 at 128, 256 and 512 tokens before any training; nothing is trained.",
        lambda: llada_evaluation(task, problems, **values), needs_gpu=True,
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
        f"{_WHOLE}, and openai/gsm8k from the hub. Word problems with the settings of BGPO's paper: all weights are "
        "trained.",
        llada_gsm8k, needs_gpu=True,
    ),
    "llada_math": Preset(
        "llada_math", "MATH, LLaDA-8B, needs a GPU",
        f"{_WHOLE}, and DigitalLearningGmbH/MATH-lighteval and HuggingFaceH4/MATH-500 from the hub. Competition "
        "problems with the settings of BGPO's paper, held out: MATH-500.",
        llada_math, needs_gpu=True,
    ),
    "llada_countdown": Preset(
        "llada_countdown", "Countdown, LLaDA-8B, needs a GPU",
        f"{_WHOLE}, and Jiayi-Pan/Countdown-Tasks-3to4 from the hub. A target from three numbers, with the settings "
        "of BGPO's paper: all weights are trained.",
        llada_countdown, needs_gpu=True,
    ),
    "llada_sudoku": Preset(
        "llada_sudoku", "4x4 Sudoku, LLaDA-8B, needs a GPU",
        f"{_WHOLE}; the puzzles are made here. Sudoku with the settings of BGPO's paper: all weights are trained.",
        llada_sudoku, needs_gpu=True,
    ),
    "llada_code": Preset(
        "llada_code", "Code (MBPP), LLaDA-8B, needs a GPU",
        f"{_WHOLE}, google-research-datasets/mbpp from the hub, and a sandbox (the System page says whether there is "
        "one). Programs with unit tests, with the settings of BGPO's paper.",
        llada_code, needs_gpu=True,
    ),
    "dream_gsm8k": Preset(
        "dream_gsm8k", "GSM8K, Dream-7B, needs a GPU",
        "Needs an NVIDIA GPU of about 140 GB and a download of 15 GB, and openai/gsm8k from the hub. The paper's "
        "objective and sizes on another model: all weights are trained.",
        dream_gsm8k, needs_gpu=True,
    ),
} | {preset.name: preset for preset in (
    _evaluation("gsm8k", "GSM8K", "openai/gsm8k from the hub", 1300),
    _evaluation("math", "MATH-500", "HuggingFaceH4/MATH-500 and DigitalLearningGmbH/MATH-lighteval from the hub", 490),
    _evaluation("countdown_numbers", "Countdown", "Jiayi-Pan/Countdown-Tasks-3to4 from the hub", 256,
                data="Jiayi-Pan/Countdown-Tasks-3to4"),
    _evaluation("sudoku", "4x4 Sudoku", "puzzles that are made here", 256),
    _evaluation("mbpp", "code (MBPP)", "google-research-datasets/mbpp from the hub and a sandbox", 490),
    _evaluation("humaneval", "code (HumanEval)", "openai/openai_humaneval from the hub and a sandbox", 164),
)}
