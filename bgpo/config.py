"""Every knob of a run, declared once: default, sentence, range, group.

The form, the command line, the stored row and the trainer all read this class; a knob added here
appears in each of them. Torch-free, so that the web process can import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from bgpo.algorithm.advantages import ADVANTAGES
from bgpo.algorithm.kl import KL_ESTIMATORS
from bgpo.algorithm.knobs import (
    CUSTOM,
    FRESH_MASKS,
    KL_REFERENCES,
    LENGTH_NORMALIZATIONS,
    MASK_DRAWS,
    objective_contradictions,
)
from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.knob import ConfigError, Knob, knob, knob_of, sentences, shown
from bgpo.models.decoding import CACHES, LOW_CONFIDENCE, ORDERS, ROLLOUT_ORDERS, SCHEDULES
from bgpo.models.decoding_knobs import sampler_contradictions
from bgpo.models.knobs import model_contradictions
from bgpo.models.registry import MODELS
from bgpo.tasks.checkers import CHECKERS
from bgpo.tasks.knobs import task_contradictions
from bgpo.tasks.registry import PROTOCOLS, TASKS
from bgpo.training.knobs import (
    ADAPTERS,
    LONG_EXAMPLES,
    LORA_TARGETS,
    OPTIMIZERS,
    PRECISIONS,
    QUANTIZATIONS,
    training_contradictions,
)

LR_SCHEDULES = ("constant", "linear")
PROMPT_STYLES = ("auto", "chat", "plain")
EVAL_ORDERS = (LOW_CONFIDENCE, *ROLLOUT_ORDERS)
STALL_POLICIES = ("show", "restart", "kill")
MIRRORS = ("none", "tensorboard", "wandb", "trackio")  # each opened in bgpo/jobs/mirror.py
JOBS = ("train", "finetune", "evaluate", "probe")  # each has a function in bgpo/jobs/worker.py

GROUPS = ("Task", "Model", "Objective", "Rollouts", "Optimiser", "Evaluation", "Warm start", "Fine-tuning", "Machine")


class TrainConfig(BaseModel):
    """One run, completely. Frozen; a variant is `config.with_values(mc_samples=16)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str = knob("adder", "Problems, prompts and the reward.", group="Task", choices=TASKS)
    model: str = knob("tiny", "Model family that is trained.", group="Task", choices=MODELS)
    data: str = knob(
        "", "Problems to read in place of the published ones: a hub id, a file (jsonl, parquet, csv) or a folder with "
        "train and test files.",
        group="Task",
    )
    checker: str = knob(
        "exact", "How task own_data judges an answer: as text, as maths, by what the completion contains, or by "
        "running unit tests.",
        group="Task", choices=CHECKERS, rare=True,
    )
    task_file: str = knob(
        "", "A Python file with problems(split), prompt(problem) and reward(problem, completion), for task = own_file.",
        group="Task", rare=True,
    )
    protocol: str = knob(
        "auto", "Whose prompt, answer form and reward: BGPO's paper, d1's (also wd1 and SPG), ESPO's, coupled-GRPO's; "
        "auto: the task's first.",
        group="Task", choices=PROTOCOLS, rare=True,
    )
    prompt_length: int = knob(
        0, "Longest prompt without the chat template; longer training problems are left out. 0: the task's own.",
        group="Task", low=0, high=32_768, unit="tokens", rare=True,
    )
    seed: int = knob(0, "Same seed, same run: data, masks, rollouts.", group="Task", low=0, high=2**31 - 1)
    job: str = knob("train", "What the run's process does.", group="Task", choices=JOBS, rare=True)

    model_path: str = knob(
        "", "Where the weights of a published model are: a hub id, such as GSAI-ML/LLaDA-8B-Instruct, or a folder.",
        group="Model",
    )
    start_from: str = knob(
        "", "A checkpoint to start from: run:12@40 (run 12, step 40), run:12 (its newest), or a checkpoint's folder. "
        "There is no warm start then.",
        group="Model",
    )
    prompt_style: str = knob(
        "auto", "Prompts in the model's chat template, or as they are; auto: the template where there is one. Base "
        "models may have one and not know it.",
        group="Model", choices=PROMPT_STYLES, rare=True,
    )
    mask_id: int = knob(
        -1, "Id of the mask token; -1: what the model's files or its family say.",
        group="Model", low=-1, high=10_000_000, rare=True,
    )
    attention_block: int = knob(
        0, "Tokens in a block of a block-diffusion model; 0: the family's 32.", group="Model", low=0, high=4096,
        unit="tokens", rare=True,
    )
    precision: str = knob(
        "fp32", "Weights in float32; in bfloat16 with float32 master weights; or in bfloat16 alone, where small steps "
        "are rounded away.",
        group="Model", choices=PRECISIONS,
    )
    adapter: str = knob(
        "none", "Train all weights, or a LoRA adapter beside frozen ones: less memory, small checkpoints.",
        group="Model", choices=ADAPTERS,
    )
    activation_checkpointing: bool = knob(
        False, "Keep only the input of each layer for the backward pass and compute the rest again: about a third more "
        "time, a fraction of the memory.",
        group="Model",
    )
    lora_rank: int = knob(16, "Rank of the adapter's matrices.", group="Model", low=1, high=1024, rare=True)
    lora_alpha: float = knob(
        32.0, "The adapter's output is scaled by lora_alpha / lora_rank.", group="Model", low=0.01, high=4096, rare=True
    )
    lora_dropout: float = knob(
        0.0, "Dropout before the adapter in fine-tuning. RL has none: old and new policy must be one function.",
        group="Model", low=0, high=0.9, rare=True,
    )
    lora_targets: str = knob(
        "all", "Which matrices of each layer get an adapter.", group="Model", choices=LORA_TARGETS, rare=True
    )
    quantization: str = knob(
        "none", "Hold the frozen weights under an adapter in 4 bits (NF4, by bitsandbytes, on an NVIDIA GPU).",
        group="Model", choices=QUANTIZATIONS, rare=True,
    )

    objective: str = knob(
        "bgpo", "What each update maximises.", group="Objective", choices=(*OBJECTIVES, CUSTOM),
    )
    mc_samples: int = knob(
        4, "Mask draws per completion (the paper's n_t). More draws, a steadier ELBO estimate.",
        group="Objective", low=1, high=1024,
    )
    advantage: str = knob(
        "mean", "How the rewards of a group become advantages.", group="Objective", choices=ADVANTAGES,
    )
    updates_per_rollout: int = knob(
        1, "Optimiser steps per batch of rollouts; 1 is strictly on-policy.", group="Objective", low=1, high=64,
    )
    clip_epsilon: float = knob(
        0.0, "Where objectives with a clip cut the ratio: 1 - e to 1 + e. 0 takes the published value.",
        group="Objective", low=0, high=10, rare=True,
    )
    kl_coefficient: float = knob(
        0.0, "Weight of the KL to the reference; 0: none, and no pass is spent on it.",
        group="Objective", low=0, high=100, rare=True,
    )
    kl_estimator: str = knob(
        "k2", "How the KL is estimated: k1 (the log ratio), k2 (its square, halved), k3.",
        group="Objective", choices=KL_ESTIMATORS, rare=True,
    )
    kl_reference: str = knob(
        "start", "What the KL holds on to: the policy that training started from, or the one that made the rollouts.",
        group="Objective", choices=KL_REFERENCES, rare=True,
    )
    mask_draws: str = knob(
        "auto", "How the mask draws of a completion relate; auto: as the objective was published, stratified for BGPO.",
        group="Objective", choices=MASK_DRAWS, rare=True,
    )
    share_masks: bool = knob(
        False, "Give all completions of a problem the same masks, so that noise they share cancels.",
        group="Objective", rare=True,
    )
    fresh_masks: str = knob(
        "auto", "When new masks are drawn: once per batch of rollouts, or for each update of it; auto: as published.",
        group="Objective", choices=FRESH_MASKS, rare=True,
    )
    length_normalization: str = knob(
        "auto", "Divide each ELBO by the completion length: log ratios stay near 0 off-policy; auto: as published.",
        group="Objective", choices=LENGTH_NORMALIZATIONS, rare=True,
    )
    eubo_beta: float = knob(
        1.5, "SPG's exponent of the upper bound.", group="Objective", low=0.01, high=100, rare=True,
    )
    eubo_share: float = knob(
        0.5, "SPG's share of the upper bound in its mixture.", group="Objective", low=0, high=1, rare=True,
    )
    trace_shrink: int = knob(
        1, "TraceRL: denoising steps merged into one slice.", group="Objective", low=1, high=4096, rare=True,
    )
    objective_file: str = knob(
        "", "A Python file with objective(elbo, old_elbo, advantage), for objective = custom.",
        group="Objective", rare=True,
    )
    reward_file: str = knob(
        "", "A Python file with reward(prompt, expected, completion) that takes the place of the task's own reward.",
        group="Objective", rare=True,
    )

    prompts_per_step: int = knob(16, "Problems drawn at each step.", group="Rollouts", low=1, high=4096)
    group_size: int = knob(16, "Completions per problem.", group="Rollouts", low=1, high=1024)
    completion_length: int = knob(
        8, "Masked positions to fill per completion.", group="Rollouts", low=1, high=4096, unit="tokens",
    )
    denoising_steps: int = knob(
        8, "Forward passes to fill one completion.", group="Rollouts", low=1, high=4096, unit="passes",
    )
    block_length: int = knob(
        8, "Positions decoded before moving right.", group="Rollouts", low=1, high=4096, unit="tokens", rare=True,
    )
    temperature: float = knob(1.0, "Sampling temperature of rollouts.", group="Rollouts", low=0.05, high=5)
    remasking: str = knob(
        "random", "Which positions a rollout step fills: at random, or where the model is surest.",
        group="Rollouts", choices=ORDERS, rare=True,
    )
    schedule: str = knob(
        "quota", "How many positions a step fills: an equal share, Dream's shares, or as many as the model is sure of.",
        group="Rollouts", choices=SCHEDULES, rare=True,
    )
    confidence_threshold: float = knob(
        0.9, "schedule = threshold: a position is filled once its likeliest token is at least so likely.",
        group="Rollouts", low=0.01, high=1, rare=True,
    )
    factor: float = knob(
        1.0, "schedule = factor: the r-th surest position is filled while it is at least 1 - factor / (r + 1) sure.",
        group="Rollouts", low=0.01, high=100, rare=True,
    )
    entropy_bound: float = knob(
        0.1, "schedule = entropy_bound: entropy that the positions of a step may have beside the largest.",
        group="Rollouts", low=0, high=100, unit="nats", rare=True,
    )
    cache: str = knob(
        "none", "Keys and values read again instead of computed. Exact: none, and block_causal for such models; prefix "
        "and dual approximate and are for evaluation and chat.",
        group="Rollouts", choices=CACHES, rare=True,
    )
    cfg_scale: float = knob(
        0.0, "Classifier-free guidance; 0: none. Rollouts take 0 alone: a guided rollout is not the policy's.",
        group="Rollouts", low=0, high=20, rare=True,
    )
    stop_at_eos: bool = knob(
        True, "Fill a completion up with end tokens after the block in which it has ended; exact up to its end.",
        group="Rollouts", rare=True,
    )
    keep_rollouts: int = knob(
        4, "Groups of each step whose completions are kept, to be looked at and searched; 0: none.",
        group="Rollouts", low=0, high=4096, unit="groups", rare=True,
    )

    train_steps: int = knob(
        60, "Batches of rollouts to train on.", group="Optimiser", low=1, high=1_000_000, unit="steps"
    )
    learning_rate: float = knob(3e-4, "Peak learning rate of AdamW.", group="Optimiser", low=1e-8, high=0.1)
    lr_warmup_steps: int = knob(
        5, "Steps of linear learning-rate warm-up.", group="Optimiser", low=0, high=100_000, unit="steps", rare=True,
    )
    lr_schedule: str = knob(
        "constant", "Learning rate after its warm-up: constant, or down a straight line to a tenth at the last step.",
        group="Optimiser", choices=LR_SCHEDULES, rare=True,
    )
    optimizer: str = knob(
        "adamw", "AdamW with its moments in float32, or in 8 bits: a quarter of the memory (bitsandbytes, NVIDIA GPU).",
        group="Optimiser", choices=OPTIMIZERS, rare=True,
    )
    weight_decay: float = knob(0.0, "AdamW's decoupled weight decay.", group="Optimiser", low=0, high=1, rare=True)
    adam_beta2: float = knob(0.99, "AdamW's second-moment decay.", group="Optimiser", low=0.5, high=0.9999, rare=True)
    max_grad_norm: float = knob(
        0.3, "Gradient norm is clipped to this.", group="Optimiser", low=1e-4, high=1e4, rare=True
    )

    eval_every: int = knob(
        5, "Steps between held-out evaluations; each also saves a checkpoint.",
        group="Evaluation", low=1, high=100_000, unit="steps",
    )
    eval_problems: int = knob(192, "Held-out problems per evaluation.", group="Evaluation", low=8, high=10_000)
    eval_remasking: str = knob(
        "low_confidence", "Which positions an evaluation step fills.", group="Evaluation",
        choices=EVAL_ORDERS, rare=True,
    )
    keep_last_checkpoints: int = knob(
        20, "Newest checkpoints that are kept, beside the first, the best, the final and the pinned ones.",
        group="Evaluation", low=1, high=1_000_000, rare=True,
    )
    eval_schedule: str = knob(
        "quota", "How many positions an evaluation step fills; thresholds are those of the rollouts.",
        group="Evaluation", choices=SCHEDULES, rare=True,
    )
    eval_cache: str = knob(
        "none", "Keys and values that an evaluation reads again; prefix and dual are approximations, several times "
        "faster.",
        group="Evaluation", choices=CACHES, rare=True,
    )
    eval_cfg_scale: float = knob(
        0.0, "Classifier-free guidance of evaluations; 0: none.", group="Evaluation", low=0, high=20, rare=True,
    )
    eval_lengths: str = knob(
        "", "Completion lengths at which evaluations measure pass@1, with commas between, such as 128,256,512; empty: "
        "completion_length. The built-in model's runs measure it when this or eval_samples is set.",
        group="Evaluation", rare=True,
    )
    eval_samples: int = knob(
        1, "Completions per problem of pass@1. 1: greedy; more: sampled at temperature, for pass@k as well.",
        group="Evaluation", low=1, high=1024, rare=True,
    )
    eval_tokens_per_pass: float = knob(
        0.0, "Tokens filled by one pass of an evaluation; 0: as many as in rollouts.",
        group="Evaluation", low=0, high=512, unit="tokens", rare=True,
    )
    bound_probe: int = knob(
        64, "Completions (whole groups) on which bound and objective are measured again after each update; 0: never.",
        group="Evaluation", low=0, high=4096, rare=True,
    )

    # with fewer, or in longer strides, some seeds have the sums only half learnt when RL begins, and end below 0.8
    warmup_steps: int = knob(
        2500, "Supervised steps on deliberately careless demonstrations before RL begins.",
        group="Warm start", low=0, high=1_000_000, unit="steps",
    )
    correct_fraction: float = knob(
        0.35, "Share of demonstrations that are right; the others make one typical mistake.",
        group="Warm start", low=0, high=1,
    )
    warmup_examples: int = knob(
        30_000, "Demonstrations generated.", group="Warm start", low=32, high=1_000_000, rare=True,
    )
    warmup_batch: int = knob(32, "Demonstrations per supervised step.", group="Warm start", low=1, high=4096, rare=True)
    warmup_learning_rate: float = knob(
        1e-3, "Peak learning rate of the warm start.", group="Warm start", low=1e-8, high=0.1, rare=True,
    )

    examples: str = knob(
        "", "What job = finetune learns from: a JSONL file of prompts and answers, or a data set's hub id.",
        group="Fine-tuning",
    )
    examples_per_step: int = knob(32, "Examples of one optimiser step.", group="Fine-tuning", low=1, high=65_536)
    prompt_column: str = knob("prompt", "The column of the prompts.", group="Fine-tuning", rare=True)
    answer_column: str = knob("answer", "The column of the answers.", group="Fine-tuning", rare=True)
    validation_share: float = knob(
        0.05, "Share of the examples that is kept back to measure the loss on.",
        group="Fine-tuning", low=0.001, high=0.5, rare=True,
    )
    long_examples: str = knob(
        "refuse", "What happens to examples that do not fit completion_length or the model.",
        group="Fine-tuning", choices=LONG_EXAMPLES, rare=True,
    )

    device: str = knob(
        "auto", "Where the run computes; auto takes a GPU when there is one.", group="Machine",
        choices=("auto", "cpu", "cuda"),
    )
    threads: int = knob(
        0, "CPU threads; 0 times a few and keeps the fastest.", group="Machine", low=0, high=1024, rare=True,
    )
    token_budget: int = knob(
        0, "Tokens in one likelihood pass; 0 takes the most that fits, and halves it when memory runs out.",
        group="Machine", low=0, high=10_000_000, unit="tokens", rare=True,
    )
    skip_old_pass: bool = knob(
        True, "Spend no pass on the old policy where it is the current one.", group="Machine", rare=True,
    )
    drop_zero_advantage: bool = knob(
        True, "Leave out completions whose gradient is 0.", group="Machine", rare=True,
    )
    masked_head: bool = knob(
        True, "Run the head on masked positions only, in updates and in rollouts.", group="Machine", rare=True,
    )
    masked_last_layer: bool = knob(
        True, "In updates, run the last layer on masked positions only too, for a few completions at a time.",
        group="Machine", rare=True,
    )
    chunked_head: bool = knob(
        True, "Hold the logits of a few rows at a time.", group="Machine", rare=True,
    )
    fused_head: bool = knob(
        True, "On a GPU, let Liger's kernel turn logits into their gradient, where liger-kernel is installed.",
        group="Machine", rare=True,
    )
    packed: bool = knob(True, "Compute no padding: pairs of one width share a pass.", group="Machine", rare=True)
    merge_duplicates: bool = knob(
        True, "Score equal completions of a group once, where they share their masks.", group="Machine", rare=True,
    )

    retries: int = knob(
        1, "How often a run that was killed or crashed starts again by itself, from its newest checkpoint.",
        group="Machine", low=0, high=100, rare=True,
    )
    when_stalled: str = knob(
        "show", "What happens to a run without progress for 3 times its median step: a note, a retry, or its end.",
        group="Machine", choices=STALL_POLICIES, rare=True,
    )
    stalled_after: int = knob(
        120, "A run stands still after so long without progress, or 3 times its median step if that is more.",
        group="Machine", low=1, high=1_000_000, unit="seconds", rare=True,
    )
    mirror: str = knob(
        "none", "Where a copy of the metrics goes as well; needs the package of that name.",
        group="Machine", choices=MIRRORS, rare=True,
    )

    @model_validator(mode="after")
    def _refuse_contradictions(self) -> TrainConfig:
        problems = unknown_choices(self) or contradictions(self)
        if problems:
            raise PydanticCustomError("problems", "see problems", {"problems": problems})
        return self

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> TrainConfig:
        """A config from untrusted values (a form, a file, a command line).

        Raises:
            ConfigError: with one sentence per knob at fault, all of them at once.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(sentences(error, KNOBS)) from None

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """The inverse of `to_json`; raises ConfigError."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(sentences(error, KNOBS)) from None

    def to_json(self) -> str:
        return self.model_dump_json()

    def with_values(self, **values: Any) -> TrainConfig:
        """A checked variant of this config; raises ConfigError."""
        return self.parse(self.model_dump() | values)


KNOBS: dict[str, Knob] = {name: knob_of(name, field) for name, field in TrainConfig.model_fields.items()}


def unknown_choices(config: TrainConfig) -> dict[str, str]:
    """Names that no registry knows, each with the names that it does know."""
    return {
        name: f"{name} = {shown(getattr(config, name))} is not known; choose {k.allowed}."
        for name, k in KNOBS.items()
        if k.choices and getattr(config, name) not in k.choices
    }


def contradictions(config: TrainConfig) -> dict[str, str]:
    """Knobs that are each in range but cannot hold together: both names and two ways out."""
    c, trains = config, config.job == "train"
    task_problems = task_contradictions(
        c, completion_length=c.completion_length, built_in_model=MODELS[c.model].built_in, trains=trains,
        warmup_steps=c.warmup_steps,
    )
    return (
        task_problems
        | model_contradictions(c, prompt_room(c))
        | sampler_contradictions(c, trains=trains)
        | objective_contradictions(c)
        | training_contradictions(c, prompt_room(c))
    )


def prompt_room(c: TrainConfig) -> int:
    """Tokens that prompts are padded to: what the task needs, and the chat template around it."""
    return (c.prompt_length or TASKS[c.task].prompt_length) + MODELS[c.model].template_tokens


def differences(left: TrainConfig, right: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """The knobs in which two configs differ: name -> (left, right)."""
    return {
        name: (getattr(left, name), getattr(right, name))
        for name in KNOBS
        if getattr(left, name) != getattr(right, name)
    }
