"""The Chat page: choose a checkpoint, or two, ask something, watch the answers denoise and say which is better."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import gradio as gr

from bgpo.config import EVAL_ORDERS, KNOBS, TrainConfig
from bgpo.jobs.chat import ChatError, ChatSettings
from bgpo.models.decoding import CACHES, FIXED_SCHEDULES, SCHEDULES
from bgpo.tasks.registry import TASKS
from storage.checkpoints import Checkpoint, all_checkpoints
from storage.runs import Run, list_runs
from storage.votes import Comparison
from ui.chat_votes import VoteBar
from ui.components.denoise_stage import denoise_stage, generation
from ui.components.field_errors import field_errors, problems_at
from ui.config_form import UnjudgedSlider, edits
from ui.run_words import config_of
from ui.services import Services
from ui.tabs import on_open

FIELD = "chat-"
SETTINGS = (
    "denoising_steps", "block_length", "temperature", "remasking", "seed", "schedule", "confidence_threshold", "cache",
    "cfg_scale",
)
FIELDS = ("checkpoint", "checkpoint_b", "prompt", *SETTINGS)
NO_SECOND = 0  # in place of the id of checkpoint B
EXAMPLES = 6
PUSH_EVERY = 0.05  # seconds between updates of the page; faster events share one
_NO_CHECKPOINT = "Start a run first; its warm start is a checkpoint after about a minute."
_START_ONE = {"kind": "idle", "text": _NO_CHECKPOINT, "action": {"label": "New run", "area": "new"}}
_EMPTY = "The answer appears here: a row of masks that fills in, step by step, as the model decides."
_EMPTY_B = "The same prompt, from the same noise: B answers once A has."
_A_FIRST = {"kind": "loading", "text": "Waits until A has answered."}
_NOT_ASKED = {"kind": "idle", "text": "A did not finish, so B was not asked."}
_ITSELF = "B is the same checkpoint as A; choose another one, or none."
_GONE = "This checkpoint has been deleted; choose another."
_KINDS = {"warm_start": "warm start", "evaluation": "evaluation", "final": "final", "stop": "saved at stop"}


# ---- what the page shows, without a browser ------------------------------------------------------------------------


def checkpoint_choices(runs: list[Run], checkpoints: list[Checkpoint]) -> list[tuple[str, int]]:
    """(label, checkpoint id), newest run first and its newest checkpoint first; unreadable configs are left out."""
    names = {run.id: config.task for run in runs if (config := config_of(run))}
    order = sorted((c for c in checkpoints if c.run_id in names), key=lambda c: (c.run_id, c.step), reverse=True)
    return [(checkpoint_words(c, names[c.run_id]), c.id) for c in order]


def checkpoint_words(checkpoint: Checkpoint, task: str) -> str:
    """`"Run 3 adder \u00b7 step 20 \u00b7 evaluation \u00b7 reward 0.84"`."""
    kind = _KINDS.get(checkpoint.kind, checkpoint.kind)
    reward = "" if checkpoint.reward is None else f" \u00b7 reward {checkpoint.reward:.2f}"
    return f"Run {checkpoint.run_id} {task} \u00b7 step {checkpoint.step} \u00b7 {kind}{reward}"


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


@dataclass(frozen=True)
class Question:
    """What one or two checkpoints are asked; the second reads it as the first one's run would.

    Attributes:
        key: no two questions share it.
        session: the browser's.
        config: of checkpoint A's run: its task encodes the prompt and judges both answers.
        settings: the sampler's.
    """

    key: str
    session: str
    prompt: str
    config: TrainConfig
    settings: dict[str, Any]


# ---- the page ------------------------------------------------------------------------------------------------------


class ChatPage:
    def __init__(self, services: Services):
        self.services = services
        self.stopping: set[str] = set()  # browser sessions that pressed Stop during their answer
        with gr.Row(elem_id="chat-body"):
            with gr.Column(elem_id="chat-question", elem_classes="bgpo-form", min_width=0):
                self._build_question()
            with gr.Column(elem_id="chat-board", min_width=0):
                self._build_board()
            with gr.Column(elem_id="chat-settings", elem_classes="bgpo-form", min_width=0):
                self._build_settings()
        self.errors = field_errors()
        self._connect()

    def _build_board(self) -> None:
        with gr.Row(elem_id="chat-stages"):
            with gr.Column(min_width=0):
                self.heading = gr.Markdown("### A", elem_classes="chat-heading", visible=False)
                self.stage = denoise_stage(_EMPTY, elem_id="chat-stage")
            with gr.Column(min_width=0, visible=False) as self.second:
                gr.Markdown("### B", elem_classes="chat-heading")
                self.stage_b = denoise_stage(_EMPTY_B, elem_id="chat-stage-b")
        self.votes = VoteBar(self.services.db)

    def _build_question(self) -> None:
        self.checkpoint = gr.Dropdown(label="Checkpoint", choices=[], info="None yet.", elem_id="chat-checkpoint")
        self.checkpoint_b = gr.Dropdown(
            label="Compared with (B)", choices=[("None", NO_SECOND)], value=NO_SECOND, elem_id="chat-checkpoint_b",
            info="Optional: answers after A, from the same noise.",
        )
        self.prompt = gr.Textbox(label="Prompt", max_lines=1, max_length=200, elem_id="chat-prompt")
        self.examples = gr.Dataset(
            components=["textbox"], samples=[], label="Held-out problems to try", type="values",
            samples_per_page=EXAMPLES, elem_id="chat-examples", visible=False,
        )
        with gr.Row(elem_id="chat-actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="chat-generate", interactive=False)
            self.stop = gr.Button("Stop", variant="stop", elem_id="chat-stop", interactive=False)

    def _build_settings(self) -> None:
        gr.Markdown("### Sampler", elem_classes="chat-heading")
        self.steps = UnjudgedSlider(1, 8, 8, step=1, label="Denoising steps", info="Passes for the whole answer.",
                                    elem_id="chat-denoising_steps", buttons=[])
        self.block = gr.Dropdown([8], value=8, label="Block length", info="Positions decoded before moving right.",
                                 elem_id="chat-block_length", filterable=False)
        self.temperature = UnjudgedSlider(0, 2, 0, step=0.05, label="Temperature", buttons=[],
                                          info="0 takes the likeliest token each time.", elem_id="chat-temperature")
        self.remasking = gr.Dropdown([(o.replace("_", " "), o) for o in EVAL_ORDERS], value=EVAL_ORDERS[0],
                                     label="Remasking order", info="Which positions a step fills.",
                                     elem_id="chat-remasking", filterable=False)
        self.seed = gr.Number(0, label="Seed", step=1, elem_id="chat-seed", info="Same seed and settings, same answer.")
        self.new_seed = gr.Button("New seed", size="sm", elem_id="chat-new-seed")
        with gr.Accordion("Schedule, cache, guidance", open=False, elem_id="chat-more"):
            threshold = KNOBS["confidence_threshold"]
            self.more = {
                "schedule": self._choice("schedule", SCHEDULES),
                "confidence_threshold": UnjudgedSlider(
                    threshold.low, 1, threshold.default, step=0.01, buttons=[], label=threshold.label,
                    elem_id="chat-confidence_threshold", info="For the schedule named threshold.",
                ),
                "cache": self._choice("cache", CACHES),
                "cfg_scale": UnjudgedSlider(
                    0, 4, 0, step=0.1, label="Guidance", elem_id="chat-cfg_scale", buttons=[],
                    info="Classifier-free; 0 is none. Each pass then costs two.",
                ),
            }

    def _choice(self, name: str, choices: Mapping[str, str]) -> gr.Dropdown:
        """A dropdown that says of each choice what it does; what is an approximation is called one."""
        words = [(f"{choice.replace('_', ' ')}: {sentence}", choice) for choice, sentence in choices.items()]
        return gr.Dropdown(
            words, value=KNOBS[name].default, label=KNOBS[name].label, elem_id=f"chat-{name}", filterable=False,
        )

    def _connect(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        form = [self.steps, self.block, self.temperature, self.remasking, self.seed]
        more = list(self.more.values())
        of_task = [self.prompt, self.examples, *form, self.errors]
        question = [self.checkpoint, self.prompt]
        on_open(self.opened, [self.stage, self.checkpoint, self.generate, self.checkpoint_b, *of_task],
                inputs=[*question, self.checkpoint_b])
        pair = [self.checkpoint, self.checkpoint_b]
        gr.on([control.change for control in pair], self.pair_chosen, [*pair, self.votes.compared],
              [self.heading, self.second, self.votes.row, *self.votes.outputs], trigger_mode="always_last", **quiet)
        self.checkpoint.input(self.checkpoint_chosen, question, of_task, **quiet)
        self.examples.click(lambda row: row[0], self.examples, self.prompt, **quiet)
        self.new_seed.click(lambda: random.randrange(1, 10_000), None, self.seed, **quiet)
        everything = {*pair, self.prompt, *form, *more}
        gr.on([*edits([*form, *more]), self.seed.change], self.edited, everything, self.errors, queue=False,
              trigger_mode="always_last", **quiet)
        gr.on([self.generate.click, self.prompt.submit], self.answer, everything,
              [self.stage, self.stage_b, self.errors, self.generate, self.stop, *self.votes.outputs],
              trigger_mode="once", concurrency_limit=4, **quiet)
        self.stop.click(self.stop_pressed, None, None, queue=False, **quiet)

    # ---- callbacks ----

    def opened(self, search: str, current: int | None, prompt: str, second: int = NO_SECOND) -> list[Any]:
        choices = self._choices()
        kept = second if second in [value for _, value in choices] else NO_SECOND
        others = gr.update(choices=[("None", NO_SECOND), *choices], value=kept, interactive=len(choices) > 1)
        chosen = chosen_id(search, choices, current)
        info = "Newest first; every evaluation of a run saves one." if choices else "None yet."
        dropdown = gr.update(choices=choices, value=chosen, info=info, interactive=bool(choices))
        button = gr.update(interactive=bool(choices))
        if chosen is None:
            return [generation("empty", [_START_ONE]), dropdown, button, others, *[gr.skip()] * 8]
        if chosen == current:
            return [gr.skip(), dropdown, button, others, *[gr.skip()] * 8]
        stage = generation("ready", [{"kind": "idle", "text": _EMPTY}]) if current is None else gr.skip()
        return [stage, dropdown, button, others, *self.checkpoint_chosen(chosen, prompt)]

    def checkpoint_chosen(self, checkpoint_id: int, prompt: str) -> list[Any]:
        """Controls take the ranges and defaults of the checkpoint's run; a prompt of its task is kept."""
        found = self._find(checkpoint_id)
        if found is None:
            gone = problems_at(FIELD, FIELDS, {"checkpoint": _GONE})
            return [*[gr.skip()] * 7, gone]
        config = found[1]
        samples = [[text] for text in self.services.chat.examples(config.task)[:EXAMPLES]]
        kept = kept_prompt(config.task, prompt, samples[0][0])
        return [
            gr.update(value=kept, placeholder=TASKS[config.task].placeholder),
            gr.update(samples=samples, visible=True),
            gr.update(maximum=config.completion_length, value=config.denoising_steps),
            gr.update(choices=divisors(config.completion_length), value=config.block_length),
            gr.skip(), gr.update(value=config.eval_remasking), gr.skip(), problems_at(FIELD, FIELDS, {}),
        ]

    def pair_chosen(self, a: int | None, b: int | None, compared: Comparison | None) -> dict[Any, Any]:
        """With a second checkpoint there are two stages and a vote."""
        two = gr.update(visible=bool(a and b and a != b))
        return {self.heading: two, self.second: two} | self.votes.of_pair(a, b, compared)

    def edited(self, given: dict[Any, Any]) -> dict[str, Any]:
        found = self._find(given[self.checkpoint])
        return problems_at(FIELD, FIELDS, self._problems(given, found[1]) if found else {})

    def stop_pressed(self, request: gr.Request) -> None:
        self.stopping.add(request.session_hash or "")

    def answer(self, given: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """Streams the answers to their stages, A's and then B's: every event as it is made, at most one update per
        PUSH_EVERY."""
        found = self._find(given[self.checkpoint])
        problems = self._problems(given, found[1]) if found else {"checkpoint": _NO_CHECKPOINT}
        second, problem_b = self._second(given)
        if problems := problems | problem_b:
            yield {self.errors: problems_at(FIELD, FIELDS, problems)}
            return
        session = request.session_hash or ""
        self.stopping.discard(session)
        checkpoint, config = found
        asked = Question(f"{session}-{time.monotonic_ns()}", session, given[self.prompt] or "", config,
                         self._settings(given, config))
        off, on = gr.update(interactive=False), gr.update(interactive=True)
        yield self.votes.closed() | {self.generate: off, self.stop: on, self.errors: problems_at(FIELD, FIELDS, {})}
        if second:
            yield {self.stage_b: generation(f"{asked.key}-waits", [_A_FIRST])}
        first = yield from self._stream(asked, self.stage, checkpoint)
        if second:
            yield from self._second_answer(asked, first, checkpoint, second)
        yield {self.generate: on, self.stop: off}

    def _second(self, given: dict[Any, Any]) -> tuple[Checkpoint | None, dict[str, str]]:
        """(checkpoint B, if one is asked for; what is wrong with it)."""
        chosen = given.get(self.checkpoint_b)
        if not chosen:
            return None, {}
        if chosen == given[self.checkpoint]:
            return None, {"checkpoint_b": _ITSELF}
        found = self._find(chosen)
        return (found[0], {}) if found else (None, {"checkpoint_b": _GONE})

    def _second_answer(
        self, asked: Question, first: dict, checkpoint: Checkpoint, second: Checkpoint
    ) -> Iterator[dict[Any, Any]]:
        """B's answer to what A has answered, and the vote on both."""
        if first["kind"] != "end":
            yield {self.stage_b: generation(f"{asked.key}-left", [_NOT_ASKED])}
            return
        last = yield from self._stream(asked, self.stage_b, second, "checkpoint_b")
        if last["kind"] == "end":
            yield self.votes.opened(Comparison(
                checkpoint.id, second.id, asked.prompt, first["text"], last["text"], asked.settings
            ))

    def _stream(
        self, asked: Question, stage: gr.HTML, checkpoint: Checkpoint, field: str = "checkpoint"
    ) -> Iterator[dict[Any, Any]]:
        """Updates of one stage; returns the last event. A checkpoint at fault is told at `field`."""
        words = checkpoint_words(checkpoint, asked.config.task), setting_words(asked.settings)
        events: list[dict] = []
        for events, problem in self._events(checkpoint, asked):
            update = {stage: generation(f"{asked.key}-{field}", events, *words)}
            if problem:
                told = {field if name == "checkpoint" else name: text for name, text in problem.items()}
                update[self.errors] = problems_at(FIELD, FIELDS, told)
            yield update
        return events[-1]

    def _events(self, checkpoint: Checkpoint, asked: Question) -> Iterator[tuple[list[dict], dict[str, str]]]:
        """All events so far, each time there are new ones; and, when it ended badly, the sentence and its field."""
        events: list[dict] = [self._loading(checkpoint)]
        yield events, {}
        sent = time.monotonic()
        try:
            answer = self.services.chat.answer(
                checkpoint.folder, asked.config.task, asked.prompt, asked.settings,
                lambda: asked.session in self.stopping,
            )
            for event in answer:
                events.append(event)
                if time.monotonic() - sent >= PUSH_EVERY:
                    sent = time.monotonic()
                    yield events, {}
        except ChatError as error:
            yield [*events, {"kind": "error", "message": str(error)}], {error.field or "prompt": str(error)}
            return
        finally:
            self.stopping.discard(asked.session)
        yield events if events[-1]["kind"] == "end" else [*events, {"kind": "stopped"}], {}

    def _loading(self, checkpoint: Checkpoint) -> dict[str, str]:
        chat = self.services.chat
        if chat.loaded_checkpoint == checkpoint.folder:
            return {"kind": "loading", "text": "Generating\u2026"}
        first = "" if chat.loaded_checkpoint else " The first answer takes a few seconds longer."
        return {"kind": "loading", "text": f"Loading the checkpoint.{first}"}

    # ---- reading ----

    def _choices(self) -> list[tuple[str, int]]:
        return checkpoint_choices(list_runs(self.services.db), all_checkpoints(self.services.db))

    def _find(self, checkpoint_id: int | None) -> tuple[Checkpoint, TrainConfig] | None:
        runs = {run.id: run for run in list_runs(self.services.db)}
        for checkpoint in all_checkpoints(self.services.db):
            run = runs.get(checkpoint.run_id)  # None when it was deleted between the two look-ups
            if checkpoint.id == checkpoint_id and run and (config := config_of(run)):
                return checkpoint, config
        return None

    def _settings(self, given: Mapping[Any, Any], config: TrainConfig) -> dict[str, Any]:
        return {
            "completion_length": config.completion_length, "denoising_steps": given[self.steps],
            "block_length": given[self.block], "temperature": given[self.temperature],
            "remasking": given[self.remasking], "seed": given[self.seed],
        } | {
            name: given[control] for name, control in self.more.items() if control in given
        }

    def _problems(self, given: Mapping[Any, Any], config: TrainConfig) -> dict[str, str]:
        settings = self._settings(given, config)
        empty = [name for name in settings if settings[name] in (None, "")]
        if empty:
            return {name: f"{KNOBS[name].label} is empty; give {KNOBS[name].allowed}." for name in empty}
        try:
            ChatSettings.parse(settings)
        except ChatError as error:
            return {error.field: str(error)}
        return {}


def kept_prompt(task: str, prompt: str, example: str) -> str:
    """What the prompt box holds after another checkpoint is chosen: the same prompt if its task can read it."""
    try:
        TASKS[task].problem_from(prompt or "")
    except ValueError:
        return example
    return prompt


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    ChatPage(services)
