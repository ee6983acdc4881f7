"""What autograd keeps of a decoder layer for backward, op by op, in bytes. Torch-free.

Each op keeps what its derivative needs: a product both factors, a matrix what it read if it is trained, attention its
queries, keys, values, output and one number per head, silu what it was given. A tensor that two ops keep is there once,
so a float32 norm keeps the stream itself and one in half precision a float32 copy. Frozen weights keep nothing of what
they read, adapters what they read in their own dtype. The tests hold this against torch's own list, tensor by tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from bgpo.models.shapes import Shape

_ACCURATE = 4  # bytes of a number in float32: norms are computed in it whatever the weights' dtype


@dataclass(frozen=True)
class Held:
    """How the weights are held.

    Attributes:
        size: bytes of a weight, and of what goes through the layers.
        trained: the weights move themselves; else an adapter does, with weights of `adapter` bytes and `rank` columns
            in the matrices of `adapted`: "attention", "mlp".
        dropout: bytes of a number's own dropout mask in front of each adapted matrix, 0 where there is none.
        angles: bytes of a rotary cosine or sine.
    """

    size: int
    trained: bool = True
    adapter: int = 0
    rank: int = 0
    adapted: tuple[str, ...] = ()
    dropout: int = 0
    angles: int = 4


@dataclass(frozen=True)
class Canvas:
    """What attention sees: `width` columns, `masked` where some of them may not be read by all."""

    width: int
    masked: bool = False


@dataclass(frozen=True)
class Kept:
    """Bytes that one layer of `shape` keeps under `held`."""

    shape: Shape
    held: Held
    canvas: Canvas

    def token(self, first: bool = False) -> float:
        """Of each token, where the layer is computed for all; `first`: it reads embeddings.

        Frozen embeddings carry no gradient, so what comes before the first trained matrix is not kept.
        """
        s = self.shape
        carried = 0 if first and not self.held.trained else self.norm(s.width)
        if not carried and "attention" not in self.held.adapted:
            return self._mlp - self.norm(s.width)
        attention = self._read("attention", s.width, 3) + self._head_norm(s.heads) + self._head_norm(s.kv_heads)
        attention += self._keys_values + self._queries + self._mask
        return carried + attention + self._read("attention", self._wide, 1, of_attention=True) + self._mlp

    def last(self, tokens: float, rows: float, room: float) -> float:
        """Of a last layer that reads `tokens` and is computed for `rows` of them, in rectangles of `room` rows.

        What it reads is a leaf, so there is always a gradient to it.
        """
        s = self.shape
        of_token = self.norm(s.width) + self._read("attention", s.width, 2) + self._head_norm(s.kv_heads)
        of_row = self._read("attention", s.width, 1) + self._head_norm(s.heads) + self._read("attention", self._wide, 1)
        of_row += 2 * s.head_width * self.held.angles + self._mlp
        return tokens * (of_token + self._keys_values) + rows * of_row + room * (self._queries + self._mask)

    def norm(self, width: int, groups: int = 1) -> float:
        """A norm's number: what it is given, in float32, the root of each group, and the normed if its scale moves."""
        return _ACCURATE * (width + groups) + (self.held.size * width if self.held.trained else 0)

    def head_input(self) -> float:
        """What the output head keeps of each row, where autograd goes through it."""
        return self.held.size * self.shape.width if self.held.trained else 0

    @property
    def stream(self) -> int:
        """What goes from one layer to the next."""
        return self.held.size * self.shape.width

    @property
    def widest(self) -> float:
        """What the mlp's backward makes at one time beyond what was kept."""
        h, s = self.held, self.shape
        mixed = "mlp" in h.adapted and h.adapter != h.size
        if mixed:  # the product's gradient by the adapter and by the weight, and theirs at its output, scaled or not
            return (h.adapter + 2 * h.size) * s.mlp + (2 * h.adapter + h.size) * s.width
        kept_product = h.trained or "mlp" in h.adapted  # it is let go of before those of gate and up are there
        return h.size * s.mlp * (2 if kept_product else 3)

    @property
    def _wide(self) -> int:
        return self.shape.heads * self.shape.head_width

    @property
    def _mlp(self) -> float:
        s = self.shape
        gate_act_up = 3 * self.held.size * s.mlp
        return self.norm(s.width) + self._read("mlp", s.width, 2) + gate_act_up + self._read("mlp", s.mlp, 1)

    @property
    def _queries(self) -> float:
        """Queries and output of attention, and the sum of each head's weights."""
        return 2 * self.held.size * self._wide + _ACCURATE * self.shape.heads

    @property
    def _keys_values(self) -> float:
        """Under a mask the kernels want as many of them as there are queries."""
        heads = self.shape.heads if self.canvas.masked else self.shape.kv_heads
        return 2 * self.held.size * heads * self.shape.head_width

    @property
    def _mask(self) -> float:
        """The mask in numbers, each layer its own."""
        return self.held.size * self.canvas.width if self.canvas.masked else 0

    def _head_norm(self, heads: int) -> float:
        return self.norm(heads * self.shape.head_width, heads) if self.shape.norms else 0

    def _read(self, group: str, width: int, matrices: int, of_attention: bool = False) -> float:
        """What `matrices` keep of the `width` numbers that they all read; `of_attention`: which it keeps anyway."""
        h = self.held
        if h.trained:
            return 0 if of_attention else h.size * width
        if group not in h.adapted:
            return 0
        ranks = matrices * h.adapter * h.rank
        if h.dropout:  # each draws its own
            return matrices * (h.adapter + h.dropout) * width + ranks
        if h.adapter != h.size:  # each rounds or widens for itself
            return matrices * h.adapter * width + ranks
        return (0 if of_attention else h.adapter * width) + ranks
