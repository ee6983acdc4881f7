"""The warm start: supervised masked-diffusion fine-tuning on deliberately careless demonstrations.

Most demonstrations (1 - correct_fraction) make one typical mistake. The model learns both behaviours, and RL
with a verifier has to find out which one pays. The result is cached by a hash of what made it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bgpo.algorithm.elbo import estimate_elbo
from bgpo.algorithm.masking import draw_masks
from bgpo.config import TrainConfig
from bgpo.models.checkpoints import CheckpointError, TrainingState, load_model, load_state, save_checkpoint
from bgpo.models.denoiser import Denoiser
from bgpo.tasks.base import GeneratedTask, Task, problems
from bgpo.tasks.registry import open_task
from bgpo.training.seeds import python_random, torch_generator

# part of the cache key: raise it when the code below changes what a warm start is
RECIPE_VERSION = 2
_LR_WARMUP = 50
_KEY_KNOBS = (
    "task", "model", "seed", "completion_length", "warmup_steps", "correct_fraction", "warmup_examples", "warmup_batch",
    "warmup_learning_rate",
)


def cache_key(config: TrainConfig) -> str:
    """Names the warm start that `config` asks for: equal keys, equal warm start.

    A sample of the task's problems with both answers goes in, so that a changed task is a changed key.
    """
    task, answers = open_task(config), []
    if isinstance(task, GeneratedTask):
        sample = problems(task, "train", 64, python_random(config.seed, "cache key"))
        answers = [[p.prompt, task.demonstration(p, True), task.demonstration(p, False)] for p in sample]
    made_of = {name: getattr(config, name) for name in _KEY_KNOBS} | {"recipe": RECIPE_VERSION, "sample": answers}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:24]


def cached(config: TrainConfig, cache: Path, device: torch.device) -> tuple[Denoiser, TrainingState] | None:
    """The cached warm start and the state it was stored with, or None; a damaged one counts as missing."""
    folder = cache / cache_key(config)
    try:
        return load_model(folder, device), load_state(folder)
    except CheckpointError:
        return None


def store(config: TrainConfig, cache: Path, model: Denoiser, state: TrainingState) -> None:
    """Keeps a finished warm start for the runs to come."""
    save_checkpoint(cache / cache_key(config), model, state, optimizer=None)


@dataclass(frozen=True)
class Demonstrations:
    """prompt_ids (N, P) and completion_ids (N, L), N = warmup_examples."""

    prompt_ids: Tensor
    completion_ids: Tensor


def demonstrations(model: Denoiser, task: Task, config: TrainConfig) -> Demonstrations:
    """Training problems with a right answer in `correct_fraction` of the cases, else the careless one."""
    rng = python_random(config.seed, "demonstrations")
    chosen = problems(task, "train", config.warmup_examples, rng)
    answers = [task.demonstration(problem, rng.random() < config.correct_fraction) for problem in chosen]
    return Demonstrations(
        model.encode_prompts([problem.prompt for problem in chosen], task.prompt_length),
        model.encode_completions(answers, config.completion_length),
    )


def warmup_optimizer(model: Denoiser, config: TrainConfig) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        model.model.parameters(), lr=config.warmup_learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )


def warmup_step(
    model: Denoiser, optimizer: torch.optim.Optimizer, data: Demonstrations, config: TrainConfig, step: int
) -> float:
    """One supervised step (0-based); returns the loss: mean -ELBO / L, in nats per token."""
    generator = torch_generator(config.seed, "warm-up batch", step, model.device)
    L = data.completion_ids.shape[1]
    rows = torch.randint(len(data.prompt_ids), (config.warmup_batch,), generator=generator, device=model.device)
    draws = draw_masks(len(rows), 1, L, generator, "iid")
    elbo = estimate_elbo(
        model, data.prompt_ids[rows], data.completion_ids[rows], draws.masked[:, 0], draws.weight[:, 0]
    )
    loss = -elbo.mean() / L
    for group in optimizer.param_groups:
        group["lr"] = config.warmup_learning_rate * _schedule(step, config.warmup_steps)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def warm_up(
    model: Denoiser,
    optimizer: torch.optim.Optimizer,
    data: Demonstrations,
    config: TrainConfig,
    first_step: int,
    report: Callable[[int, float], None],
) -> None:
    """Steps from `first_step` to the end; `report(finished steps, loss)` after each may raise to leave."""
    for step in range(first_step, config.warmup_steps):
        report(step + 1, warmup_step(model, optimizer, data, config, step))


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    rise = min(1.0, (step + 1) / min(_LR_WARMUP, steps))
    return rise * (0.55 + 0.45 * math.cos(math.pi * step / steps))
