"""Activation checkpointing and the attention kernel: what a pass costs, not what it computes."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_flash_attn_2_available


def checkpoint_layers(model: PreTrainedModel, dropout: bool = False) -> None:
    """From here on each layer keeps only its input for the backward pass and is computed again there.

    transformers does so only in layers whose `training` flag is set, and drops a layer's key/value cache there without
    an error. RL computes in eval mode (no dropout) and its rollouts may use a cache, so the flag is set on the
    layers alone, not on what is inside them, and only for passes with a graph.

    Args:
        dropout: there is some, so the second computation has to draw the same.

    Raises:
        ValueError: when the model's layers cannot do this.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ValueError(
            f"activation_checkpointing is not possible for {type(model).__name__}; set it to false."
        )
    for layer in layers:
        layer.gradient_checkpointing = True
        layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False, preserve_rng_state=dropout)

    def only_with_a_graph(module: nn.Module, *_: object) -> None:
        for layer in layers:
            layer.training = torch.is_grad_enabled()

    model.get_decoder().register_forward_pre_hook(only_with_a_graph)


def attention_for(device: torch.device, dtype: torch.dtype, block_causal: bool = False) -> str:
    """The fastest attention that honours padding, by transformers' name.

    "flash_attention_2" where the package is installed, on a GPU in half precision: padded rows are cut out for its
    kernel, which cannot read the masks of block-causal models. Else "sdpa": without padding no mask is handed over
    (`Denoiser.hidden`), and torch takes its own flash kernel on a GPU; with padding it takes one that reads the mask.
    """
    can = device.type == "cuda" and dtype in (torch.bfloat16, torch.float16) and not block_causal
    return "flash_attention_2" if can and is_flash_attn_2_available() else "sdpa"
