"""The tasks by name. A new task is a file beside this one and a line here."""

from __future__ import annotations

from bgpo.tasks.adder import Adder
from bgpo.tasks.base import Task, TaskKnobs
from bgpo.tasks.competition_math import CompetitionMath
from bgpo.tasks.countdown import Countdown
from bgpo.tasks.countdown_numbers import CountdownNumbers
from bgpo.tasks.gsm8k import Gsm8k
from bgpo.tasks.humaneval import HumanEval
from bgpo.tasks.listed import ListedTask
from bgpo.tasks.mbpp import Mbpp
from bgpo.tasks.own_data import OwnData
from bgpo.tasks.own_file import OwnFile
from bgpo.tasks.stack_programs import StackPrograms
from bgpo.tasks.sudoku import Sudoku

TASKS: dict[str, Task] = {task.name: task for task in (
    Adder(), StackPrograms(), Countdown(), Gsm8k(), CompetitionMath(), CountdownNumbers(), Sudoku(), Mbpp(),
    HumanEval(), OwnData(), OwnFile(),
)}

# published ways to ask and to reward; auto takes a task's first
PROTOCOLS = ("auto", *dict.fromkeys(protocol for task in TASKS.values() for protocol in task.protocols))


def open_task(knobs: TaskKnobs) -> Task:
    """The task as a config sets it up. Data is read when problems are first asked for."""
    task = TASKS[knobs.task]
    return task.opened(knobs) if isinstance(task, ListedTask) else task
