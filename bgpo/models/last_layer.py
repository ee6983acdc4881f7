"""The last layer for the wanted positions alone: the others are read there, as keys and values, and go no further."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward, rotate_half

# their forward is attention and MLP, each after a norm and added to what came in, and nothing else
_LAYERS = {"LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
# projections, a norm of each head's queries and keys or none, rotation, attention over all tokens
_ATTENTIONS = {"LlamaAttention", "Float32RotaryAttention", "Qwen2Attention", "Qwen3Attention"}
_TAKEN = ("attention_mask", "position_embeddings", "past_key_values")
_WITH_FULL_MASKS = ("sdpa", "eager")  # flash attention is handed padding instead, and takes queries for all tokens


@contextmanager
def only_for(model: PreTrainedModel, wanted: Tensor) -> Iterator[bool]:
    """Within it, the model's last hidden states are those of the (B, T) `wanted` positions, (N, D).

    Yields whether that is so; of a layer that is not known here all positions are computed.
    """
    layer = model.model.layers[-1]
    if type(layer).__name__ not in _LAYERS:
        yield False
        return
    with _forward(layer, lambda hidden_states, **given: _states_at(layer, hidden_states, wanted, given)):
        yield True


@dataclass(frozen=True)
class BeforeLastLayer:
    """A pass over N rows of T tokens that has stopped before the model's last layer.

    Attributes:
        below: (N, T, D) what the last layer reads, with the graph of the layers before it.
        wanted: (N, T) bool, the positions that it is computed for.
    """

    below: Tensor
    wanted: Tensor
    _model: PreTrainedModel
    _given: Mapping[str, object]

    def rows(self, below: Tensor, part: slice, held: bool = False) -> Tensor:
        """(M, D) final states of the wanted positions of some rows, of which `below` is what the layer reads.

        held: the graph stays, so where layers are checkpointed this one is, too.
        """
        given = {name: _of(value, part, len(self.wanted)) for name, value in self._given.items()}
        decoder = self._model.model
        layer, work = decoder.layers[-1], _states_at
        if held and layer.gradient_checkpointing:
            work = partial(layer._gradient_checkpointing_func, _states_at)
        return decoder.norm(work(layer, below, self.wanted[part], given))


def stop_before(model: PreTrainedModel, wanted: Tensor, run: Callable[[], object]) -> BeforeLastLayer | None:
    """What comes before the last layer when `run` calls the model; None if that layer is not known here."""
    layer = model.model.layers[-1]
    if type(layer).__name__ not in _LAYERS:
        return None
    found: list[BeforeLastLayer] = []

    def forward(hidden_states: Tensor, **given: object) -> Tensor:
        found.append(BeforeLastLayer(hidden_states, wanted, model, given))
        return hidden_states[:, :0]

    with _forward(layer, forward):
        run()
    return found[0]


@contextmanager
def _forward(layer: nn.Module, forward: Callable[..., Tensor]) -> Iterator[None]:
    layer.forward = forward
    try:
        yield
    finally:
        del layer.forward


@contextmanager
def _passing_through(module: nn.Module) -> Iterator[nn.Module]:
    """Within it the module hands on what it is given; its own work is done afterwards, for fewer rows."""
    module.forward = lambda given: given
    try:
        yield module
    finally:
        del module.forward


def _states_at(layer: nn.Module, hidden: Tensor, wanted: Tensor, given: Mapping[str, object]) -> Tensor:
    """(n, T, D) and (n, T) bool -> (M, D): the layer's output at the wanted positions, row by row."""
    rows = hidden[wanted] + _attended(layer.self_attn, layer.input_layernorm(hidden), wanted, given)
    return rows + layer.mlp(layer.post_attention_layernorm(rows))


def _attended(attention: nn.Module, hidden: Tensor, wanted: Tensor, given: Mapping[str, object]) -> Tensor:
    """(n, T, D) -> (M, D): keys and values of all positions, queries and what follows of the wanted ones alone."""
    counts = wanted.sum(1)
    most = int(counts.max())
    if not most or not _can_narrow(attention, given):
        with _passing_through(attention.o_proj) as project:
            heads, _ = attention(hidden_states=hidden, **given)
        return project(heads[wanted])
    rest = {name: value for name, value in given.items() if name not in _TAKEN}
    cos, sin = (part.expand(len(wanted), -1, -1) for part in given["position_embeddings"])
    head = (-1, attention.head_dim)
    value = attention.v_proj(hidden).unflatten(-1, head)  # (n, T, heads, width of a head)
    key = _rotated(_normed(attention, "k_norm", attention.k_proj(hidden).unflatten(-1, head)), cos, sin)
    query = _normed(attention, "q_norm", attention.q_proj(hidden[wanted]).unflatten(-1, head))
    query = _rotated(query, cos[wanted], sin[wanted])  # (M, heads, width of a head)
    # rows of one width for one call: those of few wanted positions are filled up
    real = torch.arange(most, device=wanted.device) < counts[:, None]  # (n, most)
    padded = query.new_zeros(*real.shape, *query.shape[1:])
    padded[real] = query
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
    output, _ = attend(
        attention, padded.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2),
        _mask_at(given["attention_mask"], wanted, most), scaling=attention.scaling,
        dropout=attention.attention_dropout if attention.training else 0.0, **rest,
    )
    return attention.o_proj(output[real].flatten(1))


def _can_narrow(attention: nn.Module, given: Mapping[str, object]) -> bool:
    return (
        type(attention).__name__ in _ATTENTIONS
        and attention.config._attn_implementation in _WITH_FULL_MASKS
        and getattr(attention, "sliding_window", None) is None
        and given.get("past_key_values") is None
    )


def _normed(attention: nn.Module, name: str, states: Tensor) -> Tensor:
    norm = getattr(attention, name, None)
    return states if norm is None else norm(states)


def _rotated(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """(..., heads, width) rotated by (..., width) angles, in the angles' dtype: LLaDA's are float32."""
    wide = states.to(cos.dtype)
    return (wide * cos[..., None, :] + rotate_half(wide) * sin[..., None, :]).to(states.dtype)


def _mask_at(mask: Tensor | None, wanted: Tensor, most: int) -> Tensor | None:
    """(n or 1, 1, T, T) of all queries -> (n, 1, most, T) of the wanted ones, each row filled up with others."""
    if mask is None:
        return None
    order = (~wanted).byte().argsort(dim=1, stable=True)[:, :most]  # the wanted come first, as they stand
    return mask.expand(len(wanted), -1, -1, -1).take_along_dim(order[:, None, :, None], dim=2)


def _of(value: object, part: slice, rows: int) -> object:
    """What some of the rows are given; what all rows share has no axis of them, or one of length 1."""
    if isinstance(value, tuple):
        return tuple(_of(each, part, rows) for each in value)
    shared = not isinstance(value, Tensor) or value.shape[0] != rows
    return value if shared else value[part]
