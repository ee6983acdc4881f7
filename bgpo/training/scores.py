"""How good a model is at one completion length: pass@1 and pass@k with intervals, every completion with its verdict."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bgpo.config import TrainConfig
from bgpo.models.decoding import SamplerSettings
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.sampler import Denoised, complete
from bgpo.tasks.base import Problem, Task
from bgpo.training.rollouts import Judge, trace_json, verdicts_on
from bgpo.training.seeds import derived_seed

_ROWS_PER_PASS = 256
_Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True)
class Score:
    """One length.

    Attributes:
        pass_1: mean over problems of the share of right completions; low, high: its 95 % interval. Right is what the
            task calls solved, whatever the reward pays for besides.
        pass_k: unbiased estimate for k = samples, the share of problems that k tries solve; tokens: written, mean;
        nfe: passes per completion, mean.
    """

    length: int
    problems: int
    samples: int
    pass_1: float
    low: float
    high: float
    pass_k: float
    tokens: float
    nfe: float

    def metrics(self) -> dict[str, float]:
        """By METRICS name."""
        return {
            "eval/pass_1": self.pass_1, "eval/pass_1_low": self.low, "eval/pass_1_high": self.high,
            "eval/pass_k": self.pass_k, "eval/tokens": self.tokens, "eval/nfe": self.nfe,
        }


@dataclass(frozen=True)
class Judged:
    """One completion and its verdict. `trace` as `trace_json` writes it."""

    length: int
    problem_index: int
    sample: int
    prompt: str
    expected: str
    completion: str
    solved: bool
    reward: float
    reason: str
    parts: dict[str, float]
    tokens: int
    nfe: int
    trace: str


def pass_at(k: int, right: int, samples: int) -> float:
    """1 - C(n - c, k) / C(n, k): the chance that k of n completions drawn without repeats hold one of the c right."""
    return 1.0 - math.comb(samples - right, k) / math.comb(samples, k)


def interval(right: Sequence[int], samples: int) -> tuple[float, float]:
    """95 % of the mean over problems. One completion a problem: Wilson's; more: by the spread between problems."""
    n = len(right)
    shares = [r / samples for r in right]
    mean = sum(shares) / n
    if samples > 1 and n > 1 and 0 < mean < 1:
        half = _Z * math.sqrt(sum((share - mean) ** 2 for share in shares) / (n - 1) / n)
        return max(0.0, mean - half), min(1.0, mean + half)
    centre, spread = mean + _Z**2 / (2 * n), _Z * math.sqrt(mean * (1 - mean) / n + _Z**2 / (4 * n * n))
    scale = 1 + _Z**2 / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def evaluation_settings(config: TrainConfig, temperature: float, length: int = 0) -> SamplerSettings:
    """How an evaluation denoises; `length` 0 is the config's own, others take as many tokens per pass."""
    c, length = config, length or config.completion_length
    per_pass = c.eval_tokens_per_pass or c.completion_length / c.denoising_steps
    blocks = length // c.block_length
    steps = c.denoising_steps
    if length != c.completion_length or c.eval_tokens_per_pass:
        steps = blocks * max(1, min(c.block_length, round(c.block_length / per_pass)))
    return SamplerSettings(
        length, steps, c.block_length, temperature, c.eval_remasking, c.eval_schedule, c.confidence_threshold, c.factor,
        c.entropy_bound, c.eval_cache, c.eval_cfg_scale, c.stop_at_eos,
    )


def assess(
    model: Denoiser, task: Task, config: TrainConfig, listed: list[Problem], length: int, judge: Judge | None = None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Score, list[Judged]]:
    """Every problem `eval_samples` times at one completion length: greedily when once, else at the temperature."""
    k = config.eval_samples
    settings = evaluation_settings(config, config.temperature if k > 1 else 0.0, length)
    seed = derived_seed(config.seed, f"assessment at {length}")
    rows = [(index, sample) for index in range(len(listed)) for sample in range(k)]
    judged: list[Judged] = []
    for start in range(0, len(rows), _ROWS_PER_PASS):
        part = rows[start : start + _ROWS_PER_PASS]
        asked = [listed[index] for index, _ in part]
        prompt_ids = model.encode_prompts([problem.prompt for problem in asked], task.prompt_length)
        noise = Noise(seed, torch.arange(start, start + len(part), device=model.device))
        done = complete(model, prompt_ids, settings, noise, check)
        judged += judged_rows(model, task, part, asked, done, judge)
    return score_of(judged, len(listed), k), judged


def judged_rows(
    model: Denoiser, task: Task, rows: Sequence[tuple[int, int]], asked: list[Problem], done: Denoised,
    judge: Judge | None,
) -> list[Judged]:
    """The completions of one pass with their verdicts; `rows` are (problem, sample) of each."""
    texts, tokens, nfe = model.decode(done.ids), model.completion_tokens(done.ids).tolist(), done.nfe.tolist()
    verdicts = verdicts_on(asked, texts, task, judge)
    return [
        Judged(
            done.ids.shape[1], index, sample, asked[row].prompt, asked[row].expected, texts[row], verdicts[row].solved,
            float(verdicts[row].total), verdicts[row].reason, dict(verdicts[row].parts), tokens[row], nfe[row],
            trace_json(model, done.ids[row], done.commit_step[row], done.confidence[row]),
        )
        for row, (index, sample) in enumerate(rows)
    ]


def score_of(judged: Sequence[Judged], problems: int, samples: int) -> Score:
    """Of all completions of one length: `samples` for each problem."""
    right = [0] * problems
    for one in judged:
        right[one.problem_index] += one.solved
    low, high = interval(right, samples)
    return Score(
        judged[0].length, problems, samples, sum(right) / len(judged), low, high,
        sum(pass_at(samples, r, samples) for r in right) / problems, sum(one.tokens for one in judged) / len(judged),
        sum(one.nfe for one in judged) / len(judged),
    )


def keep(judged: Iterable[Judged], path: Path, traces: bool = True) -> None:
    """Every completion with its verdict as a line of JSON; the file appears whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.part")
    with unfinished.open("w") as file:
        for one in judged:
            line = asdict(one) if traces else {name: value for name, value in asdict(one).items() if name != "trace"}
            file.write(json.dumps(line) + "\n")
    os.replace(unfinished, path)
