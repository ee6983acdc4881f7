"""Dream's network (Qwen2's, bidirectional, logits one position late) and the bidirectional Qwen3, Qwen2 and Llama
conversions, written out from their description with the published tensor names, as a witness for tests."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.models.reference_llada import RMSNorm


def rotate(x: Tensor, positions: Tensor, theta: float) -> Tensor:
    """(B, H, T, d) at positions (B, T); sine and cosine rounded to the dtype of x, as Qwen's code does."""
    d = x.shape[-1]
    frequency = 1.0 / (theta ** (torch.arange(0, d, 2, dtype=torch.float) / d))
    angle = positions[..., None].float() * frequency
    angle = torch.cat([angle, angle], dim=-1)[:, None]
    turned = torch.cat([-x[..., d // 2 :], x[..., : d // 2]], dim=-1)
    return x * angle.cos().to(x.dtype) + turned * angle.sin().to(x.dtype)


class Attention(nn.Module):
    def __init__(self, c: dict, bias: bool, normed: bool):
        super().__init__()
        self.heads, self.kv_heads, self.theta = c["num_attention_heads"], c["num_key_value_heads"], c["rope_theta"]
        D = c["hidden_size"]
        d = self.head_dim = c.get("head_dim") or D // self.heads
        self.q_proj = nn.Linear(D, d * self.heads, bias=bias)
        self.k_proj, self.v_proj = (nn.Linear(D, d * self.kv_heads, bias=bias) for _ in range(2))
        self.o_proj = nn.Linear(d * self.heads, D, bias=False)
        if normed:
            self.q_norm, self.k_norm = RMSNorm(d, c["rms_norm_eps"]), RMSNorm(d, c["rms_norm_eps"])
        self.normed = normed

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        B, T, _ = x.shape
        q, k, v = (p(x).view(B, T, -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.normed:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
        q, k = rotate(q, positions, self.theta), rotate(k, positions, self.theta)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(B, T, -1))


class Layer(nn.Module):
    def __init__(self, c: dict, bias: bool, normed: bool):
        super().__init__()
        D, eps = c["hidden_size"], c["rms_norm_eps"]
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(D, eps), RMSNorm(D, eps)
        self.self_attn = Attention(c, bias, normed)
        self.mlp = nn.ModuleDict({
            name: nn.Linear(*shape, bias=False) for name, shape in {
                "gate_proj": (D, c["intermediate_size"]), "up_proj": (D, c["intermediate_size"]),
                "down_proj": (c["intermediate_size"], D),
            }.items()
        })

    def forward(self, x: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), positions, mask)
        n = self.post_attention_layernorm(x)
        m = self.mlp
        return x + m["down_proj"](F.silu(m["gate_proj"](n)) * m["up_proj"](n))


class ReferenceQwen(nn.Module):
    """(B, T) ids -> (B, T, V) logits for position i at column i.

    Args:
        bias: Qwen2's biases on q, k and v; normed: Qwen3's norms of q and k.
        shift: Dream's: the output at i - 1 predicts i.
        block: 0, or columns see their own block and those before, blocks counted from column `start`.
    """

    def __init__(self, config: dict, *, bias: bool = False, normed: bool = False, shift: bool = False, block: int = 0):
        super().__init__()
        V, D = config["vocab_size"], config["hidden_size"]
        self.model = nn.ModuleDict({
            "embed_tokens": nn.Embedding(V, D),
            "layers": nn.ModuleList(Layer(config, bias, normed) for _ in range(config["num_hidden_layers"])),
            "norm": RMSNorm(D, config["rms_norm_eps"]),
        })
        self.lm_head = nn.Linear(D, V, bias=False)
        if config["tie_word_embeddings"]:
            self.lm_head.weight = self.model["embed_tokens"].weight
        self.shift, self.block = shift, block

    def forward(
        self, ids: Tensor, valid: Tensor | None = None, positions: Tensor | None = None, start: int = 0
    ) -> Tensor:
        B, T = ids.shape
        seen = torch.ones(B, T, T, dtype=torch.bool) if valid is None else valid[:, None, :].expand(B, T, T)
        if self.block:
            number = (torch.arange(T) - start) // self.block
            seen = seen & (number[None, None, :] <= number[None, :, None])
        seen = seen | torch.eye(T, dtype=torch.bool)
        mask = None if bool(seen.all()) else seen[:, None]
        positions = torch.arange(T).expand(B, T) if positions is None else positions
        x = self.model["embed_tokens"](ids)
        for layer in self.model["layers"]:
            x = layer(x, positions, mask)
        logits = self.lm_head(self.model["norm"](x))
        return torch.cat([logits[:, :1], logits[:, :-1]], dim=1) if self.shift else logits
