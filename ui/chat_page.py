"""The Chat page: choose a checkpoint, or two, talk to it, watch the answers denoise and say which is better."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import gradio as gr

from bgpo.config import EVAL_ORDERS, KNOBS, TrainConfig
from bgpo.jobs.chat import ChatError, ChatSettings
from bgpo.jobs.chat_devices import CPU, REFUSE, WAIT, GpuTaken, pool_of
from bgpo.models.decoding import CACHES, SCHEDULES
from storage.checkpoints import Checkpoint, all_checkpoints
from storage.runs import Run, list_runs
from storage.votes import Comparison
from ui import chat_words
from ui.chat_examples import ExamplesBox
from ui.chat_votes import VoteBar
from ui.components.denoise_stage import denoise_stage, generation
from ui.components.field_errors import field_errors, problems_at
from ui.components.send_later import send_later
from ui.config_form import UnjudgedSlider, edits
from ui.conversation import Conversation, Question, Turn
from ui.run_words import config_of
from ui.services import Services
from ui.tabs import PLAIN, on_open

FIELD = "chat-"
SETTINGS = (
    "denoising_steps", "block_length", "temperature", "remasking", "seed", "schedule", "confidence_threshold", "cache",
    "cfg_scale",
)
FIELDS = ("checkpoint", "checkpoint_b", "prompt", *SETTINGS)
NO_SECOND = 0  # in place of the id of checkpoint B
LONGEST_PROMPT = 20_000  # characters
AT_ONCE = 16  # answers under way or waiting for a device, over all browsers
PUSH_EVERY = 0.05  # seconds between updates of the page; faster events share one


class ChatPage:
    def __init__(self, services: Services):
        self.services = services
        self.stopping: set[str] = set()  # browser sessions that pressed Stop during their answer
        self.answering: set[str] = set()  # browser sessions with an answer under way
        self.said = gr.State(Conversation())
        self.held_up = gr.State("")  # the side whose answer found no free GPU
        self.if_taken = gr.State(REFUSE)  # what the next answer does without one
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
        with gr.Row(elem_id="chat-taken", visible=False) as self.taken:
            gr.Markdown("The GPU is in use.", elem_classes="chat-heading")
            self.on_cpu = gr.Button("Answer on the CPU", size="sm", elem_id="chat-on-cpu")
            self.wait = gr.Button("Wait for the GPU", size="sm", elem_id="chat-wait")
        with gr.Row(elem_id="chat-stages"):
            with gr.Column(min_width=0):
                self.heading = gr.Markdown("### A", elem_classes="chat-heading", visible=False)
                self.stage = denoise_stage(chat_words.EMPTY, elem_id="chat-stage", link="chat")
            with gr.Column(min_width=0, visible=False) as self.second:
                gr.Markdown("### B", elem_classes="chat-heading")
                self.stage_b = denoise_stage(chat_words.EMPTY_B, elem_id="chat-stage-b", link="chat")
        self.votes = VoteBar(self.services.db)

    def _build_question(self) -> None:
        self.checkpoint = gr.Dropdown(label="Checkpoint", choices=[], info="None yet.", elem_id="chat-checkpoint")
        self.checkpoint_b = gr.Dropdown(
            label="Compared with (B)", choices=[("None", NO_SECOND)], value=NO_SECOND, elem_id="chat-checkpoint_b",
            info="Optional: answers after A, from the same noise.",
        )
        self.prompt = gr.Textbox(
            label="Prompt", lines=1, max_lines=10, max_length=LONGEST_PROMPT, elem_id="chat-prompt",
        )
        with gr.Row(elem_id="chat-actions"):
            self.generate = gr.Button("Generate", variant="primary", elem_id="chat-generate", interactive=False)
            self.stop = gr.Button("Stop", variant="stop", elem_id="chat-stop", interactive=False)
        send_later(body="chat-body", prompt="chat-prompt", button="chat-generate", elem_id="chat-later")
        with gr.Row(elem_id="chat-turns", visible=False) as self.turns:
            self.again = gr.Button("Answer again", size="sm", elem_id="chat-again")
            self.edit = gr.Button("Edit last", size="sm", elem_id="chat-edit")
            self.fresh = gr.Button("New conversation", size="sm", elem_id="chat-fresh")
        self.note = gr.Markdown("", elem_id="chat-note", visible=False)
        self.examples = ExamplesBox(self.services.chat.desk, self.prompt)

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
        form = [self.steps, self.block, self.temperature, self.remasking, self.seed]
        more = list(self.more.values())
        examples, page = self.examples.outputs, self.examples.page
        of_task = [self.prompt, *examples, self.note, *form, self.errors]
        question = [self.checkpoint, self.prompt]
        read = {"fn": self.examples_read, "inputs": [self.checkpoint, page], "outputs": examples} | PLAIN
        on_open(self.opened, [self.stage, self.checkpoint, self.generate, self.checkpoint_b, *of_task],
                inputs=[*question, self.checkpoint_b]).then(**read)
        pair = [self.checkpoint, self.checkpoint_b]
        gr.on([control.change for control in pair], self.pair_chosen, [*pair, self.votes.compared],
              [self.heading, self.second, self.votes.row, *self.votes.outputs], trigger_mode="always_last", **PLAIN)
        self.checkpoint.input(self.checkpoint_chosen, question, of_task, **PLAIN).then(**read)
        self.examples.others.click(lambda page: page + 1, page, page, **PLAIN).then(**read)
        self.new_seed.click(lambda: random.randrange(1, 10_000), None, self.seed, **PLAIN)
        everything = {*pair, self.prompt, *form, *more, self.said, self.held_up, self.if_taken}
        gr.on([*edits([*form, *more]), self.seed.change], self.edited, everything, self.errors,
              trigger_mode="always_last", **PLAIN)
        talk = {
            "inputs": everything, "trigger_mode": "once", "concurrency_limit": AT_ONCE, "concurrency_id": "answers",
            "outputs": [self.stage, self.stage_b, self.errors, self.generate, self.stop, self.prompt, self.seed,
                        self.said, self.turns, self.edit, self.note, self.taken, self.held_up, self.if_taken,
                        *self.votes.outputs],
        } | PLAIN | {"queue": True}  # it streams
        # only once the stream has ended may one ask again: what is sent while it ends is never answered
        rest = {"fn": self.rested, "inputs": self.held_up, "outputs": [self.generate, self.stop, self.taken]} | PLAIN
        gr.on([self.generate.click, self.prompt.submit], self.answer, **talk).then(**rest)
        self.again.click(self.answer_again, **talk).then(**rest)
        self.on_cpu.click(self.answer_on_cpu, **talk).then(**rest)
        self.wait.click(self.answer_when_free, **talk).then(**rest)
        self.edit.click(self.edit_last, [self.said, self.checkpoint], [self.said, self.prompt, self.edit, self.note],
                        **PLAIN)
        self.fresh.click(self.begun_anew, self.checkpoint, [
            self.said, self.stage, self.stage_b, self.turns, self.edit, self.note, self.taken, self.if_taken,
            *self.votes.outputs,
        ], **PLAIN)
        self.stop.click(self.stop_pressed, None, None, **PLAIN)

    # ---- choosing

    def opened(self, search: str, current: int | None, prompt: str, second: int = NO_SECOND) -> list[Any]:
        choices = self._choices()
        kept = second if second in [value for _, value in choices] else NO_SECOND
        others = gr.update(choices=[("None", NO_SECOND), *choices], value=kept, interactive=len(choices) > 1)
        chosen = chat_words.chosen_id(search, choices, current)
        info = "Newest first; every evaluation of a run saves one." if choices else "None yet."
        dropdown = gr.update(choices=choices, value=chosen, info=info, interactive=bool(choices))
        button = gr.update(interactive=bool(choices))
        if chosen is None:
            return [generation("empty", [chat_words.START_ONE]), dropdown, button, others, *[gr.skip()] * 11]
        if chosen == current:
            return [gr.skip(), dropdown, button, others, *[gr.skip()] * 11]
        stage = generation("ready", [{"kind": "idle", "text": chat_words.EMPTY}]) if current is None else gr.skip()
        return [stage, dropdown, button, others, *self.checkpoint_chosen(chosen, prompt)]

    def checkpoint_chosen(self, checkpoint_id: int, prompt: str) -> list[Any]:
        """Controls take the ranges and defaults of the checkpoint's run; a prompt of its task is kept.

        The conversation stays as it is, and the next answer reads it.
        """
        found = self._find(checkpoint_id)
        if found is None:
            gone = problems_at(FIELD, FIELDS, {"checkpoint": chat_words.GONE})
            return [*[gr.skip()] * 10, gone]
        config = found[1]
        example, examples = self.examples.first(config)
        return [
            gr.update(value=chat_words.kept_prompt(config.task, prompt, example),
                      placeholder=chat_words.prompt_hint(config)),
            *examples, self._note(config),
            gr.update(maximum=config.completion_length, value=config.denoising_steps),
            gr.update(choices=chat_words.divisors(config.completion_length), value=config.block_length),
            gr.skip(), gr.update(value=config.eval_remasking), gr.skip(), problems_at(FIELD, FIELDS, {}),
        ]

    def examples_read(self, checkpoint_id: int | None, page: int) -> list[Any]:
        """The run's own problems, from its data."""
        found = self._find(checkpoint_id)
        return self.examples.read(found[1], self._folder(found[0]), page) if found else [gr.skip()] * 3

    def pair_chosen(self, a: int | None, b: int | None, compared: Comparison | None) -> dict[Any, Any]:
        """With a second checkpoint there are two stages and a vote."""
        two = gr.update(visible=bool(a and b and a != b))
        return {self.heading: two, self.second: two} | self.votes.of_pair(a, b, compared)

    def edited(self, given: dict[Any, Any]) -> dict[str, Any]:
        found = self._find(given[self.checkpoint])
        return problems_at(FIELD, FIELDS, self._problems(given, found[1]) if found else {})

    # ---- the conversation

    def edit_last(self, said: Conversation, checkpoint_id: int | None) -> list[Any]:
        """The last message goes back into the box and its answer is replaced by the next; pressed again, it stays."""
        if said.last is None:
            return [gr.skip()] * 4
        said = replace(said, replacing=not said.replacing)
        prompt = said.last.asked if said.replacing else gr.skip()
        return [said, prompt, self._edit_button(said), self._note_of(said, checkpoint_id)]

    def begun_anew(self, checkpoint_id: int | None) -> dict[Any, Any]:
        key = f"new-{time.monotonic_ns()}"
        empty = [{"kind": "clear"}, {"kind": "idle", "text": chat_words.EMPTY}]
        return {
            self.said: Conversation(), self.stage: generation(key, empty), self.turns: gr.update(visible=False),
            self.stage_b: generation(key, [{"kind": "clear"}, {"kind": "idle", "text": chat_words.EMPTY_B}]),
            self.edit: self._edit_button(Conversation()), self.note: self._note_of(Conversation(), checkpoint_id),
            self.taken: gr.update(visible=False), self.if_taken: REFUSE,
        } | self.votes.closed()

    def _edit_button(self, said: Conversation) -> Any:
        return gr.update(value="Keep last" if said.replacing else "Edit last")

    def _note_of(self, said: Conversation, checkpoint_id: int | None) -> Any:
        if said.replacing:
            return gr.update(value=f"The next answer replaces turn {len(said.turns)}.", visible=True)
        found = self._find(checkpoint_id)
        return self._note(found[1]) if found else gr.skip()

    def _note(self, config: TrainConfig) -> Any:
        reads = chat_words.reads_turns(config)
        return gr.update(value=chat_words.READS_TURNS if reads else chat_words.ONE_TURN, visible=True)

    def _told(self, said: Conversation, asked: Question) -> dict[Any, Any]:
        return {self.said: said, self.turns: gr.update(visible=True), self.edit: self._edit_button(said),
                self.note: self._note(asked.config)}

    # ---- answering

    def stop_pressed(self, request: gr.Request) -> None:
        self.stopping.add(request.session_hash or "")

    def answer_again(self, given: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """The last message once more, with a new seed and the settings as they are now, in place of its answer."""
        said: Conversation = given[self.said]
        if said.last is None:
            yield {self.said: said}
            return
        seed = random.randrange(1, 10_000)
        changed = {self.prompt: said.last.asked, self.seed: seed, self.said: replace(said, replacing=True)}
        yield {self.seed: seed}
        yield from self.answer(given | changed, request, keep_prompt=True)

    def answer_on_cpu(self, given: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        """And so the rest of the conversation, as long as no GPU is free."""
        yield {self.if_taken: CPU}
        yield from self.answer(self._held_up(given) | {self.if_taken: CPU}, request)

    def answer_when_free(self, given: dict[Any, Any], request: gr.Request) -> Iterator[dict[Any, Any]]:
        yield from self.answer(self._held_up(given), request, if_taken=WAIT)

    def _held_up(self, given: dict[Any, Any]) -> dict[Any, Any]:
        """The form as it was when no GPU was free: where A had answered, its turn is taken up again."""
        said: Conversation = given[self.said]
        if given[self.held_up] != "b" or said.last is None:
            return given
        return given | {self.prompt: said.last.asked, self.said: replace(said, replacing=True)}

    def answer(
        self, given: dict[Any, Any], request: gr.Request, if_taken: str = "", keep_prompt: bool = False
    ) -> Iterator[dict[Any, Any]]:
        """Streams the answers to their stages, A's and then B's: every event as it is made, at most one update per
        PUSH_EVERY.

        What a stage was given is in every later update: Gradio sends differences and applies them to the very object
        that the browser has yet to show, so a value that the next update left out could go before it was seen.
        """
        kept: dict[Any, Any] = {}
        for update in self._answers(given, request, if_taken, keep_prompt):
            kept |= {part: update[part] for part in (self.stage, self.stage_b, self.errors) if part in update}
            yield kept | update

    def _answers(
        self, given: dict[Any, Any], request: gr.Request, if_taken: str, keep_prompt: bool
    ) -> Iterator[dict[Any, Any]]:
        found = self._find(given[self.checkpoint])
        problems = self._problems(given, found[1]) if found else {"checkpoint": chat_words.NO_CHECKPOINT}
        second, problem_b = self._second(given)
        session = request.session_hash or ""
        busy = {"prompt": chat_words.ONE_AT_A_TIME} if session in self.answering else {}
        if problems := problems | problem_b | busy:
            yield {self.errors: problems_at(FIELD, FIELDS, problems)}
            return
        checkpoint, asked = found[0], self._question(given, session, found, if_taken)
        self.stopping.discard(session)
        self.answering.add(session)
        try:
            yield self.votes.closed() | {
                self.generate: gr.update(interactive=False), self.stop: gr.update(interactive=True),
                self.errors: problems_at(FIELD, FIELDS, {}),
                self.taken: gr.update(visible=False), self.held_up: "",
            } | ({self.prompt: ""} if self._clears(asked, keep_prompt) else {})
            if second:
                yield {self.stage_b: generation(f"{asked.key}-waits", [chat_words.A_FIRST])}
            first = yield from self._first_answer(asked, checkpoint, keep_prompt)
            if second:
                yield from self._second_answer(asked, first, checkpoint, second)
        finally:
            self.answering.discard(session)

    def rested(self, held_up: str, request: gr.Request) -> list[Any]:
        """Updates of Generate, Stop and the choice between the CPU and waiting, once an answer's stream has ended."""
        answering = (request.session_hash or "") in self.answering
        return [gr.update(interactive=not answering), gr.update(interactive=answering),
                gr.update(visible=bool(held_up) and not answering)]

    def _question(
        self, given: dict[Any, Any], session: str, found: tuple[Checkpoint, TrainConfig], if_taken: str
    ) -> Question:
        checkpoint, config = found
        return Question(
            f"{session}-{time.monotonic_ns()}", session, given[self.prompt] or "", config, self._folder(checkpoint),
            self._settings(given, config), given.get(self.said) or Conversation(),
            if_taken or given.get(self.if_taken) or REFUSE,
        )

    def _second(self, given: dict[Any, Any]) -> tuple[Checkpoint | None, dict[str, str]]:
        """(checkpoint B, if one is asked for; what is wrong with it)."""
        chosen = given.get(self.checkpoint_b)
        if not chosen:
            return None, {}
        if chosen == given[self.checkpoint]:
            return None, {"checkpoint_b": chat_words.ITSELF}
        found = self._find(chosen)
        return (found[0], {}) if found else (None, {"checkpoint_b": chat_words.GONE})

    def _first_answer(self, asked: Question, checkpoint: Checkpoint, keep_prompt: bool) -> Iterator[dict[Any, Any]]:
        """A's answer as a turn of the conversation; returns its events."""
        events = yield from self._stream(asked, "a", checkpoint, "checkpoint")
        start = next((event for event in events if event["kind"] == "start"), None)
        if start and events[-1]["kind"] in ("end", "stopped"):
            said = asked.said.with_turn(Turn(asked.prompt, start["prompt"]))
            if events[-1]["kind"] == "end":
                said = said.with_answer("a", events[-1]["text"])
            yield self._told(said, asked)
        if events[-1]["kind"] != "end" and self._clears(asked, keep_prompt):
            yield {self.prompt: asked.prompt}  # to be sent once more
        return events

    def _clears(self, asked: Question, keep_prompt: bool) -> bool:
        """Whether the prompt box is empty for the next turn once a message is sent."""
        return chat_words.reads_turns(asked.config) and not keep_prompt

    def _second_answer(
        self, asked: Question, first: list[dict], checkpoint: Checkpoint, second: Checkpoint
    ) -> Iterator[dict[Any, Any]]:
        """B's answer to what A has answered, and the vote on both."""
        if first[-1]["kind"] != "end":
            yield {self.stage_b: generation(f"{asked.key}-left", [chat_words.NOT_ASKED])}
            return
        events = yield from self._stream(asked, "b", second, "checkpoint_b")
        if events[-1]["kind"] == "end":
            text, start = first[-1]["text"], next(event for event in first if event["kind"] == "start")
            said = asked.said.with_turn(Turn(asked.prompt, start["prompt"])).with_answer("a", text)
            yield {self.said: said.with_answer("b", events[-1]["text"])} | self.votes.opened(Comparison(
                checkpoint.id, second.id, asked.prompt, text, events[-1]["text"], asked.settings
            ))

    def _stream(self, asked: Question, side: str, checkpoint: Checkpoint, field: str) -> Iterator[dict[Any, Any]]:
        """Updates of one side's stage; returns its events. A checkpoint at fault is told at `field`."""
        stage = self.stage if side == "a" else self.stage_b
        words = chat_words.checkpoint_words(checkpoint, asked.config.task), chat_words.setting_words(asked.settings)
        events: list[dict] = []
        for key, events, more in self._events(checkpoint, asked, side):
            shown = generation(f"{asked.key}-{field}{key}", events, *words, turn=asked.said.number, asked=asked.prompt)
            if problem := more.pop(self.errors, None):
                told = {field if name == "checkpoint" else name: text for name, text in problem.items()}
                more[self.errors] = problems_at(FIELD, FIELDS, told)
            yield {stage: shown} | more
        return events

    def _events(
        self, checkpoint: Checkpoint, asked: Question, side: str
    ) -> Iterator[tuple[str, list[dict], dict[Any, Any]]]:
        """(part of a key: each wait has one, all events so far, other updates) each time there are new ones."""
        events: list[dict] = [self._loading(checkpoint)]
        key = ""
        yield key, events, {}
        sent = time.monotonic()
        try:
            for event in self._asked(checkpoint, asked, side):
                if event["kind"] == "waiting":
                    text = chat_words.waiting_words(event, list_runs(self.services.db))
                    if text != events[0]["text"]:
                        events, key = [{"kind": "loading", "text": text}], f"{key}+"
                    yield key, events, {}
                    continue
                events.append(event)
                if time.monotonic() - sent >= PUSH_EVERY:
                    sent = time.monotonic()
                    yield key, events, {}
        except GpuTaken as error:
            sentence = chat_words.taken_words(str(error), error.runs, list_runs(self.services.db))
            yield f"{key}-taken", [{"kind": "idle", "text": sentence}], {
                self.held_up: side,
            }
            return
        except ChatError as error:
            wrong = {self.errors: {error.field or "prompt": str(error)}}
            yield key, [*events, {"kind": "error", "message": str(error)}], wrong
            return
        finally:
            self.stopping.discard(asked.session)
        yield key, events if events[-1]["kind"] == "end" else [*events, {"kind": "stopped"}], {}

    def _asked(self, checkpoint: Checkpoint, asked: Question, side: str) -> Iterator[dict[str, Any]]:
        chat = self.services.chat
        found = self._find(checkpoint.id)
        return chat.answer(
            checkpoint.folder, asked.config.task, asked.prompt, asked.settings,
            lambda: asked.session in self.stopping, earlier=asked.said.earlier(side),
            grader=chat.desk.grader(asked.config, asked.folder), if_taken=asked.if_taken,
            pool=pool_of(found[1] if found else asked.config),
        )

    def _loading(self, checkpoint: Checkpoint) -> dict[str, str]:
        loaded = self.services.chat.loaded_checkpoints
        if checkpoint.folder in loaded:
            return {"kind": "loading", "text": "Generating\u2026"}
        first = "" if loaded else " The first answer takes a few seconds longer."
        return {"kind": "loading", "text": f"Loading the checkpoint.{first}"}

    # ---- reading

    def _choices(self) -> list[tuple[str, int]]:
        return chat_words.checkpoint_choices(list_runs(self.services.db), all_checkpoints(self.services.db))

    def _runs(self) -> dict[int, Run]:
        return {run.id: run for run in list_runs(self.services.db)}

    def _find(self, checkpoint_id: int | None) -> tuple[Checkpoint, TrainConfig] | None:
        runs = self._runs()
        for checkpoint in all_checkpoints(self.services.db):
            run = runs.get(checkpoint.run_id)  # None when it was deleted between the two look-ups
            if checkpoint.id == checkpoint_id and run and (config := config_of(run)):
                return checkpoint, config
        return None

    def _folder(self, checkpoint: Checkpoint) -> str:
        """Of its run, which keeps copies of the files that its task and reward come from."""
        run = self._runs().get(checkpoint.run_id)
        return run.folder if run else ""

    def _settings(self, given: Mapping[Any, Any], config: TrainConfig) -> dict[str, Any]:
        return {
            "completion_length": config.completion_length, "denoising_steps": given[self.steps],
            "block_length": given[self.block], "temperature": given[self.temperature],
            "remasking": given[self.remasking], "seed": given[self.seed], "stop_at_eos": config.stop_at_eos,
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


def build(services: Services) -> None:
    """Builds the page inside the current Blocks."""
    ChatPage(services)
