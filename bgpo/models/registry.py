"""Model families by name. Torch-free: the form lists them, the worker loads them.

A family is everything that differs between published diffusion language models and is not a tensor: which stock
class computes it, what its weights and config fields are called on disk, its special tokens, how its logits line up
with positions, who may attend to whom. No code of a model's folder is ever run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class LayoutError(ValueError):
    """A config.json that a family does not cover, in one sentence."""


@dataclass(frozen=True)
class ModelFamily:
    """What the rest needs to know of a family before any weight is loaded.

    Attributes:
        name, title: key in MODELS; words for people.
        built_in: made here from a seed; the others are read from `model_path`.
        max_length: tokens of prompt and completion that it was trained for; a folder's config may say less.
        max_completion_length: most of them that may be completion.
        classes: `model_type` of a published config.json -> stock transformers class that computes it.
        key_names: published tensor name -> stock name, with {i} for the layer; empty when they are the same.
        config_fields: published config field -> stock config field; empty when they are the same.
        expected: config fields that must have these values where they are present: what no class here computes.
        mask_tokens: the mask token's text, first match in the vocabulary wins; `mask_id` where none is in it.
        turn_ends: tokens that end a message of a chat, a second end of a completion; the first that is known.
        logit_shift: the state at a position predicts the next one (kept from autoregressive pre-training).
        attention_block: 0: every token sees every token; n: blocks of n tokens see themselves and blocks before.
        rope_in_float32: rotary embedding in float32 whatever the weights' dtype.
        template_options: extra arguments of the chat template.
        template_tokens: most tokens that the chat template puts around a prompt.
    """

    name: str
    title: str
    built_in: bool = False
    max_length: int = 4096
    max_completion_length: int = 4096
    classes: Mapping[str, str] = field(default_factory=dict)
    key_names: Mapping[str, str] = field(default_factory=dict)
    config_fields: Mapping[str, str] = field(default_factory=dict)
    expected: Mapping[str, Any] = field(default_factory=dict)
    mask_tokens: tuple[str, ...] = ()
    mask_id: int = -1
    turn_ends: tuple[str, ...] = ()
    logit_shift: bool = False
    attention_block: int = 0
    rope_in_float32: bool = False
    template_options: Mapping[str, Any] = field(default_factory=dict)
    template_tokens: int = 0

    def stock_config(self, published: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the stock config class from those of a published config.json.

        Raises:
            LayoutError: for a field that is missing, or whose value no class here computes.
        """
        for name, value in self.expected.items():
            if published.get(name, value) not in (value, None):
                raise LayoutError(
                    f"config.json says {name} = {published[name]!r}; {self.title} is computed here with "
                    f"{name} = {value!r} only. Choose another model."
                )
        if not self.config_fields:
            return {key: value for key, value in published.items() if key not in _NOT_STOCK} | {"is_causal": False}
        missing = [name for name in self.config_fields if published.get(name) is None and name not in _OPTIONAL]
        if missing:
            raise LayoutError(
                f"config.json lacks {', '.join(missing)}, which {self.title} has. Check that the folder is whole and "
                "that the model family is right."
            )
        return {
            stock: published[name] for name, stock in self.config_fields.items() if published.get(name) is not None
        } | {"is_causal": False}


# what names code of a folder or another class than the stock one
_NOT_STOCK = ("auto_map", "architectures", "model_type", "transformers_version", "torch_dtype", "dtype")
_OPTIONAL = ("n_kv_heads", "embedding_size", "pad_token_id", "eos_token_id", "weight_tying")

_LLADA_BLOCK = {
    "attn_norm": "input_layernorm", "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj", "attn_out": "self_attn.o_proj", "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "ff_out": "mlp.down_proj",
}

LLADA = ModelFamily(
    "llada", "LLaDA (8B Base, Instruct, 1.5)",
    classes={"llada": "LlamaForCausalLM"},
    # one entry a name: a pattern with alternatives leaves tensors at their random values, with only a warning
    key_names={
        f"model.transformer.blocks.{{i}}.{name}.weight": f"model.layers.{{i}}.{stock}.weight"
        for name, stock in _LLADA_BLOCK.items()
    } | {
        "model.transformer.wte.weight": "model.embed_tokens.weight",
        "model.transformer.ln_f.weight": "model.norm.weight",
        "model.transformer.ff_out.weight": "lm_head.weight",
    },
    config_fields={
        "d_model": "hidden_size", "n_layers": "num_hidden_layers", "n_heads": "num_attention_heads",
        "n_kv_heads": "num_key_value_heads", "mlp_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings", "rms_norm_eps": "rms_norm_eps", "rope_theta": "rope_theta",
        "vocab_size": "vocab_size", "embedding_size": "vocab_size",  # the rows that there are
        "pad_token_id": "pad_token_id", "eos_token_id": "eos_token_id", "weight_tying": "tie_word_embeddings",
    },
    expected={
        "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True, "alibi": False,
        "rope_full_precision": True, "include_bias": False, "include_qkv_bias": False, "scale_logits": False,
        "input_emb_norm": False, "attention_layer_norm": False, "clip_qkv": None, "multi_query_attention": False,
    },
    mask_tokens=("<|mdm_mask|>",), mask_id=126336, turn_ends=("<|eot_id|>",), rope_in_float32=True,
    template_tokens=16,
)

DREAM = ModelFamily(
    "dream", "Dream (7B Base, Instruct)", max_length=2048, max_completion_length=2048,
    classes={"Dream": "Qwen2ForCausalLM"}, expected={"use_sliding_window": False},
    mask_tokens=("<|mask|>",), mask_id=151666, turn_ends=("<|im_end|>",), logit_shift=True,
    template_tokens=40,  # its template opens with a system message
)

_CONVERTED = {
    "classes": {
        "a2d-qwen3": "Qwen3ForCausalLM", "a2d-qwen2": "Qwen2ForCausalLM", "a2d-llama": "LlamaForCausalLM",
        "qwen3": "Qwen3ForCausalLM", "qwen2": "Qwen2ForCausalLM", "llama": "LlamaForCausalLM",
    },
    "expected": {"use_sliding_window": False},
    "mask_tokens": ("<|mask|>", "<|MASK|>"), "mask_id": 151669, "turn_ends": ("<|im_end|>", "<|eot_id|>"),
    "template_options": {"enable_thinking": False}, "template_tokens": 40,
}

MODELS: dict[str, ModelFamily] = {
    family.name: family for family in (
        ModelFamily("tiny", "Built-in, 343 k parameters, CPU", built_in=True, max_length=512,
                    max_completion_length=256, classes={"llama": "LlamaForCausalLM"}),
        LLADA,
        DREAM,
        ModelFamily("a2d", "Qwen3, Qwen2 or Llama turned bidirectional (masked diffusion)", **_CONVERTED),
        ModelFamily("a2d_block", "Qwen3, Qwen2 or Llama with block diffusion", attention_block=32, **_CONVERTED),
    )
}
