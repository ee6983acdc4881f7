"""The one sampler: rollouts, evaluation and chat all denoise with it.

It starts from a masked completion, except where the caller has fixed tokens, and goes block by block from left to
right. A step is one forward pass: the order says where to commit next, the schedule how much, the token is the
likeliest or a sample, and nothing committed is ever masked again. `bgpo/models/decoding.py` lists the choices;
docs/sampler.md says which are exact and what they cost.

The rows of a batch do not know of each other: each has its own steps and its own noise, a row that is done with a block
costs nothing until the others are, and one that has ended costs nothing at all. Only what is needed is computed: the
head at masked positions of the block, noise where a token is drawn, the first pass once for equal rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from bgpo.models import orders, schedules
from bgpo.models.decoding import BLOCK_CAUSAL, LOW_CONFIDENCE, SamplerSettings
from bgpo.models.denoiser import Denoiser
from bgpo.models.noise import Noise
from bgpo.models.orders import BANNED, BLIND, Drawn
from bgpo.models.reader import Reader
from bgpo.models.schedules import Scores

RUNNERS_UP = 4
_LOGITS_AT_A_TIME = {"cpu": 2**22, "cuda": 2**28}  # what fits a cache, what fits beside the weights


@dataclass(frozen=True)
class Watch:
    """What a caller wants to see of each step beside its commits; all of it costs something.

    Attributes:
        guesses: what would be written at the block's masked positions; entropy: of the prediction there.
        runners_up: alternatives to each committed token, at most RUNNERS_UP.
    """

    guesses: bool = False
    entropy: bool = False
    runners_up: int = 0


@dataclass(frozen=True)
class StepEvent:
    """What one pass did. B rows, L completion positions.

    Attributes:
        step: 1..N, passes so far. Rows wait for the slowest in a block, so a row's own steps may be fewer.
        committed: (B, L) bool, positions fixed in this step.
        ids: (B, L) the canvas after the step.
        confidence: (B, L) float32 probability of the token, at temperature 1, where committed; else 0.
        logprob: (B, L) float32 log-probability that the token was drawn with (at the settings' temperature),
            where committed; else 0.
        filled: (B, L) bool, end tokens put there after this step because the row had ended, not written by the model.
        guess_ids, guess_confidence: (B, L) the likeliest token and its probability at the block's positions that were
            masked before the step, else 0; None unless asked for.
        entropy: (B, L) nats at temperature 1, at the same positions; None unless asked for.
        runner_up_ids, runner_up_confidence: (B, L, R) the likeliest tokens other than the committed one; None
            unless asked for.
    """

    step: int
    committed: Tensor
    ids: Tensor
    confidence: Tensor
    logprob: Tensor
    filled: Tensor
    guess_ids: Tensor | None = None
    guess_confidence: Tensor | None = None
    entropy: Tensor | None = None
    runner_up_ids: Tensor | None = None
    runner_up_confidence: Tensor | None = None


@dataclass(frozen=True)
class Denoised:
    """Finished completions.

    Attributes:
        ids: (B, L); confidence, logprob: (B, L) as in StepEvent, 0 where nothing was drawn.
        commit_step: (B, L) int, 1..N by each row's own count; 0 where the caller had fixed the token or an ended row
            was filled up.
        filled: (B, L) bool, filled up after the row had ended.
        nfe: (B,) forward passes spent on each row; passes: forward calls of the batch.
    """

    ids: Tensor
    commit_step: Tensor
    confidence: Tensor
    logprob: Tensor
    filled: Tensor
    nfe: Tensor
    passes: int


@dataclass(frozen=True)
class Resume:
    """A point in an earlier completion to go on from, as its trace tells it.

    Attributes:
        commit_step: (B, L) as in Denoised; ids: (B, L), read where 1 <= commit_step <= step.
        step: (B,) each row's own.
    """

    ids: Tensor
    commit_step: Tensor
    step: Tensor


def denoise(
    model: Denoiser,
    prompt_ids: Tensor,
    settings: SamplerSettings,
    noise: Noise,
    *,
    locked: Tensor | None = None,
    resume: Resume | None = None,
    watch: Watch = Watch(),
) -> Iterator[StepEvent]:
    """Fills a masked completion for each prompt, yielding each step as it is made.

    Args:
        prompt_ids: (B, P).
        noise: all randomness; the same noise gives the same completions, whatever else is in the batch.
        locked: (B, L) token ids that stand from the start, the mask token where the model is to write: infilling, or a
            span to be written again.
        resume: an earlier completion with the same prompt, settings, noise and locked tokens; its later steps are
            made again, equal to what they were unless one of these has changed.

    Raises:
        ValueError: when the settings contradict each other or the model.
    """
    return Canvas(model, prompt_ids, settings, noise, locked, resume, watch).steps()


def complete(
    model: Denoiser,
    prompt_ids: Tensor,
    settings: SamplerSettings,
    noise: Noise,
    check: Callable[[], None] = lambda: None,
    locked: Tensor | None = None,
) -> Denoised:
    """Runs `denoise` to its end. `check` is called between steps and may raise to leave early."""
    canvas = Canvas(model, prompt_ids, settings, noise, locked)
    for _ in canvas.passes():
        check()
    return canvas.result()


class Canvas:
    """A batch of completions under way. Axes: B rows, b rows in a pass, L positions, W of a block, N or n positions."""

    def __init__(
        self, model: Denoiser, prompt_ids: Tensor, settings: SamplerSettings, noise: Noise,
        locked: Tensor | None = None, resume: Resume | None = None, watch: Watch = Watch(),
    ):
        if problem := settings.problem():
            raise ValueError(problem[1])
        self.model, self.settings, self.noise, self.watch = model, settings, noise, watch
        shape, device = (len(prompt_ids), settings.completion_length), prompt_ids.device
        self.ids = torch.full(shape, model.mask_id, device=device) if locked is None else locked.clone()
        self.locked = self.ids != model.mask_id
        self.commit_step = torch.zeros(shape, dtype=torch.long, device=device)
        self.confidence, self.logprob = torch.zeros(shape, device=device), torch.zeros(shape, device=device)
        self.filled = torch.zeros(shape, dtype=torch.bool, device=device)
        self.row_steps = torch.zeros(shape[0], dtype=torch.long, device=device)
        self.alive = torch.ones(shape[0], dtype=torch.bool, device=device)
        self.reader = Reader(model, prompt_ids, self.locked, settings)
        self.step = 0
        if resume is not None:
            self._take_up(resume)

    def _take_up(self, resume: Resume) -> None:
        standing = (resume.commit_step > 0) & (resume.commit_step <= resume.step[:, None])
        self.ids = torch.where(standing, resume.ids, self.ids)
        self.commit_step = resume.commit_step * standing
        self.row_steps = self.commit_step.amax(1)
        self.step = int(self.row_steps.max())

    def result(self) -> Denoised:
        return Denoised(
            self.ids, self.commit_step, self.confidence, self.logprob, self.filled, self.row_steps, self.reader.passes
        )

    def steps(self) -> Iterator[StepEvent]:
        """Each pass as an event with tensors of its own."""
        for made in self.passes():
            yield self._event(made)

    @torch.no_grad()
    def passes(self) -> Iterator[_Made]:
        """Goes on to the end, yielding after each pass."""
        W = self.settings.block_length
        for start in range(0, self.settings.completion_length, W):
            block = slice(start, start + W)
            for made in self._block(block):
                if self.settings.stop_at_eos and not self._masks(self.alive, block).any():
                    made.filled = self._end_rows(block.stop)
                yield made

    def _block(self, block: slice) -> Iterator[_Made]:
        """Steps until no row has a mask left in the block."""
        masks = self._masks(slice(None), block)
        # block-causal keys are kept for good, so every row that goes on has its own
        rows = self.alive if self.settings.cache == BLOCK_CAUSAL else self.alive & masks.any(1)
        if not masks[rows].any():
            return
        begun = self.commit_step[:, block] > 0  # in an earlier completion that is taken up
        plan = schedules.plans(self.settings, (masks | begun).sum(1))
        before = self.commit_step.clone()
        before[:, block.start :] = 0
        steps_before = torch.where(begun.any(1), before.amax(1), self.row_steps)
        states = self._open(rows.nonzero()[:, 0], block, begun)
        while len(rows := self.reader.rows):
            taken = self.row_steps[rows] - steps_before[rows]
            self.step += 1
            self.row_steps[rows] += 1
            yield self._commit(states, block, None if plan is None else plan[rows, taken])
            states = self._next(block)

    def _open(self, rows: Tensor, block: slice, begun: Tensor) -> Tensor | None:
        """States for the first step; a block that was begun is opened as it was when it was."""
        at_start = self.ids[rows]
        at_start[:, block] = at_start[:, block].masked_fill(begun[rows], self.model.mask_id)
        states = self.reader.open(rows, at_start, block.start)
        left = self._masks(rows, block).any(1)
        if bool(begun.any()):
            return self._next(block)
        self.reader.drop(left)
        return states[self.reader.twice(left)]

    def _next(self, block: slice) -> Tensor | None:
        """States for a later step of the rows that are not done with the block; None when all are."""
        self.reader.drop(self._masks(self.reader.rows, block).any(1))
        return self.reader.read(self.ids[self.reader.rows]) if len(self.reader.rows) else None

    def _masks(self, rows: Tensor | slice, block: slice) -> Tensor:
        """(b, W) bool."""
        return self.ids[rows][:, block] == self.model.mask_id

    def _end_rows(self, stop: int) -> Tensor:
        """Fills up rows that have written an end token before `stop`; (B, L) bool where."""
        ends = torch.tensor(self.model.eos_ids, device=self.ids.device)
        ended = self.alive & torch.isin(self.ids[:, :stop], ends).any(1)
        filled = ended[:, None] & (self.ids == self.model.mask_id)
        self.ids = self.ids.masked_fill(filled, self.model.eos_id)
        self.filled |= filled
        self.alive &= ~ended
        return filled

    # ---- one step

    def _commit(self, states: Tensor, block: slice, quota: Tensor | None) -> _Made:
        """Chooses positions, then tokens, and fixes them."""
        rows = self.reader.rows
        masks = self._masks(rows, block)
        found = self._look(states, masks, block)
        nothing = torch.zeros_like(found["score"])
        scores = Scores(masks, found["score"], found.get("confidence", nothing), found.get("entropy", nothing))
        at = schedules.commits(scores, self.settings, quota).nonzero()  # (n, 2) row of the pass, position in the block
        row, position = rows[at[:, 0]], at[:, 1] + block.start
        drawn, runners_up = self._draw(states, found, at, row, position)
        self.ids[row, position] = drawn.token
        self.commit_step[row, position] = self.row_steps[row]
        self.confidence[row, position], self.logprob[row, position] = drawn.confidence, drawn.logprob
        return _Made(rows, block, row, position, drawn, masks, found, runners_up)

    def _look(self, states: Tensor, masks: Tensor, block: slice) -> dict[str, Tensor]:
        """What the order and the schedule need to know of the block's masked positions, (b, W) each."""
        s, watch = self.settings, self.watch
        found: dict[str, Tensor] = {}
        if s.remasking in BLIND:
            row, position = masks.nonzero().unbind(1)
            who, column = self.reader.rows[row], position + block.start
            score = BLIND[s.remasking](column, self.noise.uniform(who, column, self.row_steps[who]))
            found["score"] = _dense(masks, (row, position), score)
            if not (schedules.needs(s.schedule) or watch.guesses or watch.entropy):
                return found  # positions do not depend on the logits, so only these rows need the head
        where = (masks if s.masked_rows_only else torch.ones_like(masks)).nonzero()
        parts = [self._look_at(states, part, block) for part in where.split(self._chunk)]
        for name in parts[0]:
            values = torch.cat([part[name] for part in parts])
            found.setdefault(name, _dense(masks, where.unbind(1), values))
        return found

    def _look_at(self, states: Tensor, at: Tensor, block: slice) -> dict[str, Tensor]:
        """The same for (N, 2) positions, (N,) each."""
        s = self.settings
        logits = self._logits(states, at)
        drawn: dict[str, Tensor] = {}
        if s.remasking == LOW_CONFIDENCE and s.temperature > 0:
            row = self.reader.rows[at[:, 0]]
            token = orders.draw(logits, s.temperature, self._race(row, at[:, 1] + block.start, logits))
            drawn = {"drawn": token.token, "confidence": token.confidence, "logprob": token.logprob,
                     "score": token.confidence}
        entropy = self.watch.entropy or "entropy" in schedules.needs(s.schedule)
        told = orders.predict(logits, s.remasking, entropy)
        values = {"token": told.token, "certainty": told.confidence, "confidence": told.confidence, "score": told.score}
        return values | ({} if told.entropy is None else {"entropy": told.entropy}) | drawn

    def _draw(
        self, states: Tensor, found: dict[str, Tensor], at: Tensor, row: Tensor, position: Tensor
    ) -> tuple[Drawn, tuple[Tensor, Tensor] | None]:
        """Tokens for the (n, 2) positions to commit, and the runners-up if they are watched."""
        known = self._known(found, at)
        if known and not self.watch.runners_up:
            return known, None
        parts, beside = [], []
        for some in torch.arange(len(at), device=at.device).split(self._chunk):
            logits = self._logits(states, at[some])
            if not known:
                parts.append(self._draw_from(logits, row[some], position[some]))
            if self.watch.runners_up:
                token = known.token[some] if known else parts[-1].token
                beside.append(orders.runners_up(logits, token, self.watch.runners_up))
        drawn = known or Drawn(*(torch.cat(values) for values in zip(*((p.token, p.confidence, p.logprob)
                                                                       for p in parts))))
        return drawn, tuple(torch.cat(values) for values in zip(*beside)) if beside else None

    def _known(self, found: dict[str, Tensor], at: Tensor) -> Drawn | None:
        """Tokens that choosing the positions has already told."""
        i, j = at.unbind(1)
        if "drawn" in found:
            return Drawn(found["drawn"][i, j], found["confidence"][i, j], found["logprob"][i, j])
        if self.settings.temperature == 0 and "token" in found:
            sure = found["certainty"][i, j]
            return Drawn(found["token"][i, j], sure, torch.zeros_like(sure))
        return None

    def _draw_from(self, logits: Tensor, row: Tensor, position: Tensor) -> Drawn:
        if self.settings.temperature == 0:
            return orders.likeliest(logits)
        return orders.draw(logits, self.settings.temperature, self._race(row, position, logits))

    def _race(self, row: Tensor, position: Tensor, logits: Tensor) -> Tensor:
        return self.noise.exponential(row, position, self.row_steps[row], logits.shape[1])

    def _logits(self, states: Tensor, at: Tensor) -> Tensor:
        """(n, V) float32 at (n, 2) positions, guided, without the tokens that are never written."""
        i, j = at.unbind(1)
        if self.settings.cfg_scale:
            given, bare = (
                self.model.logits(half[i, j]).float() for half in states.view(2, -1, *states.shape[1:])
            )
            logits = bare + (self.settings.cfg_scale + 1) * (given - bare)
        else:
            logits = self.model.logits(states[i, j]).float()
        logits[:, self.model.banned_ids] = BANNED
        return logits

    @property
    def _chunk(self) -> int:
        return max(1, _LOGITS_AT_A_TIME.get(self.ids.device.type, 2**28) // self.model.vocabulary_size)

    # ---- what a caller sees

    def _event(self, made: _Made) -> StepEvent:
        shape = self.ids.shape

        def spread(values: Tensor) -> Tensor:
            """(n, ...) at the committed positions -> (B, L, ...)."""
            canvas = torch.zeros(*shape, *values.shape[1:], dtype=values.dtype, device=values.device)
            canvas[made.row, made.position] = values
            return canvas

        def in_block(name: str) -> Tensor:
            """(b, W) at the positions that were masked -> (B, L)."""
            values = made.found[name] * made.masks
            canvas = torch.zeros(shape, dtype=values.dtype, device=values.device)
            canvas[made.rows[:, None], torch.arange(shape[1], device=values.device)[made.block]] = values
            return canvas

        watch = self.watch
        ids, chance = (spread(values) for values in made.runners_up) if made.runners_up else (None, None)
        return StepEvent(
            self.step, spread(torch.ones_like(made.row, dtype=torch.bool)), self.ids.clone(),
            spread(made.drawn.confidence), spread(made.drawn.logprob),
            torch.zeros_like(self.filled) if made.filled is None else made.filled,
            in_block("token") if watch.guesses else None, in_block("certainty") if watch.guesses else None,
            in_block("entropy") if watch.entropy else None, ids, chance,
        )


@dataclass
class _Made:
    """One pass: rows (b,), its block, the (n,) rows and positions committed, and what was found on the way."""

    rows: Tensor
    block: slice
    row: Tensor
    position: Tensor
    drawn: Drawn
    masks: Tensor
    found: dict[str, Tensor]
    runners_up: tuple[Tensor, Tensor] | None
    filled: Tensor | None = None


def _dense(masks: Tensor, where: tuple[Tensor, ...], values: Tensor) -> Tensor:
    """(N,) values at N positions -> (b, W), 0 elsewhere."""
    canvas = torch.zeros(masks.shape, dtype=values.dtype, device=values.device)
    canvas[where] = values
    return canvas
