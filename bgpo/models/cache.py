"""Keys and values that are read again instead of computed: prefix, dual and block-causal cache as one read-only object.

Without a causal mask attention does not care in which order keys come, and stored keys are rotated already, so it is
enough to put the kept ones in front of the new ones, whatever their positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class _Layer(CacheLayerMixin):
    """(B, heads, kept, head width) keys and values of one layer; None when there are none."""

    def __init__(self, keys: Tensor | None, values: Tensor | None):
        super().__init__()
        self.keys, self.values = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: what is kept is known from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """The kept ones and the new ones; stores nothing."""
        if self.keys is None:
            return key_states, value_states
        return torch.cat([self.keys, key_states], -2), torch.cat([self.values, value_states], -2)

    def get_seq_length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[-2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


class _RecordingLayer(_Layer):
    """Also remembers what the last pass read."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        self.read = super().update(key_states, value_states)
        return self.read


class ReadKV(Cache):
    """Keys and values of some columns of a canvas, for a pass over others of its columns.

    Attributes:
        columns: (kept,) what is kept; window: (T,) what the pass computes; both count from the canvas's end, so that
            -1 is the last column and no prompt length matters.
        seen: (B, kept) bool, false on padding.
    """

    def __init__(self, layers: Sequence[_Layer], columns: Tensor, window: Tensor, seen: Tensor):
        super().__init__(layers=list(layers))
        self.columns, self.window, self.seen = columns, window, seen

    def rows(self, index: Tensor) -> ReadKV:
        """The same for some of the rows."""
        layers = [_Layer(layer.keys[index], layer.values[index]) for layer in self.layers]
        return ReadKV(layers, self.columns, self.window, self.seen[index])

    def over(self, window: Tensor) -> ReadKV:
        """The same kept columns, for a pass over other ones."""
        return ReadKV(self.layers, self.columns, window, self.seen)


class RecordingKV(ReadKV):
    """A pass that reads `before`, if anything, and whose own keys and values can then be kept as well."""

    def __init__(self, layers: int, window: Tensor, valid: Tensor, before: ReadKV | None = None):
        kept = before.layers if before else [_Layer(None, None)] * layers
        columns = before.columns if before else window[:0]
        seen = before.seen if before else valid[:, :0]
        super().__init__([_RecordingLayer(layer.keys, layer.values) for layer in kept], columns, window, seen)
        self._valid = valid

    def keep(self, columns: Tensor, window: Tensor, rows: Tensor | None = None) -> ReadKV:
        """What the pass read, for the next ones.

        Args:
            columns: (kept,) of the canvas, all of them kept before or computed in this pass.
            window: (T,) what the next passes compute.
            rows: (b,) which row of this pass each row of the next ones takes; None: its own.
        """
        read = torch.cat([self.columns, self.window])
        where = (read == columns[:, None]).long().argmax(1)  # (kept,)
        seen = torch.cat([self.seen, self._valid], 1)[:, where]
        layers = [_Layer(*(_at(values, where, rows) for values in layer.read)) for layer in self.layers]
        return ReadKV(layers, columns, window, seen if rows is None else seen[rows])


def _at(values: Tensor, columns: Tensor, rows: Tensor | None) -> Tensor:
    """Its own memory: a view would keep the whole canvas alive."""
    kept = values.index_select(-2, columns)
    return kept if rows is None else kept[rows]
