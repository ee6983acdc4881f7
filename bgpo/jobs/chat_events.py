"""One answer as the events that a page shows: "start", a "step" per pass of the model, "end"; all of it plain JSON.

The web process imports this with torch, when somebody first asks, and not before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bgpo.jobs.chat_settings import ChatError, ChatSettings, Locks, Piece
from bgpo.models.decoding import BLOCK_CAUSAL
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.registry import MODELS
from bgpo.models.sampler import RUNNERS_UP, StepEvent, Watch, denoise

_LEAST_SHOWN = 5e-5  # probability of a runner-up that rounds to something


@dataclass(frozen=True)
class Asked:
    """What a model is asked.

    Attributes:
        message: the newest one of the user.
        earlier: what was said before it: a message of the user, its answer, and so on.
        room: tokens of a task's prompt, which is all that the built-in model has learnt to read.
        device: words for where it is computed.
    """

    message: str
    earlier: tuple[str, ...] = ()
    room: int = 0
    device: str = ""


def answer_events(
    model: Denoiser, asked: Asked, settings: ChatSettings, stopped: Callable[[], bool], locked: Locks = (),
) -> Iterator[dict[str, Any]]:
    """Raises ChatError for a prompt, settings or fixed words that the model cannot take."""
    length = settings.completion_length
    longest = min(MODELS[model.spec.family].max_completion_length, model.spec.max_length - 1)
    if length > longest:
        raise ChatError(
            f"completion_length = {length} is longer than this model is built for; give at most {longest}.",
            "completion_length",
        )
    _refuse_blocks(model, settings)
    prompt_ids, turns = _prompt(model, asked, length)
    standing = _standing(model, length, locked)
    yield {
        "kind": "start", "prompt": asked.message, "prompt_tokens": model.pieces(prompt_ids[0].tolist()),
        "length": length, "block_length": settings.block_length, "steps": settings.denoising_steps,
        "locked": _locked_pieces(model, standing), "ends": model.pieces(model.eos_ids), "turns": turns,
        "turns_left_out": len(asked.earlier) // 2 - turns, "device": asked.device,
    }
    # what stands behind an end was put there on purpose, so nothing is filled up then
    sampler = settings.sampler if standing is None else replace(settings.sampler, stop_at_eos=False)
    start = time.perf_counter()
    event = None
    watch = Watch(guesses=True, entropy=True, runners_up=RUNNERS_UP)
    for event in denoise(model, prompt_ids, sampler, Noise(settings.seed), locked=standing, watch=watch):
        yield _step(model, event, time.perf_counter() - start)
        if stopped():
            return
    yield {
        "kind": "end", "text": model.decode(event.ids)[0], "tokens": model.completion_tokens(event.ids)[0].item(),
        "nfe": event.step, "seconds": time.perf_counter() - start,
    }


def reads_turns(model: Denoiser) -> bool:
    """Whether earlier turns mean anything to a model: the built-in one has only ever seen single problems."""
    return not MODELS[model.spec.family].built_in


def _prompt(model: Denoiser, asked: Asked, completion_length: int) -> tuple[Tensor, int]:
    """((1, P) ids without padding, earlier turns in them): the oldest are left out until the rest fits."""
    room = model.spec.max_length - completion_length
    earlier: tuple[str, ...] = asked.earlier if reads_turns(model) else ()
    if MODELS[model.spec.family].built_in:
        room = asked.room or room
    while True:
        try:
            return model.encode_conversation([*earlier, asked.message], room), len(earlier) // 2
        except ValueError as error:
            if not earlier:
                raise ChatError(str(error), "prompt") from None
        earlier = earlier[2:]


def _refuse_blocks(model: Denoiser, settings: ChatSettings) -> None:
    block = model.attention_block
    if block and (settings.completion_length % block or block % settings.block_length):
        raise ChatError(
            f"This model reads blocks of {block} tokens: completion_length must be a multiple of {block}, and "
            f"block_length {block} or a divisor of it.", "block_length",
        )
    if settings.cache == BLOCK_CAUSAL and not (block and settings.block_length % block == 0):
        raise ChatError(
            f"cache = block_causal keeps finished blocks of {block} tokens for good; set block_length to {block}, or "
            "choose another cache." if block else
            "cache = block_causal needs a block-causal model, which this one is not; choose another cache.", "cache",
        )


# ---- one step


def _step(model: Denoiser, event: StepEvent, seconds: float) -> dict[str, Any]:
    fixed = event.committed[0].nonzero()[:, 0].tolist()
    filled = event.filled[0].nonzero()[:, 0].tolist()
    guessed = (event.guess_confidence[0] > 0) & (event.ids[0] == model.mask_id)
    return {
        "kind": "step", "step": event.step, "seconds": seconds,
        "commits": _placed(model, fixed, event.ids[0], event.confidence[0]),
        "ghosts": _placed(model, guessed.nonzero()[:, 0].tolist(), event.guess_ids[0], event.guess_confidence[0]),
        "details": {str(i): _detail(model, event, i) for i in fixed},
        "filled": _with_ids(model, filled, event.ids[0]),
    }


def _detail(model: Denoiser, event: StepEvent, i: int) -> dict[str, Any]:
    """What is worth knowing of a token besides its probability: its id, how open the place was, what else fitted."""
    others = zip(model.pieces(event.runner_up_ids[0, i].tolist()), event.runner_up_confidence[0, i].tolist())
    return {
        "id": event.ids[0, i].item(), "entropy": round(event.entropy[0, i].item(), 3),
        "others": [[piece, round(chance, 4)] for piece, chance in others if chance >= _LEAST_SHOWN],
    }


def _placed(model: Denoiser, positions: list[int], ids: Tensor, confidence: Tensor) -> list[list[Any]]:
    pieces = model.pieces([ids[i].item() for i in positions])
    return [[i, piece, round(confidence[i].item(), 4)] for i, piece in zip(positions, pieces)]


def _with_ids(model: Denoiser, positions: list[int], ids: Tensor) -> list[list[Any]]:
    """[[position, piece, token id], ...] for (L,) ids."""
    tokens = ids[positions].tolist()
    return [[place, piece, token] for place, piece, token in zip(positions, model.pieces(tokens), tokens)]


# ---- words that stand from the start


def _standing(model: Denoiser, length: int, locked: Locks) -> Tensor | None:
    """(1, length) token ids that stand from the start, masks elsewhere; None without any. Raises ChatError."""
    if not locked:
        return None
    ids = torch.full((1, length), model.mask_id, device=model.device)
    for position, what in locked:
        tokens = _tokens_of(model, what)
        what = what.text if isinstance(what, Piece) else what
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


def _tokens_of(model: Denoiser, what: int | str | Piece) -> list[int]:
    if isinstance(what, int):
        return [what]
    if isinstance(what, Piece):
        token = model.text.token_of(what.text)
        if token is None:
            raise ChatError(
                f"This checkpoint has no token {what.text!r:.40}; take one of the run that wrote it.", "locked",
            )
        return [token]
    try:
        tokens = model.text.answer(what)
    except ValueError as error:
        raise ChatError(str(error), "locked") from None
    return tokens[:-1] if tokens and tokens[-1] == model.text.turn_end_id else tokens


def _locked_pieces(model: Denoiser, standing: Tensor | None) -> list[list[Any]]:
    if standing is None:
        return []
    return _with_ids(model, (standing[0] != model.mask_id).nonzero()[:, 0].tolist(), standing[0])
