"""What a task says to the knobs of a config: contradictions, each naming both knobs and two ways out."""

from __future__ import annotations

from bgpo.tasks.base import Task, TaskKnobs
from bgpo.tasks.listed import ListedTask
from bgpo.tasks.own_data import OwnData
from bgpo.tasks.own_file import OwnFile
from bgpo.tasks.registry import TASKS

_LONGEST_SHOWN = 40


def task_contradictions(
    knobs: TaskKnobs, *, completion_length: int, built_in_model: bool, trains: bool, warmup_steps: int
) -> dict[str, str]:
    """Sentences by knob.

    Args:
        completion_length: tokens that an answer has room in.
        built_in_model: the model is the tiny one, which knows characters and no words.
        trains: the run draws training problems.
        warmup_steps: supervised steps on demonstrations, which only generated tasks have.
    """
    task = TASKS[knobs.task]
    problems = _unread(knobs, task) | _missing(knobs) | _protocol(knobs, task) | _room(completion_length, task)
    if built_in_model and task.reads_words:
        problems["task"] = (
            f"task = {task.name} asks in words, which model = tiny cannot read; set task to {_small_tasks()}, or "
            "choose another model."
        )
    if trains and "train" not in task.splits:
        problems["task"] = (
            f"task = {task.name} is published for evaluation only and has no training problems; set job to evaluate, "
            "or task to one that has, such as mbpp."
        )
    # not isinstance(task, GeneratedTask): that takes a fifth of the reading of a config, and lists read hundreds
    if trains and warmup_steps and not hasattr(task, "demonstration"):
        problems["warmup_steps"] = (
            f"warmup_steps = {warmup_steps} needs demonstrations, and task = {task.name} has none; set warmup_steps to "
            f"0, or task to {_small_tasks()}."
        )
    return problems


def _unread(knobs: TaskKnobs, task: Task) -> dict[str, str]:
    if knobs.data and (not isinstance(task, ListedTask) or task.name == OwnFile.name):
        return {"data": (
            f"data = {knobs.data[:_LONGEST_SHOWN]} is not read by task = {task.name}, which makes its problems; empty "
            "data, or choose a task that reads one, such as gsm8k."
        )}
    if knobs.task_file and task.name != OwnFile.name:
        return {"task_file": (
            f"task_file = {knobs.task_file[:_LONGEST_SHOWN]} is not read by task = {task.name}; empty task_file, or "
            f"set task to {OwnFile.name}."
        )}
    return {}


def _missing(knobs: TaskKnobs) -> dict[str, str]:
    if knobs.task == OwnFile.name and not knobs.task_file:
        return {"task_file": "task = own_file without a task_file; name the Python file, or choose another task."}
    if knobs.task == OwnData.name and not knobs.data:
        return {"data": "task = own_data without data; name a file, a folder or a hub id, or choose another task."}
    return {}


def _protocol(knobs: TaskKnobs, task: Task) -> dict[str, str]:
    if knobs.protocol in ("auto", *task.protocols):
        return {}
    known = ", ".join(("auto", *task.protocols))
    return {"protocol": (
        f"protocol = {knobs.protocol} is not published for task = {task.name}; set protocol to one of {known}, or "
        "choose another task."
    )}


def _room(completion_length: int, task: Task) -> dict[str, str]:
    if completion_length >= task.longest_answer:
        return {}
    return {"completion_length": (
        f"completion_length = {completion_length} cannot hold an answer of task = {task.name}, which takes up to "
        f"{task.longest_answer} tokens; raise completion_length to {task.longest_answer} or choose another task."
    )}


def _small_tasks() -> str:
    return " or ".join(name for name, task in TASKS.items() if not task.reads_words)
