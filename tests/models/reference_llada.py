"""LLaDA's network written out from its description, with the published tensor names, as a witness for tests.

Shares no code with bgpo: pre-norm RMSNorm, rotary halves in float32, full attention without a causal mask,
ff_out(silu(ff_proj(x)) * up_proj(x)), no biases, a head of its own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return self.weight * (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate(x: Tensor, theta: float) -> Tensor:
    """(B, H, T, d) with position t of its column; in float32, rounded back."""
    d, T = x.shape[-1], x.shape[-2]
    frequency = 1.0 / (theta ** (torch.arange(0, d, 2, dtype=torch.float) / d))
    angle = torch.arange(T, dtype=torch.float)[:, None] * frequency
    angle = torch.cat([angle, angle], dim=-1)
    wide = x.float()
    turned = torch.cat([-wide[..., d // 2 :], wide[..., : d // 2]], dim=-1)
    return (wide * angle.cos() + turned * angle.sin()).to(x.dtype)


class Block(nn.Module):
    def __init__(self, c: dict):
        super().__init__()
        self.heads, self.kv_heads, self.theta = c["n_heads"], c["n_kv_heads"], c["rope_theta"]
        D, F_, d = c["d_model"], c["mlp_hidden_size"], c["d_model"] // c["n_heads"]
        self.attn_norm, self.ff_norm = RMSNorm(D, c["rms_norm_eps"]), RMSNorm(D, c["rms_norm_eps"])
        self.q_proj, self.attn_out = nn.Linear(D, D, bias=False), nn.Linear(D, D, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(D, d * self.kv_heads, bias=False) for _ in range(2))
        self.ff_proj, self.up_proj = (nn.Linear(D, F_, bias=False) for _ in range(2))
        self.ff_out = nn.Linear(F_, D, bias=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        B, T, D = x.shape
        n = self.attn_norm(x)
        q = self.q_proj(n).view(B, T, self.heads, -1).transpose(1, 2)
        k, v = (p(n).view(B, T, self.kv_heads, -1).transpose(1, 2) for p in (self.k_proj, self.v_proj))
        q, k = rotate(q, self.theta), rotate(k, self.theta)
        k, v = (t.repeat_interleave(self.heads // self.kv_heads, dim=1) for t in (k, v))
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.attn_out(a.transpose(1, 2).reshape(B, T, D))
        n = self.ff_norm(x)
        return x + self.ff_out(F.silu(self.ff_proj(n)) * self.up_proj(n))


class ReferenceLLaDA(nn.Module):
    """(B, T) ids -> (B, T, V) logits; `valid` (B, T) false on padding, which nobody attends to."""

    def __init__(self, config: dict):
        super().__init__()
        V = config["embedding_size"] or config["vocab_size"]
        self.model = nn.Module()
        self.model.transformer = nn.ModuleDict({
            "wte": nn.Embedding(V, config["d_model"]),
            "blocks": nn.ModuleList(Block(config) for _ in range(config["n_layers"])),
            "ln_f": RMSNorm(config["d_model"], config["rms_norm_eps"]),
            "ff_out": nn.Linear(config["d_model"], V, bias=False),
        })

    def forward(self, ids: Tensor, valid: Tensor | None = None) -> Tensor:
        parts = self.model.transformer
        mask = None if valid is None or bool(valid.all()) else valid[:, None, None, :].expand(-1, 1, ids.shape[1], -1)
        x = parts["wte"](ids)
        for block in parts["blocks"]:
            x = block(x, mask)
        return parts["ff_out"](parts["ln_f"](x))
