"""One loaded checkpoint that answers prompts, step by step, and is given back when idle.

The web process loads torch here, when somebody first asks, and not before.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpo.config import EVAL_ORDERS, KNOBS
from bgpo.models.decoding import BLOCK_CAUSAL, CACHES, SCHEDULES, SamplerSettings
from bgpo.models.registry import MODELS
from bgpo.tasks.base import FiniteTask, Problem, problems
from bgpo.tasks.registry import TASKS

EXAMPLES_SHOWN = 8
_LEAST_SHOWN = 5e-5  # probability of a runner-up that rounds to something


class ChatError(ValueError):
    """Why an answer cannot be given, in one sentence. `field` names the setting at fault, if one is."""

    def __init__(self, sentence: str, field: str = ""):
        self.field = field
        super().__init__(sentence)


@dataclass(frozen=True)
class ChatSettings:
    """Checked sampler settings of one answer; `temperature` 0 is greedy."""

    completion_length: int
    denoising_steps: int
    block_length: int
    temperature: float
    remasking: str
    seed: int
    schedule: str = KNOBS["schedule"].default
    cache: str = KNOBS["cache"].default
    confidence_threshold: float = KNOBS["confidence_threshold"].default
    cfg_scale: float = 0.0

    @property
    def sampler(self) -> SamplerSettings:
        return SamplerSettings(
            self.completion_length, self.denoising_steps, self.block_length, self.temperature, self.remasking,
            self.schedule, self.confidence_threshold, cache=self.cache, cfg_scale=self.cfg_scale,
        )

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ChatSettings:
        """Raises ChatError with the field and a sentence for the first value out of range.

        Args:
            values: schedule, cache, confidence_threshold and cfg_scale may be left out.
        """
        checked: dict[str, Any] = {
            name: _number(values, name, KNOBS[name].low, KNOBS[name].high, int)
            for name in ("completion_length", "denoising_steps", "block_length", "seed")
        }
        checked["temperature"] = _number(values, "temperature", 0, KNOBS["temperature"].high, float)
        for name in ("confidence_threshold", "cfg_scale"):
            if name in values:
                checked[name] = _number(values, name, KNOBS[name].low, KNOBS[name].high, float)
        for name, choices in (("remasking", EVAL_ORDERS), ("schedule", SCHEDULES), ("cache", CACHES)):
            checked[name] = values.get(name, KNOBS[name].default) if name != "remasking" else values.get(name)
            if checked[name] not in choices:
                raise ChatError(
                    f"{name} = {checked[name]!s:.40} is not known; choose one of {', '.join(choices)}.", name
                )
        settings = cls(**checked)
        if problem := settings.sampler.problem():
            raise ChatError(problem[1], problem[0])
        return settings


class Chat:
    """Holds at most one checkpoint in memory; one answer at a time, others wait their turn.

    Args:
        idle_seconds: the model is dropped after so long without a question.
    """

    def __init__(self, idle_seconds: float = 600):
        self._idle_seconds = idle_seconds
        self._busy = threading.Lock()
        self._loaded: tuple[str, Any] | None = None
        self._timer: threading.Timer | None = None

    @property
    def loaded_checkpoint(self) -> str | None:
        """Folder of the checkpoint in memory."""
        return self._loaded[0] if self._loaded else None

    def examples(self, task_name: str, seed: int = 0) -> list[str]:
        """Held-out prompts of a task, to try with one click; of a task that reads data, a typical one."""
        task = TASKS[task_name]
        if isinstance(task, FiniteTask):
            return [task.placeholder]
        held_out = problems(task, "held_out", EXAMPLES_SHOWN, random.Random(seed), distinct=True)
        return [problem.prompt for problem in held_out]

    def answer(
        self, checkpoint_folder: str, task_name: str, prompt: str, settings: Mapping[str, Any],
        stopped: Callable[[], bool] = lambda: False, locked: Sequence[tuple[int, int | str]] = (),
    ) -> Iterator[dict[str, Any]]:
        """Yields "start", one "step" per denoising step as it is made, then "end"; all of it plain JSON.

        Args:
            settings: completion_length, denoising_steps, block_length, temperature, remasking, seed.
            stopped: asked before each step; true ends the answer there.
            locked: what stands from the start: (position, token id), or (position, text), which takes as many
                positions as it has tokens. The model writes the rest.

        Raises:
            ChatError: for a setting, prompt or checkpoint that cannot be used.
        """
        checked = ChatSettings.parse(settings)
        task = TASKS[task_name]
        if not prompt.strip():
            raise ChatError(f"The prompt is empty; write one such as {task.placeholder}.", "prompt")
        try:
            problem: Problem | None = task.problem_from(prompt)
        except ValueError:
            problem = None  # still a prompt; it only cannot be judged
        with self._busy:
            self._hold()
            try:
                model = self._load(checkpoint_folder)
                text = problem.prompt if problem else prompt.strip()
                yield from _denoise(model, task, problem, text, checked, stopped, locked)
            finally:
                self._release_later()

    def _load(self, folder: str) -> Any:
        if self._loaded and self._loaded[0] == folder and Path(folder).is_dir():
            return self._loaded[1]
        from bgpo.models.checkpoints import CheckpointError, load_model

        self._loaded = None  # the old one goes before the new one comes
        try:
            self._loaded = (folder, load_model(Path(folder)))
        except CheckpointError as error:
            raise ChatError(str(error), "checkpoint") from None
        return self._loaded[1]

    def _hold(self) -> None:
        if self._timer:
            self._timer.cancel()

    def _release_later(self) -> None:
        self._timer = threading.Timer(self._idle_seconds, self.release)
        self._timer.daemon = True
        self._timer.start()

    def release(self) -> None:
        """Drops the model, unless an answer is under way."""
        if self._busy.acquire(blocking=False):
            self._loaded = None
            self._busy.release()


def _denoise(model, task, problem, text, settings: ChatSettings, stopped, locked=()) -> Iterator[dict[str, Any]]:
    from bgpo.models.noise import Noise
    from bgpo.models.sampler import RUNNERS_UP, Watch, denoise

    longest = min(MODELS[model.spec.family].max_completion_length, model.spec.max_length - 1)
    if settings.completion_length > longest:
        raise ChatError(
            f"completion_length = {settings.completion_length} is longer than this model is built for; give at most "
            f"{longest}.", "completion_length",
        )
    prompt_ids = _prompt(model, task, text, settings)
    standing = _standing(model, settings.completion_length, locked)
    _refuse_cache(model, settings)
    yield {
        "kind": "start", "prompt": text, "prompt_tokens": model.pieces(prompt_ids[0].tolist()),
        "length": settings.completion_length, "block_length": settings.block_length,
        "steps": settings.denoising_steps, "locked": _locked_pieces(model, standing),
    }
    start = time.perf_counter()
    event = None
    watch = Watch(guesses=True, entropy=True, runners_up=RUNNERS_UP)
    noise = Noise(settings.seed)
    for event in denoise(model, prompt_ids, settings.sampler, noise, locked=standing, watch=watch):
        yield _step(model, event, time.perf_counter() - start)
        if stopped():
            return
    yield _end(model, task, problem, event, time.perf_counter() - start)


def _prompt(model, task, text: str, settings: ChatSettings) -> Any:
    """(1, P) ids without padding; raises ChatError for what the model cannot take."""
    family, block = MODELS[model.spec.family], model.attention_block
    if block and (settings.completion_length % block or block % settings.block_length):
        raise ChatError(
            f"This model reads blocks of {block} tokens: completion_length must be a multiple of {block}, and "
            f"block_length {block} or a divisor of it.", "block_length",
        )
    room = task.prompt_length if family.built_in else model.spec.max_length - settings.completion_length
    try:
        ids = model.encode_prompts([text], room)
    except ValueError as error:
        raise ChatError(str(error), "prompt") from None
    return ids[:, room - model.prompt_tokens(ids).item() :]


def _refuse_cache(model, settings: ChatSettings) -> None:
    block = model.attention_block
    if settings.cache == BLOCK_CAUSAL and not (block and settings.block_length % block == 0):
        needs = f"whole blocks of {block} tokens" if block else "a block-causal model, which this one is not"
        raise ChatError(f"cache = block_causal needs {needs}; choose another cache.", "cache")


def _step(model, event, seconds: float) -> dict[str, Any]:
    fixed = event.committed[0].nonzero()[:, 0].tolist()
    guessed = (event.guess_confidence[0] > 0) & (event.ids[0] == model.mask_id)
    return {
        "kind": "step", "step": event.step, "seconds": seconds,
        "commits": _placed(model, fixed, event.ids[0], event.confidence[0]),
        "ghosts": _placed(model, guessed.nonzero()[:, 0].tolist(), event.guess_ids[0], event.guess_confidence[0]),
        "details": {str(i): _detail(model, event, i) for i in fixed},
    }


def _detail(model, event, i: int) -> dict[str, Any]:
    """What is worth knowing of a token besides its probability: its id, how open the place was, what else fitted."""
    others = zip(model.pieces(event.runner_up_ids[0, i].tolist()), event.runner_up_confidence[0, i].tolist())
    return {
        "id": event.ids[0, i].item(), "entropy": round(event.entropy[0, i].item(), 3),
        "others": [[piece, round(chance, 4)] for piece, chance in others if chance >= _LEAST_SHOWN],
    }


def _standing(model, length: int, locked: Sequence[tuple[int, int | str]]) -> Any:
    """(1, length) token ids that stand from the start, masks elsewhere; None without any. Raises ChatError."""
    if not locked:
        return None
    import torch

    ids = torch.full((1, length), model.mask_id, device=model.device)
    for position, what in locked:
        tokens = [what] if isinstance(what, int) else _tokens_of(model, what)
        if position < 0 or position + len(tokens) > length:
            raise ChatError(
                f"{what!s:.40} at position {position + 1} does not fit into {length} positions; place it further left "
                "or give a shorter text.", "locked",
            )
        if any(not 0 <= token < model.vocabulary_size or token in model.banned_ids for token in tokens):
            raise ChatError(f"Position {position + 1} cannot hold {what!s:.40}: that is no token to write.", "locked")
        ids[0, position : position + len(tokens)] = torch.tensor(tokens, device=model.device)
    if not (ids == model.mask_id).any():
        raise ChatError("Every position is fixed, so there is nothing to fill; free some.", "locked")
    return ids


def _tokens_of(model, text: str) -> list[int]:
    try:
        tokens = model.text.answer(text)
    except ValueError as error:
        raise ChatError(str(error), "locked") from None
    return tokens[:-1] if tokens and tokens[-1] == model.text.turn_end_id else tokens


def _locked_pieces(model, standing: Any) -> list[list[Any]]:
    """[[position, piece, token id], ...] of the tokens that stood from the start."""
    if standing is None:
        return []
    places = (standing[0] != model.mask_id).nonzero()[:, 0].tolist()
    ids = standing[0, places].tolist()
    return [[place, piece, id] for place, piece, id in zip(places, model.pieces(ids), ids)]


def _placed(model, positions: list[int], ids, confidence) -> list[list[Any]]:
    pieces = model.pieces([ids[i].item() for i in positions])
    return [[i, piece, round(confidence[i].item(), 4)] for i, piece in zip(positions, pieces)]


def _end(model, task, problem, event, seconds: float) -> dict[str, Any]:
    text = model.decode(event.ids)[0]
    verdict = None
    if problem:
        judged = task.reward(problem, text)
        verdict = {"reward": judged.total, "reason": judged.reason}
    return {
        "kind": "end", "text": text, "tokens": model.completion_tokens(event.ids)[0].item(), "nfe": event.step,
        "seconds": seconds, "verdict": verdict,
    }


def _number(values: Mapping[str, Any], name: str, low: float, high: float, kind: type) -> Any:
    given = values.get(name)
    try:
        number = kind(given)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != float(given) or not low <= number <= high:
        noun = "a whole number" if kind is int else "a number"
        shown = f"{noun} from {low:.0f} to {high:.0f}" if kind is int else f"{noun} from {low:g} to {high:g}"
        raise ChatError(f"{name} = {given!s:.40} is not allowed; give {shown}.", name)
    return number
