"""What the Chat page and the Lab say of checkpoints, settings and devices. Pure functions over rows; torch-free."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from bgpo.config import TrainConfig
from bgpo.models.decoding import FIXED_SCHEDULES
from bgpo.models.registry import MODELS
from bgpo.tasks.registry import TASKS
from storage.checkpoints import Checkpoint
from storage.runs import LIVE, Run
from ui.run_times import remaining, span_words
from ui.run_words import config_of

_KINDS = {"warm_start": "warm start", "evaluation": "evaluation", "final": "final", "stop": "saved at stop"}
ONE_TURN = "The built-in model has learnt single problems, so it reads each message on its own."
READS_TURNS = (
    "The model reads the whole conversation, also what another checkpoint has answered; of two, each goes on with its "
    "own answers."
)
NO_CHECKPOINT = "Start a run first; its warm start is a checkpoint after about a minute."
START_ONE = {"kind": "idle", "text": NO_CHECKPOINT, "action": {"label": "New run", "area": "new"}}
EMPTY = "The answer appears here: a row of masks that fills in, step by step, as the model decides."
EMPTY_B = "The same prompt, from the same noise: B answers once A has."
A_FIRST = {"kind": "loading", "text": "Waits until A has answered."}
NOT_ASKED = {"kind": "idle", "text": "A did not finish, so B was not asked."}
ITSELF = "B is the same checkpoint as A; choose another one, or none."
ONE_AT_A_TIME = "An answer is under way; stop it, or ask when it is there."
GONE = "This checkpoint has been deleted; choose another."



def checkpoint_choices(runs: list[Run], checkpoints: list[Checkpoint]) -> list[tuple[str, int]]:
    """(label, checkpoint id), newest run first and its newest checkpoint first; unreadable configs are left out."""
    names = {run.id: config.task for run in runs if (config := config_of(run))}
    order = sorted((c for c in checkpoints if c.run_id in names), key=lambda c: (c.run_id, c.step), reverse=True)
    return [(checkpoint_words(c, names[c.run_id]), c.id) for c in order]


def checkpoint_words(checkpoint: Checkpoint, task: str) -> str:
    """`"Run 3 \u00b7 step 20 \u00b7 reward 0.84 \u00b7 adder, evaluation"`: what a narrow box cuts comes last."""
    kind = _KINDS.get(checkpoint.kind, checkpoint.kind)
    reward = "" if checkpoint.reward is None else f" \u00b7 reward {checkpoint.reward:.2f}"
    return f"Run {checkpoint.run_id} \u00b7 step {checkpoint.step}{reward} \u00b7 {task}, {kind}"


def chosen_id(search: str, choices: list[tuple[str, int]], current: int | None) -> int | None:
    """The checkpoint to show: the address's, else the one chosen before, else the newest; None without any."""
    known = [value for _, value in choices]
    wanted = parse_qs(search.removeprefix("?")).get("checkpoint", [""])[0]
    for candidate in (int(wanted) if wanted.isascii() and wanted.isdigit() and len(wanted) < 16 else None, current):
        if candidate in known:
            return candidate
    return known[0] if known else None


def divisors(length: int) -> list[int]:
    return [d for d in range(1, length + 1) if length % d == 0]


def setting_words(settings: Mapping[str, Any]) -> str:
    """Sampler settings in a line, for the list of answers."""
    order = str(settings["remasking"]).replace("_", " ")
    temperature = f"T = {settings['temperature']:g}" if settings["temperature"] else "greedy"
    schedule, cache = (str(settings.get(name, usual)) for name, usual in (("schedule", "quota"), ("cache", "none")))
    steps = f"{settings['denoising_steps']} steps" if schedule in FIXED_SCHEDULES else schedule.replace("_", " ")
    cached = "" if cache == "none" else f", {cache.replace('_', ' ')} cache"
    guided = f", guidance {settings['cfg_scale']:g}" if settings.get("cfg_scale") else ""
    return f"{steps}, {temperature}, {order}{cached}{guided}, seed {settings['seed']}"


def reads_turns(config: TrainConfig) -> bool:
    """Whether a run's model makes anything of earlier turns."""
    return not MODELS[config.model].built_in


def prompt_hint(config: TrainConfig) -> str:
    """What an empty prompt box says: a problem in the task's form, unless it is written in sentences."""
    task = TASKS[config.task]
    return "Write a message, or take a problem below." if task.reads_words else task.placeholder


def kept_prompt(task: str, prompt: str, example: str) -> str:
    """What the prompt box holds after another checkpoint is chosen: the same prompt if its task can read it."""
    try:
        TASKS[task].problem_from(prompt or "")
    except ValueError:
        return prompt if TASKS[task].reads_words and " " in (prompt or "") else example
    return prompt


def waiting_words(event: Mapping[str, Any], runs: Sequence[Run]) -> str:
    """What a question waits for: others before it, or the runs that hold the GPU, and about how long they take."""
    ahead = event["ahead"]
    queue = f"{ahead} {'question goes' if ahead == 1 else 'questions go'} first." if ahead else ""
    held = taken_words(event["message"], event["runs"], runs) if event["message"] else ""
    return f"Waiting. {held} {queue}".replace("  ", " ").strip()


def taken_words(message: str, holders: Sequence[int], runs: Sequence[Run]) -> str:
    """The sentence about the GPU, and how long each run that holds it still takes where that is known."""
    said = [message]
    for run in runs:
        if run.id in holders:
            left = remaining(run, runs) if run.status in LIVE else None
            steps = f"Run {run.id} is at step {run.step} of {run.train_steps}"
            said.append(f"{steps}, {span_words(left)} left." if left else f"{steps}.")
    return " ".join(said)
