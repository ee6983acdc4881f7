"""Frozen weights in 4 bits by bitsandbytes: NF4 with its scales quantised once more (QLoRA, arXiv 2305.14314)."""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel


def quantize(model: PreTrainedModel) -> None:
    """Replaces the matrices of the layers, in place; embeddings, norms and head stay as they are.

    Products are computed in bfloat16 from weights that are unpacked a matrix at a time.
    """
    import bitsandbytes

    layers = model.get_decoder().layers
    for name, linear in [(n, m) for n, m in layers.named_modules() if type(m) is nn.Linear]:
        small = bitsandbytes.nn.Linear4bit(
            linear.in_features, linear.out_features, bias=linear.bias is not None, compute_dtype=torch.bfloat16,
            quant_type="nf4", compress_statistics=True, device="meta",
        )
        small.weight = bitsandbytes.nn.Params4bit(
            linear.weight.detach(), requires_grad=False, quant_type="nf4", compress_statistics=True
        )
        if linear.bias is not None:
            small.bias = nn.Parameter(linear.bias.detach(), requires_grad=False)
        parent, _, child = name.rpartition(".")
        setattr(layers.get_submodule(parent), child, small.to(linear.weight.device))  # packed on the way
    model.is_loaded_in_4bit = True  # peft looks here to choose its layers
