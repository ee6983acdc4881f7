"""One update for real, with BGPO and with the plain objective, at a few numbers of mask draws: what each holds.

    run(config, folder, listener, cache)     the job `probe`; points are logged at step = number of draws

The update is the trainer's own, at the config's sizes, on the config's model. Completions are random tokens, every
one with an advantage, so nothing is dropped and no rollout is waited for: the most that a step can hold.
"""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import TrainConfig, prompt_room
from bgpo.models.denoiser import Denoiser
from bgpo.tasks.base import Task, problems, with_prompt_length
from bgpo.training.likelihood import Passes, head_of
from bgpo.training.listener import Listener, Outcome
from bgpo.training.machine import MB, choose_device, free_bytes
from bgpo.training.optimizer import policy_optimizer
from bgpo.training.plugins import task_of
from bgpo.training.policy import fresh_policy, trainable
from bgpo.training.rollouts import Rollouts
from bgpo.training.seeds import python_random, torch_generator
from bgpo.training.trainer import token_budget_for
from bgpo.training.update import Updater

DRAWS = (1, 4, 16)
MEASURED = ("bgpo", "elbo")
_SHARE_OF_FREE = 0.7  # what the plain objective may be expected to hold, or it is not tried


def run(config: TrainConfig, folder: Path, listener: Listener, warm_start_cache: Path) -> Outcome:
    """Measures every cell, fewest draws first; cells that would not fit are left out.

    Raises:
        ValueError: when the config asks for something this machine does not have.
    """
    listener.phase("starting", 0, 1)
    device = choose_device(config.device)
    torch.set_num_threads(config.threads or 1)
    task = with_prompt_length(task_of(config, folder), prompt_room(config))
    model = trainable(fresh_policy(config, device), config, folder)
    budget = config.token_budget or token_budget_for(model, task.prompt_length, config.completion_length)
    cells = [(draws, objective) for draws in sorted({*DRAWS, config.mc_samples}) for objective in MEASURED]
    bench = Bench(config, task, model, budget)
    bench.measure(1, "bgpo", few=True)  # kernels and gradient buffers belong to both sides alike
    plain_at_one = 0.0
    for done, (draws, objective) in enumerate(cells):
        if listener.should_stop():
            return Outcome("stopped", done)
        listener.phase("measuring", done, len(cells))
        if objective == "elbo" and draws * plain_at_one * MB > _SHARE_OF_FREE * free_bytes(device):
            continue
        metrics = bench.measure(draws, objective)
        if (draws, objective) == (1, "elbo"):
            plain_at_one = metrics["probe/elbo_saved_mb"]
        listener.metrics(draws, metrics)
    listener.phase("measuring", len(cells), len(cells))
    return Outcome("finished", len(cells))


@dataclass
class Bench:
    """A model on which single updates are measured. Its weights move; nobody needs them afterwards."""

    config: TrainConfig
    task: Task
    model: Denoiser
    token_budget: int

    def measure(self, draws: int, objective: str, few: bool = False) -> dict[str, float]:
        """One update; `probe/...` metrics by name. `few`: with one group only."""
        changes = {"prompts_per_step": 1, "group_size": 2} if few else {}
        config = self.config.with_values(
            objective=objective, mc_samples=draws, updates_per_rollout=1, bound_probe=0, mask_draws="auto", **changes
        )
        optimizer, _ = policy_optimizer(self.model.model, config)
        passes = Passes(self.token_budget, config.packed, head_of(config))
        updater = Updater(config, OBJECTIVES[objective], self.model, optimizer, passes, None)
        rollouts = random_rollouts(config, self.task, self.model)
        peak = Peak(self.model.device)
        start = time.monotonic()
        held = updater.update(rollouts, 0, lambda: None)["memory/saved_mb"]
        values = {"saved_mb": held, "s": time.monotonic() - start, **peak.grown()}
        self.model.model.zero_grad(set_to_none=True)
        return {f"probe/{objective}_{name}": value for name, value in values.items()}


def random_rollouts(config: TrainConfig, task: Task, model: Denoiser) -> Rollouts:
    """Completions of random tokens for real prompts; half of each group gets an advantage of 1, half of -1."""
    P, G, L = config.prompts_per_step, config.group_size, config.completion_length
    chosen = problems(task, "train", P, python_random(config.seed, "problems", 0))
    prompt_ids = model.encode_prompts([p.prompt for p in chosen], task.prompt_length).repeat_interleave(G, 0)
    device, B = prompt_ids.device, P * G
    generator = torch_generator(config.seed, "probe tokens", 0, device)
    ids = torch.randint(model.model.config.vocab_size, (B, L), generator=generator, device=device)
    banned = torch.tensor(model.banned_ids, device=device)
    ids = ids.masked_fill(torch.isin(ids, banned), model.eos_id)
    sign = torch.arange(B, device=device) % 2 * 2.0 - 1
    return Rollouts(
        prompt_ids=prompt_ids, prompt_length=model.prompt_tokens(prompt_ids), completion_ids=ids,
        written=torch.ones(B, L, dtype=torch.bool, device=device),
        commit_step=torch.ones(B, L, dtype=torch.long, device=device), logprob=torch.zeros(B, L, device=device),
        reward=sign.view(P, G).clamp(min=0), advantage=sign, confidence=torch.zeros(B, L, device=device),
        problems=chosen, texts=[], verdicts=[], metrics={},
    )


class Peak:
    """How far the memory in use rises above what was in use when this was made."""

    def __init__(self, device: torch.device):
        self._device = device
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        self._resident = _reset_resident_peak()

    def grown(self) -> dict[str, float]:
        """`rss_mb` where the system tells a peak (Linux), `cuda_mb`, the peak allocated, on a GPU."""
        found = {}
        if self._resident is not None:
            found["rss_mb"] = max(0.0, _status_mb("VmHWM") - self._resident)
        if self._device.type == "cuda":
            found["cuda_mb"] = torch.cuda.max_memory_allocated(self._device) / MB
        return found


def _reset_resident_peak() -> float | None:
    """Gives freed memory back to the system and lets the kernel count the peak anew; MB in use, None off Linux."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        return _status_mb("VmRSS")
    except (OSError, AttributeError):  # another libc, or a sandbox that hides it
        return None


def _status_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))
