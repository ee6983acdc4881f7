"""Measuring a checkpoint: pass@1 and pass@k at several completion lengths, with intervals, every completion kept.

    python -m bgpo.training.evaluation --checkpoint FOLDER --task adder --eval-lengths 8,16 --eval-samples 4 --json

The job `evaluate` does the same for the config of a run. Problems are those of the held-out split, or of `--split
validation`, on which checkpoints are chosen: a choice made on held-out problems would make their reward say too much.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bgpo.config import ConfigError, TrainConfig, prompt_room
from bgpo.models.checkpoints import load_model
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.sampler import complete
from bgpo.tasks.base import Problem, Task, problems, with_prompt_length
from bgpo.tasks.registry import open_task
from bgpo.training.evaluation import HeldOutCompletion, evaluation_settings
from bgpo.training.listener import Listener, Outcome
from bgpo.training.machine import choose_device
from bgpo.training.plugins import judge_of, keep_copies, task_of
from bgpo.training.policy import fresh_policy
from bgpo.training.rollouts import Judge, trace_json, verdicts_on
from bgpo.training.seeds import derived_seed, python_random

COMPLETIONS_FILE, RESULTS_FILE = "completions.jsonl", "evaluation.json"
SPLITS = ("held_out", "validation")
_ROWS_PER_PASS = 256
_Z = 1.959964  # two-sided 95 %


@dataclass(frozen=True)
class Score:
    """One length.

    Attributes:
        pass_1: mean over problems of the share of right completions; low, high: its 95 % interval.
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


@dataclass(frozen=True)
class Judged:
    """One completion and its verdict."""

    length: int
    problem_index: int
    sample: int
    prompt: str
    expected: str
    completion: str
    reward: float
    reason: str
    parts: dict[str, float]
    tokens: int
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
    nfe = 0.0
    for start in range(0, len(rows), _ROWS_PER_PASS):
        part = rows[start : start + _ROWS_PER_PASS]
        asked = [listed[index] for index, _ in part]
        prompt_ids = model.encode_prompts([problem.prompt for problem in asked], task.prompt_length)
        noise = Noise(seed, torch.arange(start, start + len(part), device=model.device))
        done = complete(model, prompt_ids, settings, noise, check)
        nfe += float(done.nfe.sum())
        texts, tokens = model.decode(done.ids), model.completion_tokens(done.ids).tolist()
        verdicts = verdicts_on(asked, texts, task, judge)
        for row, (index, sample) in enumerate(part):
            verdict = verdicts[row]
            judged.append(Judged(
                length, index, sample, asked[row].prompt, asked[row].expected, texts[row], float(verdict.total),
                verdict.reason, dict(verdict.parts), tokens[row],
                trace_json(model, done.ids[row], done.commit_step[row], done.confidence[row]),
            ))
    return _score(judged, length, len(listed), k, nfe / len(rows)), judged


def _score(judged: list[Judged], length: int, count: int, samples: int, nfe: float) -> Score:
    right = [0] * count
    for one in judged:
        right[one.problem_index] += one.reward >= 1
    low, high = interval(right, samples)
    return Score(
        length, count, samples, sum(right) / (samples * count), low, high,
        sum(pass_at(samples, r, samples) for r in right) / count, sum(one.tokens for one in judged) / len(judged), nfe,
    )


class _StopRequested(Exception):
    """Unwinds from the middle of a length."""


def run(config: TrainConfig, folder: Path, listener: Listener, warm_start_cache: Path) -> Outcome:
    """The job `evaluate`: the model of `start_from` or `model_path`, at each of `eval_lengths`.

    Completions go to completions.jsonl in the run's folder, scores to evaluation.json and to the metrics `eval/...`,
    whose step is the completion length.

    Raises:
        ValueError: when the weights or the problems cannot be had.
    """
    listener.phase("starting", 0, 1)
    device = choose_device(config.device)
    if config.threads:
        torch.set_num_threads(config.threads)
    keep_copies(config, folder)
    task = with_prompt_length(task_of(config, folder), prompt_room(config))
    model = fresh_policy(config, device)
    model.model.eval()
    listed = problems(task, "held_out", config.eval_problems, python_random(0, "held out"), distinct=True)

    def check() -> None:
        if listener.should_stop():
            raise _StopRequested

    lengths = eval_lengths(config)
    scores: list[Score] = []
    try:
        with (folder / COMPLETIONS_FILE).open("w") as file:
            for done, length in enumerate(lengths):
                listener.phase("evaluating", done, len(lengths))
                score, judged = assess(model, task, config, listed, length, judge_of(config, folder), check)
                file.writelines(json.dumps(asdict(one)) + "\n" for one in judged)
                scores.append(score)
                listener.completions(length, list(_shown(judged)))
                listener.metrics(length, _metrics(score))
    except _StopRequested:
        return Outcome("stopped", len(scores))
    (folder / RESULTS_FILE).write_text(json.dumps([asdict(score) for score in scores], indent=1))
    listener.phase("evaluating", len(lengths), len(lengths))
    return Outcome("finished", len(scores))


def _metrics(score: Score) -> dict[str, float]:
    return {
        "eval/pass_1": score.pass_1, "eval/pass_1_low": score.low, "eval/pass_1_high": score.high,
        "eval/pass_k": score.pass_k, "eval/tokens": score.tokens, "eval/nfe": score.nfe,
    }


def _shown(judged: list[Judged], most: int = 200) -> Iterator[HeldOutCompletion]:
    for index, one in enumerate(judged[:most]):
        yield HeldOutCompletion(
            index, one.prompt, one.completion, one.expected, one.reward, one.reason, one.trace
        )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="folders of checkpoints")
    parser.add_argument("--task", required=True, nargs="+")
    parser.add_argument("--split", choices=SPLITS, default="held_out")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--completions", type=Path, help="a JSONL file for every completion with its verdict")
    for name in ("completion_length", "denoising_steps", "block_length", "eval_lengths", "eval_samples",
                 "eval_problems", "eval_remasking", "eval_schedule", "eval_cache", "eval_cfg_scale", "temperature",
                 "eval_tokens_per_pass", "seed", "device"):
        parser.add_argument("--" + name.replace("_", "-"), dest=name, default=None)
    given = parser.parse_args(argv)
    try:
        rows = _table(given)
    except (ConfigError, ValueError, OSError) as error:
        print(f"evaluation: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps({"split": given.split, "scores": rows}))
    return 0


def _table(given: argparse.Namespace) -> list[dict[str, Any]]:
    knobs = {
        name: value for name, value in vars(given).items()
        if value is not None and name in TrainConfig.model_fields and name != "task"
    }
    rows: list[dict[str, Any]] = []
    print(f"{'checkpoint':<40} {'task':<14} {'length':>6} | {'pass@1':>6}  95 % interval  {'pass@k':>6} | problems x k")
    for folder in given.checkpoint:
        model = load_model(folder, choose_device(knobs.get("device", "auto")))
        model.model.eval()
        for name in given.task:
            config = TrainConfig.parse({"job": "evaluate", "task": name, "model": model.spec.family,
                                        "start_from": str(folder), **knobs})
            task = with_prompt_length(open_task(config), prompt_room(config))
            listed = problems(task, given.split, config.eval_problems, python_random(0, "held out"), distinct=True)
            for length in eval_lengths(config):
                score, judged = assess(model, task, config, listed, length)
                rows.append({"checkpoint": str(folder), "task": name, **asdict(score)})
                print(f"{str(folder)[-40:]:<40} {name:<14} {length:>6} | {score.pass_1:>6.3f}  {score.low:.3f} to "
                      f"{score.high:.3f}  {score.pass_k:>6.3f} | {score.problems} x {score.samples}", flush=True)
                if given.completions:
                    with given.completions.open("a") as file:
                        file.writelines(json.dumps({"checkpoint": str(folder), "task": name, **asdict(one)}) + "\n"
                                        for one in judged)
    return rows


if __name__ == "__main__":
    sys.exit(main())
