"""Tiny random checkpoints in the published formats, for any test: LLaDA, Dream, and converted Qwen3, Qwen2 and Llama.

Each function writes a folder with the file names, config fields, tensor names and tokenizer files that the published
model has, at toy size, and a module of code that must never run (it leaves a mark if it does). Weights are those of
the reference networks beside this file; `reference(folder)` gives that network back.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn

from tests.models.reference_llada import ReferenceLLaDA
from tests.models.reference_qwen import ReferenceQwen

CORPUS = [
    "The quick brown fox jumps over the lazy dog. Numbers: 0 1 2 3 4 5 6 7 8 9, 37+48=85 and 14:1,6,9,8.",
    "Solve the problem step by step and write the answer. user assistant system You are a helpful assistant.",
    "def add(a, b):\n    return a + b\n\n\nassert add(1, 2) == 3\n", "Überall gibt es Käse, 数学, und 🙂.",
]
VOCABULARY = 340  # pieces before the control tokens
LLADA_TEMPLATE = (  # always opens the assistant's turn, whatever add_generation_prompt says
    "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + "
    "message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}"
    "{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
QWEN_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
_REMOTE_CODE = "import pathlib\npathlib.Path(__file__).with_name('EXECUTED').touch()\n"


def llada(folder: Path, *, instruct: bool = True, shards: int = 1, seed: int = 0, **config: Any) -> Path:
    """A LLaDA folder; `config` replaces fields of config.json."""
    control = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"]
    control += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"] if instruct else []
    tokenizer = _byte_level(control)
    ids = {token: tokenizer.token_to_id(token) for token in control}
    fields = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"],
        "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
        "d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 48, "mlp_ratio": 4,
        "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rms_norm_eps": 1e-5,
        "rope": True, "rope_theta": 500000.0, "rope_full_precision": True, "alibi": False, "max_sequence_length": 256,
        "include_bias": False, "include_qkv_bias": False, "weight_tying": False, "scale_logits": False,
        "input_emb_norm": False, "attention_layer_norm": False, "multi_query_attention": None, "clip_qkv": None,
        "vocab_size": tokenizer.get_vocab_size(), "embedding_size": 384, "mask_token_id": ids["<|mdm_mask|>"],
        "eos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"], "use_cache": False,
        "transformers_version": "4.46.3", "torch_dtype": "bfloat16",
    } | config
    folder.mkdir(parents=True, exist_ok=True)
    _weights(folder, ReferenceLLaDA(fields), shards, seed)
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(folder, "tokenizer_config.json", {  # no mask_token, as published
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>", **({"chat_template": LLADA_TEMPLATE} if instruct else {}),
    })
    return _finish(folder, fields, "modeling_llada.py")


def dream(folder: Path, *, shards: int = 1, seed: int = 0, **config: Any) -> Path:
    """A Dream folder: vocab.json and merges.txt for a tokenizer class of its own, no tokenizer.json."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>"]
    tokenizer = _byte_level(control)
    fields = {
        "model_type": "Dream", "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        **_qwen_fields(tokenizer), "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": False,
        "mask_token_id": tokenizer.token_to_id("<|mask|>"), "eos_token_id": tokenizer.token_to_id("<|endoftext|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"), "bos_token_id": tokenizer.token_to_id("<|endoftext|>"),
    } | config
    folder.mkdir(parents=True, exist_ok=True)
    _weights(folder, ReferenceQwen(fields, bias=True), shards, seed)
    state = json.loads(tokenizer.to_str())["model"]
    _json(folder, "vocab.json", state["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in state["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    _json(folder, "added_tokens.json", {token: tokenizer.token_to_id(token) for token in control})
    _json(folder, "tokenizer_config.json", {
        "tokenizer_class": "DreamTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>", "chat_template": QWEN_TEMPLATE, "added_tokens_decoder": _decoder(tokenizer, control),
    })
    return _finish(folder, fields, "modeling_dream.py", "tokenization_dream.py")


def converted(folder: Path, kind: str = "qwen3", *, shards: int = 1, seed: int = 0, **config: Any) -> Path:
    """A converted Qwen3, Qwen2 or Llama as dllm publishes it (model_type a2d-...); mdlm and bd3lm share the format."""
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|mask|>"]
    tokenizer = _byte_level(control)
    name = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[kind]
    fields = {
        "model_type": f"a2d-{kind}", "architectures": [f"A2D{name}LMHeadModel"], **_qwen_fields(tokenizer),
        "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "tie_word_embeddings": kind == "qwen3",
        **({"head_dim": 16} if kind == "qwen3" else {}), "attention_bias": False,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"), "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    } | config
    folder.mkdir(parents=True, exist_ok=True)
    _weights(folder, ReferenceQwen(fields, bias=kind == "qwen2", normed=kind == "qwen3"), shards, seed)
    tokenizer.save(str(folder / "tokenizer.json"))
    _json(folder, "tokenizer_config.json", {
        "tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>",
        "mask_token": "<|mask|>", "chat_template": QWEN_TEMPLATE,
    })
    return _finish(folder, fields, "modeling_a2d.py")


def reference(folder: Path, dtype: torch.dtype = torch.float32, block: int = 0) -> nn.Module:
    """The reference network of a folder, with its weights."""
    fields = json.loads((folder / "config.json").read_text())
    kind = fields["model_type"]
    if kind == "llada":
        network: nn.Module = ReferenceLLaDA(fields)
    else:
        network = ReferenceQwen(
            fields, bias=kind in ("Dream", "a2d-qwen2"), normed=kind == "a2d-qwen3", shift=kind == "Dream", block=block
        )
    tensors = {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}
    missing, unexpected = network.load_state_dict(tensors, strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}
    return network.to(dtype).eval()


def _qwen_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "intermediate_size": 48, "vocab_size": -(-tokenizer.get_vocab_size() // 64) * 64, "hidden_act": "silu",
        "max_position_embeddings": 256, "use_sliding_window": False, "sliding_window": None, "rope_scaling": None,
        "use_cache": False, "attention_dropout": 0.0, "initializer_range": 0.02, "transformers_version": "4.46.3",
        "torch_dtype": "bfloat16",
    }


@functools.cache
def _trained() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    return tokenizer.to_str()


def _byte_level(control: list[str]) -> Tokenizer:
    tokenizer = Tokenizer.from_str(_trained())
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    return tokenizer


def _decoder(tokenizer: Tokenizer, control: list[str]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(tokenizer.token_to_id(token)): {"content": token, **flags} for token in control}


def _weights(folder: Path, network: nn.Module, shards: int, seed: int) -> None:
    """Random weights, wide enough that a wrong mask or rotation shows in the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2, generator=generator)
            else:
                parameter.add_(torch.empty_like(parameter).normal_(0, 0.1, generator=generator))
    tensors = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    if getattr(network, "lm_head", None) is not None and network.lm_head.weight is network.model["embed_tokens"].weight:
        del tensors["lm_head.weight"]
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        return
    number = {name: index * shards // len(names) + 1 for index, name in enumerate(names)}
    files = {name: f"model-{number[name]:05d}-of-{shards:05d}.safetensors" for name in names}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in names if files[name] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    _json(folder, "model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": files})


def _json(folder: Path, name: str, content: Any) -> None:
    (folder / name).write_text(json.dumps(content, indent=2))


def _finish(folder: Path, fields: dict[str, Any], *code: str) -> Path:
    _json(folder, "config.json", fields)
    _json(folder, "generation_config.json", {"_from_model_config": True})
    for name in code:
        (folder / name).write_text(_REMOTE_CODE)
    return folder
