"""LLaDA-8B's shape with random weights on one GPU: memory, update, rollouts and the whole step, side by side.

    python -m benchmarks.gpu                 8 billion parameters in bf16, for a card of 141 GB
    python -m benchmarks.gpu --json          the same, and one JSON object on the last line
    python -m benchmarks.gpu --small         the same program at toy size, on a CPU if need be, to try it
    python -m benchmarks.gpu --parts step    some of the parts

No download: the weights are N(0, 0.02). It needs an NVIDIA GPU of 141 GB, bitsandbytes and about 8 minutes, and
reports, from one process and one model,

    memory    peak allocated in an update against the mask draws, BGPO and the plain objective
    update    model FLOPs of a BGPO update per second, as a share of the bf16 matrix products measured just before
    rollout   tokens per second for each cache
    step      rollout and update of the paper's setting (prompt 128, completion 512, 16 draws), all parameters trained,
              for 8 completions; what the paper's 128 would take is multiplied out

Targets: BGPO's peak at 64 draws within 1 % of that at 1; the update at 45 % of the ceiling or better; the step on one
card. A part that fails says why, and the next one goes on. Exit code 1 then, 2 where the machine lacks what is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

MC_SAMPLES = (1, 4, 16, 64)
OBJECTIVES = ("bgpo", "elbo")
PARTS = ("memory", "update", "rollout", "step")
PAPER_DRAWS, PAPER_COMPLETIONS = 16, 128
# name -> (8 billion parameters, --small)
SIZES = {
    "layers": (32, 6), "width": (4096, 64), "heads": (32, 4), "mlp": (12288, 96), "vocabulary": (126464, 500),
    "prompt": (128, 8), "completion": (512, 32), "denoising-steps": (256, 16), "block-length": (32, 8),
    "completions": (8, 3), "token-budget": (5120, 120), "rollout-rows": (8, 2),
}
# part, figure -> whether it is met, and the target in words
TARGETS: dict[tuple[str, str], tuple[Callable[[float], bool], str]] = {
    ("memory", "bgpo_64_over_1"): (lambda ratio: ratio <= 1.01, "at most 1.01"),
    ("update", "share_of_ceiling"): (lambda share: share >= 0.45, "at least 0.45"),
}


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    if problem := _problem(arguments):
        print(problem)
        return 2
    import torch

    torch.manual_seed(0)
    bench = Bench(arguments)
    report: dict[str, Any] = {"machine": bench.machine, "parameters": bench.parameters, "setting": vars(arguments)}
    print(f"{bench.machine}, torch {torch.__version__}: {bench.parameters / 1e9:.2f} billion parameters in bf16")
    failed = False
    for name in arguments.parts:
        try:
            report[name] = getattr(bench, name)()
        except (RuntimeError, ValueError) as error:  # out of memory, most of all: what is measured stays measured
            report[name], failed = {"error": " ".join(str(error).split())[:300]}, True
            bench.model.model.zero_grad(set_to_none=True)
        print(f"{name}: {json.dumps(report[name])}", flush=True)
    for line in target_lines(report):
        print(line)
    if arguments.json:
        print(json.dumps(report))
    return int(failed)


def target_lines(report: dict[str, Any]) -> list[str]:
    """One sentence for each target that was measured."""
    lines = []
    for (part, figure), (met, words) in TARGETS.items():
        value = report.get(part, {}).get(figure)
        if value is not None:
            lines.append(f"{part} {figure} = {value}: {'meets' if met(value) else 'MISSES'} the target, {words}.")
    if "step" in report:
        done = "error" not in report["step"]
        lines.append(f"step: all parameters were {'' if done else 'NOT '}trained on this card.")
    return lines


def _problem(arguments: argparse.Namespace) -> str:
    """What this machine lacks, before minutes are spent."""
    import torch

    from bgpo.training.hardware import bitsandbytes_problem

    if arguments.device != "cuda":
        return ""
    if not torch.cuda.is_available():
        return "benchmarks.gpu needs an NVIDIA GPU, and this machine shows none; run it where there is one."
    if arguments.optimizer == "adamw8bit" and (problem := bitsandbytes_problem()):
        return f"--optimizer adamw8bit {problem}; install it, or give --optimizer adamw, which takes 48 GB more."
    return ""


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="toy size, on the CPU where there is no GPU")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    for name in SIZES:
        parser.add_argument(f"--{name}", type=int, metavar="N")
    parser.add_argument("--device", choices=("cuda", "cpu"))
    parser.add_argument("--optimizer", choices=("adamw", "adamw8bit"), default="adamw8bit")
    parser.add_argument("--checkpointing", action="store_true", help="activation checkpointing")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    given = parser.parse_args(argv)
    for name, (large, small) in SIZES.items():
        key = name.replace("-", "_")
        if getattr(given, key) is None:
            setattr(given, key, small if given.small else large)
    if given.device is None:
        import torch

        given.device = "cpu" if given.small and not torch.cuda.is_available() else "cuda"
    return given


class Bench:
    """One model for all parts. `completions` are scored in each update."""

    def __init__(self, arguments: argparse.Namespace):
        import torch

        from bgpo.training.policy import trainable

        self.a = arguments
        self.device = torch.device(arguments.device)
        self.machine = torch.cuda.get_device_name() if self.device.type == "cuda" else "CPU"
        self.config = self._config()
        self.model = trainable(self._random_model(), self.config, None)
        self.parameters = sum(p.numel() for p in self.model.model.parameters())
        self._optimizer: tuple | None = None

    def _config(self):
        from bgpo.config import TrainConfig

        a = self.a
        # built only to carry the knobs that the update reads; the model is made below
        return TrainConfig.model_construct(**TrainConfig().model_dump() | {
            "precision": "bf16", "optimizer": a.optimizer if a.device == "cuda" else "adamw", "learning_rate": 5e-7,
            "activation_checkpointing": a.checkpointing, "completion_length": a.completion, "prompts_per_step": 1,
            "group_size": a.completions, "denoising_steps": a.denoising_steps, "block_length": a.block_length,
            "bound_probe": 0, "token_budget": a.token_budget, "device": a.device,
        })

    def _random_model(self):
        """LLaDA's layout as the stock class, made on the device and in bf16 from the start."""
        import torch
        from transformers import LlamaConfig

        from bgpo.models.denoiser import Denoiser
        from bgpo.models.llada import Float32RotaryLlama
        from bgpo.models.tiny import tiny_tokenizer

        a = self.a
        config = LlamaConfig(
            vocab_size=a.vocabulary, hidden_size=a.width, num_hidden_layers=a.layers, num_attention_heads=a.heads,
            intermediate_size=a.mlp, max_position_embeddings=4096, rms_norm_eps=1e-5, rope_theta=500_000.0,
            tie_word_embeddings=False, use_cache=False, pad_token_id=0, bos_token_id=None, eos_token_id=2,
        )
        config.is_causal = False
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(self.device):
                model = Float32RotaryLlama(config)
        finally:
            torch.set_default_dtype(before)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0, 0.02)
        return Denoiser(model, tiny_tokenizer())

    # ---- the parts

    def memory(self) -> dict[str, Any]:
        """Peak bytes of one update without the optimiser, per objective and number of draws; None: out of memory."""
        found: dict[str, dict[str, float | None]] = {objective: {} for objective in OBJECTIVES}
        self._accumulate("bgpo", 1, few=True)  # gradient buffers and kernels belong to all alike
        for objective in OBJECTIVES:
            for draws in MC_SAMPLES:
                found[objective][str(draws)] = self._peak_gb(lambda o=objective, k=draws: self._accumulate(o, k))
        bgpo = found["bgpo"]
        ratio = round(bgpo["64"] / bgpo["1"], 4) if bgpo["64"] and bgpo["1"] else None
        return {"peak_gb": found, "bgpo_64_over_1": ratio}

    def update(self) -> dict[str, float]:
        """FLOPs of the model (6 a parameter and token, attention and head as they are scored) over the ceiling."""
        ceiling = self._ceiling()
        seconds, (tokens, rows) = self._timed(lambda: self._accumulate("bgpo", 4))
        head = self.a.vocabulary * self.a.width
        trunk = self.parameters - 2 * head
        attention = 4 * self.a.layers * self.a.width * (self.a.prompt + self.a.completion)  # a token, forward
        flops = 3 * (tokens * (2 * trunk + attention) + rows * 2 * head)
        return {
            "seconds": round(seconds, 3), "tflops": round(flops / seconds / 1e12, 4),
            "ceiling_tflops": round(ceiling / 1e12, 2), "share_of_ceiling": round(flops / seconds / ceiling, 4),
            "tokens": tokens, "tokens_per_s": round(tokens / seconds, 1),
        }

    def rollout(self) -> dict[str, float]:
        """Completion tokens per second, greedy, by cache."""
        from bgpo.models.decoding import CACHES

        found = {}
        for cache in CACHES:
            if cache in ("none", "prefix", "dual"):
                self._roll_out(cache, blocks=1)  # kernels are chosen at the first pass
                seconds, _ = self._timed(lambda cache=cache: self._roll_out(cache), rounds=1, warm=False)
                found[cache] = round(self.a.rollout_rows * self.a.completion / seconds, 2)
        return found

    def step(self) -> dict[str, float]:
        """Rollout, update with 16 draws, optimiser: all parameters, masters and moments in place.

        `paper_s` multiplies rollout and update out to the paper's 128 completions a step.
        """
        from bgpo.training.optimizer import policy_optimizer

        optimizer, _ = policy_optimizer(self.model.model, self.config)
        self._reset_peak()
        rolled, _ = self._timed(lambda: self._roll_out("none"), rounds=1, warm=False)
        updated, _ = self._timed(lambda: self._accumulate("bgpo", PAPER_DRAWS, keep=True), rounds=1, warm=False)
        stepped, _ = self._timed(optimizer.step, rounds=1, warm=False)
        times = PAPER_COMPLETIONS / self.a.rollout_rows * rolled + PAPER_COMPLETIONS / self.a.completions * updated
        return {
            "paper_s": round(times + stepped, 1),
            "rollout_s": round(rolled, 3), "update_s": round(updated, 3), "optimizer_s": round(stepped, 3),
            "whole_s": round(rolled + updated + stepped, 3), "peak_gb": round(self._peak(), 3),
        }

    # ---- their means

    def _accumulate(self, objective: str, draws: int, few: bool = False, keep: bool = False) -> tuple[int, int]:
        """The trainer's own gradient of `completions` completions; (tokens forwarded, rows scored)."""
        import torch

        from bgpo.algorithm.masking import draw_masks
        from bgpo.algorithm.objectives import OBJECTIVES as REGISTRY
        from bgpo.algorithm.surrogate import Surrogate
        from bgpo.training.likelihood import Batch, Passes, accumulate

        a = self.a
        B = 1 if few else a.completions
        generator = torch.Generator(self.device).manual_seed(draws)
        ids = torch.randint(3, a.vocabulary, (B, a.prompt + a.completion), generator=generator, device=self.device)
        masks = draw_masks(B, draws, a.completion, generator)
        ones = torch.ones(B, device=self.device)
        batch = Batch(
            ids[:, : a.prompt], ids[:, a.prompt :], masks, torch.linspace(-1, 1, B + 1, device=self.device)[1:],
            torch.zeros(B, device=self.device), ones, torch.full((B,), a.prompt, device=self.device),
            torch.zeros(B, a.completion, device=self.device),
        )
        accumulate(self.model, batch, Surrogate(REGISTRY[objective], {}), B, Passes(a.token_budget))
        if not keep:
            self.model.model.zero_grad(set_to_none=True)
        return B * draws * (a.prompt + a.completion), int(masks.scored.sum())

    def _roll_out(self, cache: str, blocks: int = 0) -> None:
        """`blocks` 0: the whole completion."""
        import torch

        from bgpo.models.decoding import SamplerSettings
        from bgpo.models.noise import Noise
        from bgpo.models.sampler import complete

        a = self.a
        prompts = torch.randint(3, a.vocabulary, (a.rollout_rows, a.prompt), device=self.device)
        length = blocks * a.block_length or a.completion
        settings = SamplerSettings(
            completion_length=length, denoising_steps=a.denoising_steps * length // a.completion,
            block_length=a.block_length, temperature=0.0, remasking="max_prob", cache=cache,
        )
        complete(self.model, prompts, settings, Noise(0, torch.arange(a.rollout_rows, device=self.device)))

    def _ceiling(self) -> float:
        """FLOP/s of a large bf16 matrix product."""
        import torch

        n = 8192 if self.device.type == "cuda" else 512
        x, y = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        seconds, _ = self._timed(lambda: [x @ y for _ in range(10)])
        return 10 * 2 * n**3 / seconds

    def _timed(self, work: Callable[[], Any], rounds: int = 3, warm: bool = True) -> tuple[float, Any]:
        """(least seconds, last result)."""
        if warm:
            work()
        best, result = float("inf"), None
        for _ in range(rounds):
            self._wait()
            start = time.perf_counter()
            result = work()
            self._wait()
            best = min(best, time.perf_counter() - start)
        return best, result

    def _wait(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize()

    def _reset_peak(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def _peak(self) -> float:
        """GB allocated at the highest point since the last reset; 0 on the CPU, where torch does not count."""
        import torch

        return torch.cuda.max_memory_allocated() / 1e9 if self.device.type == "cuda" else 0.0

    def _peak_gb(self, work: Callable[[], Any]) -> float | None:
        from bgpo.training.machine import MB, SavedBytes, is_out_of_memory

        self._reset_peak()
        saved = SavedBytes(self.model.model)
        try:
            with saved:
                work()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            self.model.model.zero_grad(set_to_none=True)
            return None
        return round(self._peak() or saved.peak_mb * MB / 1e9, 6)


if __name__ == "__main__":
    sys.exit(main())
