"""Measuring a checkpoint: pass@1 and pass@k at several completion lengths, with intervals, every completion kept.

    python -m bgpo.training.evaluation --checkpoint FOLDER --task adder --eval-lengths 8,16 --eval-samples 4 --json
    python -m bgpo.training.evaluation --checkpoint A B --task gsm8k math --data gsm8k=gsm8k.jsonl --eval-lengths 256

The job `evaluate` does the same for the config of a run. Problems are those of the held-out split, or of `--split
validation`, on which checkpoints are chosen: a choice made on held-out problems would make their reward say too much.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bgpo.config import ConfigError, TrainConfig, prompt_room
from bgpo.models.checkpoints import load_model
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.tasks.base import problems, with_prompt_length
from bgpo.tasks.registry import open_task
from bgpo.training.evaluation import HeldOutCompletion
from bgpo.training.listener import Listener, Outcome
from bgpo.training.machine import choose_device
from bgpo.training.metrics import COMPLETIONS_FILE
from bgpo.training.plugins import judge_of, keep_copies, task_of
from bgpo.training.policy import fresh_policy, refuse_other_blocks
from bgpo.training.scores import Score, assess
from bgpo.training.seeds import python_random

RESULTS_FILE = "evaluation.json"
SPLITS = ("held_out", "validation")
_SHOWN = 200


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
                listener.completions(
                    length, [HeldOutCompletion.of(index, one) for index, one in enumerate(judged[:_SHOWN])]
                )
                listener.metrics(length, score.metrics())
    except _StopRequested:
        return Outcome("stopped", len(scores))
    (folder / RESULTS_FILE).write_text(json.dumps([asdict(score) for score in scores], indent=1))
    listener.phase("evaluating", len(lengths), len(lengths))
    return Outcome("finished", len(scores))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True, nargs="+", help="folders of checkpoints")
    parser.add_argument("--task", required=True, nargs="+")
    parser.add_argument("--split", choices=SPLITS, default="held_out")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    parser.add_argument("--completions", type=Path, help="a JSONL file for every completion with its verdict")
    parser.add_argument("--data", nargs="+", default=[], metavar="[TASK=]PATH",
                        help="problems to read in place of the published ones, of all tasks or of one")
    for name in ("completion_length", "denoising_steps", "block_length", "eval_lengths", "eval_samples",
                 "eval_problems", "eval_remasking", "eval_schedule", "eval_cache", "eval_cfg_scale", "temperature",
                 "eval_tokens_per_pass", "protocol", "prompt_style", "checker", "task_file", "seed", "device"):
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
        if value is not None and name in TrainConfig.model_fields and name not in ("task", "data")
    }
    if "completion_length" not in knobs and (first := knobs.get("eval_lengths", "").split(",")[0].strip()):
        knobs |= {"completion_length": first, "denoising_steps": knobs.get("denoising_steps", first)}
    data = _data_of(given.data, given.task)
    rows: list[dict[str, Any]] = []
    print(f"{'checkpoint':<40} {'task':<14} {'length':>6} | {'pass@1':>6}  95 % interval  {'pass@k':>6} | problems x k")
    for folder in given.checkpoint:
        model = load_model(folder, choose_device(knobs.get("device", "auto")))
        model.model.eval()
        for name in given.task:
            config = TrainConfig.parse({"job": "evaluate", "task": name, "model": model.spec.family,
                                        "start_from": str(folder), "data": data[name], **knobs})
            refuse_other_blocks(model, config)
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


def _data_of(given: list[str], tasks: list[str]) -> dict[str, str]:
    """Where each task's problems come from, "" for the published ones. Raises ValueError for a task not asked for."""
    found = dict.fromkeys(tasks, "")
    for words in sorted(given, key=lambda words: "=" in words):  # what is said of one task counts more
        task, named, path = words.partition("=")
        if named and task not in tasks and not Path(words).exists():
            raise ValueError(f"--data {words} is for task {task}, which is not among {', '.join(tasks)}; give one of "
                             "these before the =, or a path alone.")
        found |= {task: path} if named and task in tasks else dict.fromkeys(tasks, words)
    return found


if __name__ == "__main__":
    sys.exit(main())
