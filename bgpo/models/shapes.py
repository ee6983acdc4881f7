"""How large a model is, from its config.json and without its weights. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bgpo.models.registry import MODELS, LayoutError


@dataclass(frozen=True)
class Shape:
    """A decoder's sizes. `bias`: query, key and value have one; `norms`: query and key have a norm per head."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp: int
    vocabulary: int
    tied: bool = False
    bias: bool = False
    norms: bool = False

    @property
    def matrices(self) -> dict[str, list[tuple[int, int]]]:
        """(inputs, outputs) of the matrices of one layer, attention and mlp apart."""
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        d, f = self.width, self.mlp
        return {"attention": [(d, q), (d, kv), (d, kv), (q, d)], "mlp": [(d, f), (d, f), (f, d)]}

    @property
    def layer_weights(self) -> int:
        """Parameters in the matrices of all layers: what 4 bits are for."""
        return self.layers * sum(a * b for part in self.matrices.values() for a, b in part)

    @property
    def parameters(self) -> int:
        small = 2 * self.width + (2 * self.head_width if self.norms else 0)
        small += (self.heads + 2 * self.kv_heads) * self.head_width if self.bias else 0
        ends = self.vocabulary * self.width * (1 if self.tied else 2) + self.width
        return self.layer_weights + self.layers * small + ends

    def adapter_parameters(self, rank: int, targets: str) -> int:
        parts = self.matrices.values() if targets == "all" else [self.matrices[targets]]
        return self.layers * rank * sum(a + b for part in parts for a, b in part)


TINY = Shape(layers=3, width=96, heads=4, kv_heads=4, head_width=24, mlp=256, vocabulary=54)
# published sizes, for hub ids that are not on this machine
PUBLISHED = {
    "llada": Shape(layers=32, width=4096, heads=32, kv_heads=32, head_width=128, mlp=12288, vocabulary=126464),
    "dream": Shape(
        layers=28, width=3584, heads=28, kv_heads=4, head_width=128, mlp=18944, vocabulary=152064, bias=True
    ),
}


def shape_of(family: str, folder: str) -> Shape | None:
    """The shape of a model by family and folder or hub id; None when it cannot be known from here."""
    if MODELS[family].built_in and not folder:
        return TINY
    try:
        published = json.loads((Path(folder).expanduser() / "config.json").read_text())
        return _from_config(MODELS[family].stock_config(published), str(published.get("model_type", "")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, LayoutError):
        return PUBLISHED.get(family)


def _from_config(stock: Mapping[str, Any], model_type: str) -> Shape:
    heads, width = int(stock["num_attention_heads"]), int(stock["hidden_size"])
    qwen = "qwen2" in model_type or model_type == "Dream"
    return Shape(
        int(stock["num_hidden_layers"]), width, heads, int(stock.get("num_key_value_heads") or heads),
        int(stock.get("head_dim") or width // heads), int(stock["intermediate_size"]), int(stock["vocab_size"]),
        bool(stock.get("tie_word_embeddings", False)), bool(stock.get("attention_bias", qwen)), "qwen3" in model_type,
    )
