"""The problems to try on the Chat page: those held out from a run, a page of them at a time."""

from __future__ import annotations

from typing import Any

import gradio as gr

from bgpo.config import TrainConfig
from bgpo.jobs.grading import TaskDesk
from bgpo.tasks.base import FiniteTask, TaskError
from bgpo.tasks.registry import TASKS
from ui.tabs import PLAIN

SHOWN = 6
_LABEL = "Held-out problems to try"


class ExamplesBox:
    """Problems to take with a click, and a button for others, made in the current container.

    `page` holds the number of the page that is shown.
    """

    def __init__(self, desk: TaskDesk, prompt: gr.Textbox):
        self.desk = desk
        self.page = gr.State(0)
        self.list = gr.Dataset(
            components=["textbox"], samples=[], label=_LABEL, type="values", samples_per_page=SHOWN,
            elem_id="chat-examples", visible=False,
        )
        self.others = gr.Button("Other problems", size="sm", elem_id="chat-others", visible=False)
        self.list.click(lambda row: row[0], self.list, prompt, **PLAIN)

    @property
    def outputs(self) -> list[Any]:
        return [self.list, self.others, self.page]

    def first(self, config: TrainConfig) -> tuple[str, list[Any]]:
        """(an example for the prompt, updates): problems that are made at once; else a typical one until `read`, and an
        empty prompt, which does not move what stands below it when a problem is taken."""
        task = TASKS[config.task]
        if isinstance(task, FiniteTask):
            samples, label = [task.placeholder], "Reading the run's problems\u2026"
        else:
            samples, label = [example.question for example in self.desk.examples(config, "", SHOWN)], _LABEL
        listed = gr.update(samples=[[text] for text in samples], label=label, visible=True)
        return samples[0] if label == _LABEL else "", [listed, gr.update(visible=label == _LABEL), 0]

    def read(self, config: TrainConfig, folder: str, page: int) -> list[Any]:
        """Updates with a page of the run's own problems, read from its data."""
        try:
            examples = self.desk.examples(config, folder, SHOWN, page)
        except TaskError as error:
            return [gr.update(label=f"The run's problems cannot be read. {error}"), gr.update(visible=False), page]
        samples = [[example.question] for example in examples]
        return [gr.update(samples=samples, label=_LABEL, visible=True), gr.update(visible=True), page]
