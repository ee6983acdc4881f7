"""LLaDA's one departure from a stock Llama: queries and keys are rotated in float32, whatever the weights' dtype.

With the stock rotation in bfloat16, logits are off by about as much as bfloat16 itself costs; with this one they equal
the published network's to the bit.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaAttention,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class Float32RotaryEmbedding(LlamaRotaryEmbedding):
    """Cosine and sine in float32.

    The name matters: `from_pretrained` computes the frequencies, which no file holds, again for classes that are
    called ...RotaryEmbedding, and leaves those of any other class as whatever was in memory.
    """

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        # the stock class rounds to the dtype of what it is given, and takes nothing else from it but the device
        return super().forward(torch.empty(0, device=x.device, dtype=torch.float32), position_ids)


class Float32RotaryAttention(LlamaAttention):
    """The stock attention with its rotation in float32; rounded before keys are stored."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        **options: object,
    ) -> tuple[Tensor, Tensor | None]:
        B, T = hidden_states.shape[:-1]
        query, key, value = (
            projection(hidden_states).view(B, T, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        rotated = apply_rotary_pos_emb(query.float(), key.float(), *position_embeddings)
        query, key = (part.to(value.dtype) for part in rotated)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        dropout = self.attention_dropout if self.training else 0.0
        output, weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **options
        )
        return self.o_proj(output.reshape(B, T, -1)), weights


class Float32RotaryLlama(LlamaForCausalLM):
    """`LlamaForCausalLM` with the two classes above."""

    def __init__(self, config: LlamaConfig):
        super().__init__(config)
        self.model.rotary_emb = Float32RotaryEmbedding(config)
        for index, layer in enumerate(self.model.layers):
            layer.self_attn = Float32RotaryAttention(config, index)
        self.post_init()
