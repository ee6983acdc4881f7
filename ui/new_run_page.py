"""The New run page: presets on top, every knob below, and beside them what Start will do."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import gradio as gr

from bgpo.config import KNOBS, ConfigError, TrainConfig
from bgpo.jobs import control, sweeps
from bgpo.jobs.devices import nvidia_gpus
from bgpo.jobs.lineage import origin
from bgpo.presets import PRESETS
from storage.database import StorageError
from storage.runs import Run, list_runs
from storage.settings import cpu_slots
from ui import config_form, launch_options
from ui.components.launch_card import config_drop, launch_card, preset_cards, preset_choice, review, task_preview
from ui.config_file import read_file
from ui.services import Services
from ui.start_words import read_queue, start_words
from ui.tabs import PLAIN, on_open

# Start answers with the run's id, or 0 when nothing was started; what filled the form leaves the address
_FILLING = json.dumps(["preset", *KNOBS])
_OPEN_RUN = f"""(id) => {{
  if (!id) return;
  const query = new URLSearchParams(location.search);
  for (const name of {_FILLING}) query.delete(name);
  history.replaceState(history.state, "", query.size ? `?${{query}}` : location.pathname);
  window.bgpo.openRun(id);
}}"""


class NewRunPage:
    """The page's controls and the three things that can happen on it: an edit, a preset, Start."""

    def __init__(self, services: Services):
        self.services = services
        first = next(iter(PRESETS))
        self.preset = gr.State(first)
        self.address = gr.State("")  # the address that filled the form last, so that coming back keeps edits
        self.cards = preset_cards(first)
        self.file = config_drop()
        with gr.Row(elem_id="new-run-body"):
            with gr.Column(elem_id="new-run-form", elem_classes="bgpo-form", scale=5, min_width=0):
                task_preview()
                self.controls = config_form.build()
            with gr.Column(elem_id="new-run-side", scale=3, min_width=0):
                with gr.Column(elem_classes="bgpo-form knob-group"):
                    self.name = gr.Textbox(
                        label="Name", placeholder="Named after its knobs if empty", max_lines=1,
                        max_length=control.NAME_LIMIT, elem_id="new-run-name",
                    )
                    self.options = launch_options.build()
                self.start = gr.Button("Start", variant="primary", elem_id="new-run-start")
                self.card = launch_card()
        self.started = gr.Number(0, visible=False)
        self._connect()

    def _connect(self) -> None:
        everything = {self.preset, self.name, *self.controls.values(), *self.options.values()}
        options = [option.change for option in self.options.values()]
        gr.on([*config_form.edits(self.controls.values()), *options], self.edited, everything, self.card,
              trigger_mode="always_last", **PLAIN)
        self.card.click(self.edited, everything, self.card, trigger_mode="always_last", **PLAIN)  # the queue changed
        controls = list(self.controls.values())
        filled = [self.preset, self.cards, self.card, *controls]
        self.cards.click(self.preset_chosen, None, filled, **PLAIN)
        self.file.click(self.file_given, None, [self.file, *filled], **PLAIN)
        on_open(self.opened, [self.address, *filled], inputs=[self.address, self.preset, *controls])
        self.start.click(self.start_pressed, everything, [self.started, self.card], **PLAIN).then(
            None, self.started, None, js=_OPEN_RUN,
        )

    def edited(self, given: dict[Any, Any]) -> dict[str, Any]:
        return self._review(self._values(given), given[self.preset], options=self._options(given))

    def preset_chosen(self, event: gr.EventData) -> list[Any]:
        name = event.preset if getattr(event, "preset", None) in PRESETS else next(iter(PRESETS))
        values = PRESETS[name].config().model_dump()
        return [name, preset_choice(name), self._review(values, name), *self._shown(values)]

    def file_given(self, event: gr.EventData) -> list[Any]:
        """A config file fills the form; one that is none changes nothing but the line that says so."""
        name = str(getattr(event, "name", ""))[:80]
        try:
            found = read_file(str(getattr(event, "text", "")))
        except ValueError as error:
            return [{"said": f"{name}: {error}", "notes": []}, *[gr.skip()] * (3 + len(KNOBS))]
        ends = ", with this to note:" if found.ignored else "."
        said = {"said": f"The form holds what {name} says{ends}", "notes": found.ignored}
        card = self._review(found.values, found.preset)
        return [said, found.preset, preset_choice(found.preset), card, *self._shown(found.values)]

    def opened(self, search: str, address: str, preset: str, *given: Any) -> list[Any]:
        """The tab is opened: an address that asks for a preset or knobs fills the form, once."""
        wanted = config_form.prefill(dict(parse_qsl(search.removeprefix("?"))[:100])) if search != address else None
        if wanted is None:
            unchanged = [gr.skip()] * len(KNOBS)
            return [search, gr.skip(), gr.skip(), self._review(dict(zip(KNOBS, given)), preset), *unchanged]
        card = self._review(wanted.values, wanted.preset, notes=wanted.ignored)
        return [search, wanted.preset, preset_choice(wanted.preset), card, *self._shown(wanted.values)]

    def start_pressed(self, given: dict[Any, Any]) -> tuple[int, dict[str, Any]]:
        """Queues the run or the sweep, or says why not; a form with a problem starts nothing."""
        values, preset, options = self._values(given), given[self.preset], self._options(given)
        try:
            run = self._launch(config_form.read(values), options, given[self.name])
        except (ConfigError, launch_options.OptionError):
            return 0, self._review(values, preset, options=options)
        except (control.ControlError, StorageError, ValueError) as error:
            return 0, self._review(values, preset, refused=str(error), options=options)
        return run.id, self._review(values, preset, options=options)

    def _launch(self, config: TrainConfig, options: Mapping[str, Any], name: str) -> Run:
        choice = launch_options.read(options, time.time())
        db, folder = self.services.db, self.services.runs_folder
        launch_options.preview(config, choice, list_runs(db), cpu_slots(db))
        if choice.lines:
            return sweeps.launch(db, config, choice.lines, choice.samples, folder, name, **choice.place)[0]
        return control.submit(db, config, folder, name, **choice.place)

    def _options(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: given.get(component, component.value) for name, component in self.options.items()}

    def _values(self, given: Mapping[Any, Any]) -> dict[str, Any]:
        return {name: given[component] for name, component in self.controls.items()}

    def _shown(self, values: Mapping[str, Any]) -> list[Any]:
        return [values[name] for name in self.controls]

    def _review(
        self, values: Mapping[str, Any], preset: str, options: Mapping[str, Any] | None = None, refused: str = "",
        **more: Any,
    ) -> dict[str, Any]:
        runs, slots, now = list_runs(self.services.db), cpu_slots(self.services.db), time.time()
        group: list[str] = []
        place: dict[str, Any] = {}
        problems: dict[str, str] = {}
        try:
            choice = launch_options.read(options or self._options({}), now)
            place = choice.place
            group = launch_options.preview(config_form.read(values), choice, runs, slots)
        except ConfigError:
            pass  # the fields say so
        except launch_options.OptionError as error:
            problems[error.field] = str(error)
        queue = read_queue(self.services.db, runs, slots, nvidia_gpus(), now)

        def starts(config: TrainConfig) -> tuple[str, TrainConfig]:
            begin = origin(self.services.db, config)
            waits = {} if begin.waits_for is None else {"after_id": begin.waits_for}
            return start_words(config, waits | place, queue), begin.config

        return review(
            values, preset, self.services.database_url, starts, refused=refused, group=group, problems=problems, **more,
        )


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    NewRunPage(services)
