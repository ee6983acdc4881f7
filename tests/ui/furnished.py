"""A data folder in which every view of the app has something to show, with one text wherever a text can stand."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

from bgpo.config import TrainConfig
from bgpo.presets import PRESETS
from storage.alerts import Alert
from storage.checkpoints import add_checkpoint
from storage.completions import Completion
from storage.database import Database
from storage.labels import save_view, set_notes, set_tags
from storage.metrics import Point, Progress, flush
from storage.rollouts import Rollout
from storage.runs import Run, create_run, get_run, transition
from storage.settings import pause_queue

STEPS = 20
EVALUATED = (0, 10, STEPS)
FLAT = {
    "reward/mean": 0.5, "bound/gap": 0.0, "bound/elbo_objective": 0.0, "bound/gap_after": 0.001,
    "bound/elbo_objective_after": 0.01, "memory/saved_mb": 64.0, "memory/rss_mb": 500.0, "memory/pass_tokens": 2048.0,
}


@dataclass(frozen=True)
class Furnished:
    """Runs by what there is to see of them."""

    text: str
    full: Run  # curves, samples, rollouts, alerts, tags, notes, log, checkpoints, an evaluation, a memory probe
    other: Run  # the same with another learning rate, to be compared
    failed: Run
    queued: Run  # behind a paused queue


def furnish(db: Database, runs_folder: Path, text: str) -> Furnished:
    """Writes it all; `text` becomes names, tags, notes, prompts, completions, reasons, parts, logs, knobs, alerts."""
    pause_queue(db, True)
    full, other = (_trained(db, runs_folder, f"{text} {word}", rate) for word, rate in (("one", 1e-4), ("two", 3e-4)))
    set_tags(db, full.id, [text[:30]])
    set_notes(db, full.id, text)
    save_view(db, text[:70], f"run={full.id}")
    failed = _run(db, runs_folder, f"{text} failed", objective="custom", objective_file=f"{text}.py")
    Path(failed.folder, "log.txt").write_text(f"{text}\n")
    transition(db, failed.id, ("stopped",), "failed", failure_kind="exception", reason=text)
    queued = _run(db, runs_folder, f"{text} queued", status="queued")
    _measured(db, runs_folder, full, text)
    return Furnished(text, full, other, get_run(db, failed.id), queued)


def _run(db: Database, runs_folder: Path, name: str, status: str = "stopped", **values) -> Run:
    config = PRESETS["adder"].config().with_values(train_steps=STEPS, **values)
    return create_run(db, name=name, config_json=config.to_json(), train_steps=STEPS, runs_folder=runs_folder,
                      status=status)


def _trained(db: Database, runs_folder: Path, name: str, rate: float) -> Run:
    run = _run(db, runs_folder, name, learning_rate=rate, reward_file=f"{name}.py")
    points = [Point(metric, step, 1.5 * step, value) for metric, value in FLAT.items() for step in range(1, STEPS + 1)]
    points += [Point(f"other/{name}"[:200], step, 1.5 * step, 0.5) for step in range(1, STEPS + 1)]
    points += [Point("reward/heldout_greedy", step, 1.5 * step, 0.2 + step / 40) for step in EVALUATED]
    alert = Alert(3, "policy_drift", "warning", name, time.time() - 9)
    flush(db, run.id, points, _samples(name), Progress("training", STEPS, STEPS, None, STEPS, 60.0), [alert],
          _rollouts(name))
    log = f"{name}\n\r{name}\r\x1b[31m{name}\x00\n{'x' * 10**6}\n{name}\n"  # as processes print, with a line of 1 MB
    Path(run.folder, "log.txt").write_text(log)
    for step in EVALUATED:
        add_checkpoint(db, run.id, step, "evaluation", str(Path(run.folder, "checkpoints", f"step-{step:06}")), 0.5)
    transition(db, run.id, ("stopped",), "finished", reason=name)
    return get_run(db, run.id)


def _trace(text: str) -> str:
    return json.dumps([[1, 1, text, 0.5], [2, 0, f"{text}\x00", 0.9]])


def _samples(text: str) -> list[Completion]:
    return [Completion(step, "held_out", index, f"{text} {index}", text, f"{text} expected", float(index), text,
                       _trace(text)) for step in EVALUATED for index in (0, 1)]


def _rollouts(text: str) -> list[Rollout]:
    """Two steps of a mixed group and one that is all wrong, whose completions are long."""
    return [
        Rollout(step, problem, index, f"{text} problem {problem}", text + problem * 2000 * "long ", f"{text} expected",
                float(problem == index == 0), 0.5 - index, 2, text,
                {text[:60]: 0.0, "correct": float(problem == index == 0)}, _trace(text))
        for step in (1, 2) for problem in (0, 1) for index in (0, 1)
    ]  # fmt: skip


def _measured(db: Database, runs_folder: Path, parent: Run, name: str) -> None:
    """An evaluation of the parent's last step, and a probe of its memory."""
    scores = {"pass_1": 0.5, "pass_1_low": 0.4, "pass_1_high": 0.6, "pass_k": 0.7, "tokens": 7.0, "nfe": 4.0}
    held = {("bgpo", 1): 20.0, ("bgpo", 16): 20.0, ("elbo", 1): 20.0, ("elbo", 16): 320.0}
    found = {
        "evaluate": [Point(f"eval/{metric}", 8, 1.0, value) for metric, value in scores.items()],
        "probe": [Point(f"probe/{objective}_saved_mb", draws, 1.0, mb) for (objective, draws), mb in held.items()],
    }
    for job, points in found.items():
        config = TrainConfig(job=job).with_values(eval_lengths="8")
        run = create_run(db, name=f"{name} {job}", config_json=config.to_json(), train_steps=1, status="stopped",
                         runs_folder=runs_folder, parent_id=parent.id, parent_step=STEPS)
        flush(db, run.id, points)
        transition(db, run.id, ("stopped",), "finished")
