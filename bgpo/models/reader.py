"""What a denoising step reads: the whole canvas, or a window of it with the rest kept from the block's first pass.

Axes: B rows of the batch, b rows that a pass is for, P prompt, L completion, T = P + L columns of the canvas, W columns
of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bgpo.models.cache import ReadKV, RecordingKV
from bgpo.models.decoding import BLOCK_CAUSAL, DUAL, NO_CACHE, PREFIX, SamplerSettings
from bgpo.models.denoiser import Denoiser


class Reader:
    """Hidden states of a block's positions, pass by pass.

    `open` at the first pass of a block, `read` at the later ones, `drop` between them for rows that are done.

    Args:
        prompt_ids: (B, P); locked: (B, L) bool, completion tokens that stood from the start.
    """

    def __init__(self, model: Denoiser, prompt_ids: Tensor, locked: Tensor, settings: SamplerSettings):
        if settings.cache == BLOCK_CAUSAL and not (
            model.attention_block and settings.block_length % model.attention_block == 0
        ):
            raise ValueError(
                f"cache = block_causal needs a block-causal model and whole blocks of its attention; this model's are "
                f"{model.attention_block or 'the whole text'}. Set block_length to a multiple, or cache to none."
            )
        prompt_valid = model.valid(prompt_ids)
        first = int(prompt_valid.any(0).int().argmax())  # columns that are padding in every row are left out
        self.model, self.settings = model, settings
        self.prompt_ids, self.locked = prompt_ids[:, first:], locked
        self.valid = torch.cat([prompt_valid[:, first:], torch.ones_like(locked)], 1)  # (B, T)
        self.positions = (self.valid.cumsum(1) - 1).clamp(min=0)
        self.lead = int(model.logit_shift)  # a shifted model's window opens one column early
        self.passes = 0
        self._kv: ReadKV | None = None  # of this block
        self._finished: tuple[Tensor, ReadKV] | None = None  # rows and what block-causal attention keeps for good

    def open(self, rows: Tensor, ids: Tensor, start: int) -> Tensor:
        """(b,) rows of the batch, their (b, L) completions -> (b, W, D) states of the block that begins at `start`.

        With guidance (2 b, W, D): first with the prompt, then without.
        """
        self.rows = rows
        P, T = self.prompt_ids.shape[1], self.valid.shape[1]
        self.block = slice(P + start, P + start + self.settings.block_length)
        cache = self.settings.cache
        if cache == NO_CACHE:
            return self._whole(ids, shared=start == 0)
        first, last = self.block.start - self.lead, T if cache == PREFIX else self.block.stop
        kept = torch.arange(first, device=ids.device)
        if cache == DUAL:
            kept = torch.cat([kept, torch.arange(last, T, device=ids.device)])
        self.window = slice(first, last)
        if cache == BLOCK_CAUSAL:
            return self._extend(ids, kept)
        return self._record(ids, slice(0, T), kept, None, shared=start == 0)

    def read(self, ids: Tensor) -> Tensor:
        """(b, L) completions of the rows that are left -> states as `open`."""
        if self._kv is None:
            return self._whole(ids, shared=False)
        canvas, valid = self._canvas(ids)[:, self.window], self.twice(self.valid[self.rows])[:, self.window]
        return self._hidden(canvas, valid, self.window, self._kv)

    def drop(self, left: Tensor) -> None:
        """Keeps the rows where `left`, (b,) bool, holds."""
        if bool(left.all()):
            return
        self.rows = self.rows[left]
        if self._kv is not None:
            self._kv = self._kv.rows(self.twice(left).nonzero()[:, 0])

    def _whole(self, ids: Tensor, shared: bool) -> Tensor:
        everything = slice(0, self.valid.shape[1])
        canvas, valid = self._canvas(ids), self.twice(self.valid[self.rows])
        if not shared:
            return self._hidden(canvas, valid, everything, None)
        index, back = _distinct(canvas)
        return self._hidden(canvas[index], valid[index], everything, None)[back]

    def _record(self, ids: Tensor, window: slice, kept: Tensor, before: ReadKV | None, shared: bool) -> Tensor:
        """A pass over `window` whose keys and values at the columns `kept` serve the later ones."""
        canvas, valid = self._canvas(ids)[:, window], self.twice(self.valid[self.rows])[:, window]
        index, back = _distinct(canvas) if shared else (None, None)
        if shared:
            canvas, valid = canvas[index], valid[index]
        recording = RecordingKV(self.model.layers, self._from_end(window), valid, before)
        states = self._hidden(canvas, valid, window, recording)
        self._kv = recording.keep(kept - self.valid.shape[1], self._from_end(self.window), back)
        return states[back] if shared else states

    def _extend(self, ids: Tensor, kept: Tensor) -> Tensor:
        """Block-causal: computes what is not kept yet, up to the end of the block, and keeps what is finished."""
        before, known = None, 0
        if self._finished is not None:
            had, before = self._finished
            index = torch.searchsorted(had, self.rows)
            index = torch.cat([index, index + len(had)]) if self.settings.cfg_scale else index
            before, known = before.rows(index), len(before.columns)
        states = self._record(ids, slice(known, self.window.stop), kept, before, shared=known == 0)
        self._finished = self.rows, self._kv
        return states

    def _hidden(self, canvas: Tensor, valid: Tensor, window: slice, cache: ReadKV | None) -> Tensor:
        """(b, T) window of the canvas -> (b, W, D) states of the block, where it is masked."""
        self.passes += 1
        later = cache is not None and len(cache.columns) > 0  # else the window begins where the canvas does
        positions = self.twice(self.positions[self.rows])[:, window] if later else None
        block = slice(self.block.start - window.start, self.block.stop - window.start)
        wanted = torch.zeros_like(valid)
        wanted[:, block] = canvas[:, block] == self.model.mask_id if self.settings.masked_rows_only else True
        states = self.model.states_at(canvas, wanted, valid, positions, cache)  # (N, D)
        in_block = states.new_zeros(*wanted[:, block].shape, states.shape[-1])
        in_block[wanted[:, block]] = states
        return in_block

    def _canvas(self, ids: Tensor) -> Tensor:
        canvas = torch.cat([self.prompt_ids[self.rows], ids], 1)
        if not self.settings.cfg_scale:
            return canvas
        P = self.prompt_ids.shape[1]
        given = self.valid[self.rows].clone()  # what stood from the start is what guidance hides; padding stays
        given[:, P:] = self.locked[self.rows]
        return torch.cat([canvas, canvas.masked_fill(given, self.model.mask_id)], 0)

    def twice(self, values: Tensor) -> Tensor:
        """(b, ...) -> what a guided pass has of it: for the rows with the prompt, then for those without."""
        return torch.cat([values, values], 0) if self.settings.cfg_scale else values

    def _from_end(self, window: slice) -> Tensor:
        T = self.valid.shape[1]
        return torch.arange(window.start - T, window.stop - T, device=self.valid.device)


def _distinct(canvas: Tensor) -> tuple[Tensor, Tensor]:
    """(b, T) -> one row of each kind, in order of first appearance, and for each row its kind.

    The first canvases of a group are equal, so their first pass is one row.
    """
    kinds: dict[tuple[int, ...], int] = {}
    back = [kinds.setdefault(tuple(row), len(kinds)) for row in canvas.tolist()]
    index = [back.index(kind) for kind in range(len(kinds))]
    return torch.tensor(index, device=canvas.device), torch.tensor(back, device=canvas.device)
