"""Published samplers written out independently: LLaDA's generate, Dream's diffusion_generate, Fast-dLLM v1.

At temperature 0, on logits in which the mask token cannot win (the published code would write it).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

Logits = Callable[[Tensor], Tensor]  # (B, T) ids -> (B, T, V)


def llada(net: Logits, prompt: Tensor, length: int, steps: int, block: int, mask_id: int, cfg: float = 0.0) -> Tensor:
    """`generate.py`: low confidence remasking; whole canvas, remainder first."""
    x = torch.cat([prompt, torch.full((len(prompt), length), mask_id)], 1)
    given = x != mask_id
    blocks = length // block
    for b in range(blocks):
        low, high = prompt.shape[1] + b * block, prompt.shape[1] + (b + 1) * block
        masks = (x[:, low:high] == mask_id).sum(1)
        per_block = steps // blocks
        quota = (masks // per_block)[:, None].expand(-1, per_block).clone()
        for j, rest in enumerate((masks % per_block).tolist()):
            quota[j, :rest] += 1
        for i in range(per_block):
            logits = net(x)
            if cfg:
                bare = net(torch.where(given, mask_id, x))
                logits = bare + (cfg + 1) * (logits - bare)
            token = logits.argmax(-1)
            confidence = logits.softmax(-1).gather(-1, token[..., None])[..., 0]
            confidence[:, high:] = -torch.inf
            confidence = torch.where(x == mask_id, confidence, -torch.inf)
            for j in range(len(x)):
                chosen = confidence[j].topk(int(quota[j, i])).indices
                x[j, chosen] = token[j, chosen]
    return x[:, prompt.shape[1] :]


def dream(net: Logits, prompt: Tensor, length: int, steps: int, mask_id: int, alg: str) -> Tensor:
    """`diffusion_generate`: one block, shares that follow the noise levels; `net` has shifted its logits already."""
    x = torch.cat([prompt, torch.full((len(prompt), length), mask_id)], 1)
    levels = torch.linspace(1, 1e-3, steps + 1)
    for i in range(steps):
        masked = x == mask_id
        probabilities = net(x)[masked].softmax(-1)
        best, token = probabilities.max(-1)
        if alg == "topk_margin":
            top = probabilities.topk(2).values
            best = top[:, 0] - top[:, 1]
        elif alg == "entropy":
            best = (probabilities * (probabilities + 1e-10).log()).sum(-1)
        left = masked.sum() / len(x)
        share = int(left * (1 - levels[i + 1] / levels[i])) if i < steps - 1 else int(left)
        confidence = torch.full(x.shape, -torch.inf)
        confidence[masked] = best
        tokens = torch.full_like(x, mask_id)
        tokens[masked] = token
        if share:
            chosen = confidence.topk(share).indices
            rows = torch.arange(len(x))[:, None]
            x[rows, chosen] = tokens[rows, chosen]
    return x[:, prompt.shape[1] :]


def fast_dllm(
    net: Keyed, prompt: Tensor, length: int, steps: int, block: int, mask_id: int, *, dual: bool,
    threshold: float | None = None, factor: float | None = None,
) -> Tensor:
    """`generate_with_prefix_cache` and `generate_with_dual_cache`, batch 1.

    With shifted logits the window opens one column early, so that the block's first position has its prediction.
    """
    P = prompt.shape[1]
    x = torch.cat([prompt, torch.full((1, length), mask_id)], 1)
    blocks = length // block
    for b in range(blocks):
        low, high = P + b * block, P + (b + 1) * block
        masks, per_block = block, steps // blocks
        quota = [masks // per_block + (i < masks % per_block) for i in range(per_block)]
        everything = torch.arange(x.shape[1])
        logits, kept = net(x, everything, None)
        window = torch.arange(low - net.shift, high if dual else x.shape[1])
        step = 0
        while True:
            predicted = logits[0, low:high] if step == 0 else logits[0, net.shift : net.shift + block]
            _commit(x[0, low:high], predicted, mask_id, None if threshold or factor else quota[step], threshold, factor)
            if not (x[0, low:high] == mask_id).any():
                break
            step += 1
            logits, _ = net(x[:, window], window, kept)
    return x[:, P:]


def _commit(
    x: Tensor, logits: Tensor, mask_id: int, quota: int | None, threshold: float | None, factor: float | None
) -> None:
    confidence, token = logits.softmax(-1).max(-1)
    confidence = torch.where(x == mask_id, confidence, -torch.inf)
    left = int((x == mask_id).sum())
    ranked = confidence.topk(left).indices.tolist()
    if quota is not None:
        chosen = ranked[:quota]
    elif threshold is not None:
        chosen = ranked[:1] + [i for i in ranked[1:] if confidence[i] >= threshold]
    else:
        count = 1
        while count < left and confidence[ranked[count]] >= 1 - factor / (count + 2):
            count += 1
        chosen = ranked[:count]
    x[chosen] = token[chosen]


class Keyed:
    """The layers of a stock Llama or Qwen2 one by one, with keys and values of other columns put in by position."""

    def __init__(self, model: torch.nn.Module, mask_id: int, shift: bool = False):
        self.model, self.mask_id, self.shift = model, mask_id, int(shift)

    @torch.no_grad()
    def __call__(
        self, ids: Tensor, columns: Tensor, kept: list[tuple[Tensor, Tensor]] | None
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """(1, T) ids at (T,) columns, what an earlier pass kept for the whole canvas -> logits, what to keep."""
        stock = self.model.model
        x = stock.embed_tokens(ids)
        cos, sin = stock.rotary_emb(x, position_ids=columns[None])
        new = []
        for number, layer in enumerate(stock.layers):
            attention, h = layer.self_attn, layer.input_layernorm(x)
            q, k, v = (
                projection(h).view(1, len(columns), -1, attention.head_dim).transpose(1, 2)
                for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
            )
            q, k = apply_rotary_pos_emb(q, k, cos, sin)
            if kept is not None:
                all_k, all_v = (values.clone() for values in kept[number])
                all_k[:, :, columns], all_v[:, :, columns] = k, v
                k, v = all_k, all_v
            new.append((k, v))
            groups = q.shape[1] // k.shape[1]
            weight = q @ k.repeat_interleave(groups, 1).transpose(-1, -2) * attention.head_dim**-0.5
            read = weight.softmax(-1) @ v.repeat_interleave(groups, 1)
            x = x + attention.o_proj(read.transpose(1, 2).reshape(1, len(columns), -1))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        logits = self.model.lm_head(stock.norm(x))
        logits[..., self.mask_id] = -torch.inf
        if self.shift:
            logits = torch.cat([logits[:, :1], logits[:, :-1]], 1)
        return logits, new
