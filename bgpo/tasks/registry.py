"""The tasks by name. A new task is a file beside this one and a line here."""

from __future__ import annotations

from bgpo.tasks.adder import Adder
from bgpo.tasks.base import Task
from bgpo.tasks.countdown import Countdown
from bgpo.tasks.stack_programs import StackPrograms

TASKS: dict[str, Task] = {task.name: task for task in (Adder(), StackPrograms(), Countdown())}
