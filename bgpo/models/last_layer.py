"""A pass whose last layer works for the wanted positions alone: the others are read there and go no further."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import PreTrainedModel

# their forward is attention and MLP, each after a norm and added to what came in, and nothing else
_KNOWN = {"LlamaDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}


@contextmanager
def only_for(model: PreTrainedModel, wanted: Tensor) -> Iterator[bool]:
    """Within it, the model's last hidden states are those of the (B, T) `wanted` positions, (N, D).

    Yields whether that is so; of a layer that is not known here all positions are computed.
    """
    layer = model.model.layers[-1]
    if type(layer).__name__ not in _KNOWN:
        yield False
        return

    def forward(hidden_states: Tensor, **kwargs: object) -> torch.Tensor:
        with _passing_through(layer.self_attn.o_proj) as project:
            heads, _ = layer.self_attn(hidden_states=layer.input_layernorm(hidden_states), **kwargs)
        hidden = hidden_states[wanted] + project(heads[wanted])
        return hidden + layer.mlp(layer.post_attention_layernorm(hidden))

    layer.forward = forward
    try:
        yield True
    finally:
        del layer.forward


@contextmanager
def _passing_through(module: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Within it the module hands on what it is given; its own work is done afterwards, for fewer rows."""
    module.forward = lambda given: given
    try:
        yield module
    finally:
        del module.forward
