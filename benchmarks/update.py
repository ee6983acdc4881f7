"""What one policy update costs, as multiples of the least it could cost, measured side by side in one process.

    python -m benchmarks.update            tables
    python -m benchmarks.update --json     the same, with one JSON object on the last line
    python -m benchmarks.update --quick    a small model, in seconds: shows that it runs, not what it costs

The common work: a 6-layer bidirectional Llama of 21.5 M parameters with 32,000 tokens, 2 prompts x 8 completions of
64 + 128 random tokens, counts stratified over 1..128, float32. An update is likelihood and backward, no optimiser step.

  floor     n_t bare forwards and backwards, head at the masked rows, from a given gradient: no loss, no softmax
  first     the trainer's update after a rollout, where the policy is still the old one
  later     the trainer's update once the policy has moved, on the same masks
  literal   the algorithm as written: old pass, logits of every row, log-softmax, one backward per draw

Figures are CPU time (user + system) with 2 threads, the median of ratios between neighbours in time. Memory is measured
in fresh processes: the rise of the resident peak, and the bytes that autograd holds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.memory import peak_rss_mb, reset_peak_rss_mb
from bgpo.algorithm.elbo import Head
from bgpo.algorithm.masking import draw_masks
from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.algorithm.surrogate import Surrogate
from bgpo.models.decoding import SamplerSettings
from bgpo.models.denoiser import Denoiser, Spec, linear_matrix
from bgpo.models.last_layer import BeforeLastLayer, stop_before
from bgpo.models.noise import Noise
from bgpo.models.sampler import Canvas
from bgpo.models.tiny import tiny_tokenizer
from bgpo.training.likelihood import Batch, Known, Passes, accumulate, score
from bgpo.training.machine import SavedBytes

Work = Callable[[], object]
P, L, GROUP = 64, 128, 8
MC_SAMPLES = (1, 4, 16)
SURROGATE = Surrogate(OBJECTIVES["bgpo"], {}, normalizer=float(L))


class Model:
    """The common model as a `Scorer`: N(0, 0.02) weights, seed 0, the last token is the mask."""

    def __init__(self, quick: bool):
        vocabulary, width, layers = (500, 32, 2) if quick else (32_000, 256, 6)
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers, num_attention_heads=4,
            intermediate_size=3 * width, tie_word_embeddings=False, use_cache=False,
        )
        config.is_causal = False
        self.model = LlamaForCausalLM(config)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.02, generator=generator)
        self.mask_id = vocabulary - 1

    def hidden(self, ids: Tensor) -> Tensor:
        return self.model.model(input_ids=ids, use_cache=False).last_hidden_state

    def before_last_layer(self, ids: Tensor, wanted: Tensor) -> BeforeLastLayer | None:
        return stop_before(self.model, wanted, lambda: self.hidden(ids))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.model.lm_head(hidden)

    @property
    def head_matrix(self) -> Tensor | None:
        return linear_matrix(self.model.lm_head)

    def clear(self) -> None:
        """Zeroed gradient buffers, there beforehand."""
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()

    def gradient(self) -> Tensor:
        return torch.cat([parameter.grad.flatten() for parameter in self.model.parameters()])


def common_batch(model: Model, K: int) -> Batch:
    """The common work's completions, advantages and masks."""
    generator = torch.Generator().manual_seed(0)
    B = 2 * GROUP
    ids = torch.randint(0, model.mask_id, (2, P), generator=generator).repeat_interleave(GROUP, 0)
    completions = torch.randint(0, model.mask_id, (B, L), generator=generator)
    reward = torch.rand(2, GROUP, generator=generator)
    advantage = (reward - reward.mean(1, keepdim=True)).flatten()
    draws = draw_masks(B, K, L, torch.Generator().manual_seed(100 + K))
    group = torch.arange(2).repeat_interleave(GROUP)
    return Batch(ids, completions, draws, advantage, group, torch.ones(B), torch.full((B,), P), torch.zeros(B, L))


def passes_of(batch: Batch) -> Passes:
    """One draw of all completions per pass."""
    return Passes(len(batch) * (P + L))


def first(model: Model, batch: Batch, passes: Passes | None = None, denominator: int = 0) -> Tensor:
    return accumulate(model, batch, SURROGATE, denominator or len(batch), passes or passes_of(batch))


def later(model: Model, batch: Batch, old: Tensor) -> None:
    accumulate(model, batch, SURROGATE, len(batch), passes_of(batch), Known(old))


def floor(model: Model, batch: Batch, gradient: Tensor) -> None:
    """Trunk, head at the masked rows and backward from a given gradient, (rows, V), draw by draw."""
    for k in range(batch.K):
        masked = batch.draws.masked[:, k]
        ids = torch.cat([batch.prompt_ids, batch.completion_ids.masked_fill(masked, model.mask_id)], 1)
        logits = model.logits(model.hidden(ids)[:, P:][masked])
        logits.backward(gradient[: len(logits)])


def literal(model: Model, batch: Batch) -> None:
    """BGPO as its Algorithm 1 reads: an old pass, full logits on all rows, one backward per draw."""
    for k in range(batch.K):
        masked, weight = batch.draws.masked[:, k], batch.draws.weight[:, k]
        with torch.no_grad():
            old = _literal_elbo(model, batch, masked, weight)
        log_ratio = _literal_elbo(model, batch, masked, weight) - old
        ratio = torch.where(batch.advantage >= 0, 1 + log_ratio, log_ratio.exp())
        (-(batch.advantage * ratio).sum() / (batch.K * len(batch))).backward()


def _literal_elbo(model: Model, batch: Batch, masked: Tensor, weight: Tensor) -> Tensor:
    ids = torch.cat([batch.prompt_ids, batch.completion_ids.masked_fill(masked, model.mask_id)], 1)
    logprob = model.logits(model.hidden(ids)).log_softmax(-1)[:, P:]
    token = logprob.gather(-1, batch.completion_ids[..., None])[..., 0]
    return weight * (token * masked).sum(1) / L


def cpu_seconds(work: Work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def ratios(
    kinds: dict[str, Work], base: str, rounds: int, clear: Callable[[], None]
) -> dict[str, float]:
    """Median over rounds of each kind's CPU time over the base's, each round measured one after the other.

    The order turns round by round, so that none always follows the same neighbour.
    """
    found: dict[str, list[float]] = {name: [] for name in kinds}
    names = list(kinds)
    for turn in range(rounds):
        order = names if turn % 2 == 0 else names[::-1]
        seconds = {}
        for name in order:
            clear()
            seconds[name] = cpu_seconds(kinds[name])
        for name in names:
            found[name].append(seconds[name] / seconds[base])
        found.setdefault("seconds", []).append(seconds[base])
    return {name: statistics.median(values) for name, values in found.items()}


def speed_cell(K: int, quick: bool) -> dict[str, float]:
    """Ratios to the floor at one n_t, and how far the literal gradient is from the trainer's."""
    model = Model(quick)
    batch = common_batch(model, K)
    model.clear()
    gradient = torch.randn(int(batch.draws.masked.sum((0, 2)).max()), model.mask_id + 1)
    old = score(model, batch, passes_of(batch))
    kinds = {
        "floor": partial(floor, model, batch, gradient), "first": partial(first, model, batch),
        "later": partial(later, model, batch, old), "literal": partial(literal, model, batch),
    }
    rounds = {1: 5, 4: 3}.get(K, 1)
    found = ratios(kinds, "floor", 1 if quick else rounds, model.clear)
    found["gradient_error"] = _gradient_error(model, kinds["first"], kinds["literal"])
    return found


def _gradient_error(model: Model, ours: Work, theirs: Work) -> float:
    gradients = []
    for work in (ours, theirs):
        model.clear()
        work()
        gradients.append(model.gradient())
    return ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item()


def memory_cell(K: int, quick: bool) -> dict[str, float]:
    """MB of one first update in this process."""
    model = Model(quick)
    batch = common_batch(model, K)
    model.clear()
    first(model, batch.select(torch.arange(1)))  # lazily loaded kernels
    before = reset_peak_rss_mb()
    saved = SavedBytes(model.model)
    with saved:
        first(model, batch)
    return {"saved_mb": saved.peak_mb, "rss_mb": peak_rss_mb() - before}


def savings_cell(K: int, quick: bool) -> dict[str, float]:
    """Each saving switched off, as a ratio to the same work with it on."""
    model = Model(quick)
    found = {}
    for name, (saving, without) in (_savings(model, common_batch(model, K)) | _rollout_savings(model)).items():
        kinds = {"on": saving, "off": without}
        found[name] = ratios(kinds, "on", 1 if quick else 3, model.clear)["off"]
    return found


def _savings(model: Model, batch: Batch) -> dict[str, tuple[Work, Work]]:
    """Saving -> the same work with it and without."""
    B, passes = len(batch), passes_of(batch)
    half, bad = torch.arange(B) < B // 2, (batch.advantage < 0).nonzero()[:, 0]
    settled = replace(batch, advantage=batch.advantage * half)
    short = replace(batch, prompt_length=torch.where(half, P // 4, P))
    unmasked, wide, whole = (
        replace(passes, head=head) for head in (Head(scored_rows_only=False), Head(narrow=False), Head(chunked=False))
    )
    twice = torch.arange(B) // 2 * 2
    merged = replace(batch.select(twice[::2]), count=torch.full((B // 2,), 2.0))
    kept = score(model, batch, passes)

    def with_old_pass(rows: Tensor) -> None:
        old = torch.zeros_like(kept)
        old[rows] = score(model, batch.select(rows), passes)
        accumulate(model, batch, SURROGATE, B, passes, Known(old, old_is_partial=len(rows) < B))

    def draw_by_draw() -> None:
        for row in range(B):
            first(model, batch.select(torch.tensor([row])), denominator=B)

    on, everything = partial(first, model, batch), torch.arange(B)
    return {
        "old pass skipped on-policy": (on, partial(with_old_pass, everything)),
        "old pass for bad completions only (fresh masks)": (
            partial(with_old_pass, bad), partial(with_old_pass, everything)),
        "masks and old values kept over updates": (
            partial(later, model, batch, kept), partial(with_old_pass, everything)),
        "zero advantages dropped (half of them)": (
            lambda: first(model, settled.select(half.nonzero()[:, 0]), passes, B),
            lambda: first(model, settled, passes)),
        "head at masked rows only": (partial(first, model, batch, wide), partial(first, model, batch, unmasked)),
        "last layer at masked rows only": (on, partial(first, model, batch, wide)),
        "logits in chunks": (on, partial(first, model, batch, whole)),
        "no padding (half the prompts 16 of 64)": (
            lambda: first(model, short, passes), lambda: first(model, short, replace(passes, packed=False))),
        "one pass for many completions (16)": (on, draw_by_draw),
        "equal completions merged (in pairs)": (
            lambda: first(model, merged, passes, B), lambda: first(model, batch.select(twice), passes)),
    }


def _rollout_savings(model: Model) -> dict[str, tuple[Work, Work]]:
    """A block of 32 tokens of the common work's completions in 4 steps."""
    spec = Spec("tiny", mask_id=model.mask_id, pad_id=model.mask_id - 1, eos_ids=(0,))
    denoiser = Denoiser(model.model, tiny_tokenizer(), spec)
    prompts = torch.randint(1, model.mask_id - 1, (2, P), generator=torch.Generator().manual_seed(0))
    settings = SamplerSettings(L, 16, 32, 1.0, "random")

    def block(settings: SamplerSettings) -> None:
        passes = Canvas(denoiser, prompts.repeat_interleave(GROUP, 0), settings, Noise(0)).passes()
        for _ in range(settings.steps_per_block):
            next(passes)

    return {"rollouts: head at the block's masked rows only": (
        partial(block, settings), partial(block, replace(settings, masked_rows_only=False)))}


CELLS = {"speed": speed_cell, "memory": memory_cell, "savings": savings_cell}


def _in_a_fresh_process(kind: str, K: int, quick: bool) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.update", "--cell", kind, str(K), *(["--quick"] if quick else [])]
    # threads that wait should sleep, or waiting counts as CPU time
    settings = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "2"}
    if kind == "memory":  # what is freed goes back at once: the peak is of what is needed, not of what glibc keeps
        settings["MALLOC_MMAP_THRESHOLD_"] = str(2**18)
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=settings)
    return json.loads(done.stdout.splitlines()[-1])


def report(quick: bool) -> dict[str, object]:
    """Runs every cell, printing a table as it goes."""
    print(f"{'n_t':>4} | {'floor, CPU s':>12} | {'first':>6} {'later':>6} {'literal':>8} | "
          "literal / first | gradients differ by")
    speed = {}
    for K in MC_SAMPLES:
        cell = speed[K] = _in_a_fresh_process("speed", K, quick)
        figures = (f"{cell[name]:>{width}.2f}" for name, width in (("first", 6), ("later", 6), ("literal", 8)))
        print(f"{K:>4} | {cell['seconds']:>12.2f} | {' '.join(figures)} | {cell['literal'] / cell['first']:>15.2f} | "
              f"{cell['gradient_error']:.1e}", flush=True)
    memory = {K: _in_a_fresh_process("memory", K, quick) for K in (1, 4 if quick else 64)}
    for K, cell in memory.items():
        print(f"n_t = {K}: {cell['saved_mb']:.1f} MB held for backward, resident peak + {cell['rss_mb']:.0f} MB",
              flush=True)
    savings = _in_a_fresh_process("savings", 1, quick)
    for name, ratio in savings.items():
        print(f"{name:<47} {ratio:.2f} x without")
    few, many = memory.values()
    return {
        "over_floor": {
            str(K): {"first": round(cell["first"], 3), "later": round(cell["later"], 3)} for K, cell in speed.items()
        },
        "cheaper_than_literal": {str(K): round(cell["literal"] / cell["first"], 2) for K, cell in speed.items()},
        "gradient_error": {str(K): cell["gradient_error"] for K, cell in speed.items()},
        "memory_ratio_64": round(many["saved_mb"] / few["saved_mb"], 4),
        "rss_ratio_64": round(many["rss_mb"] / few["rss_mb"], 3),
        "savings": {name: round(ratio, 2) for name, ratio in savings.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--quick", action="store_true", help="a small model, in seconds")
    parser.add_argument("--cell", nargs=2, metavar=("KIND", "MC_SAMPLES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    if arguments.cell:
        kind, K = arguments.cell
        print(json.dumps(CELLS[kind](int(K), arguments.quick)))
        return
    if not Path("/proc/self/clear_refs").exists():
        sys.exit("benchmarks.update reads the resident peak from /proc/self; run it on Linux.")
    results = report(arguments.quick)
    if arguments.json:
        print(json.dumps(results))


if __name__ == "__main__":
    main()
