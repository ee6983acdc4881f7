"""The built-in model: a stock `LlamaForCausalLM`, 343 k parameters, and its 54-token character tokenizer.

LLaDA is the same class with a bigger config: `is_causal = False` is the whole difference to a causal Llama.
"""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bgpo.models.denoiser import Denoiser

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz+-*/()=.,:;<>?!"
SPECIALS = ("<pad>", "<mask>", "<eos>")


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character."""
    vocabulary = {piece: index for index, piece in enumerate((*SPECIALS, *ALPHABET))}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>", padding_side="left",
    )


def tiny_config(vocab_size: int) -> LlamaConfig:
    """d = 96, 3 layers, 4 heads, SwiGLU 256, RoPE, untied head, no bias, no causal mask."""
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=256,
        max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False, use_cache=False,
        pad_token_id=0, bos_token_id=None, eos_token_id=2,
    )
    config.is_causal = False
    return config


def build_tiny(generator: torch.Generator) -> Denoiser:
    """A fresh model whose weights depend on `generator` alone: N(0, 0.02), norms at 1."""
    tokenizer = tiny_tokenizer()
    model = LlamaForCausalLM(tiny_config(len(tokenizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.02, generator=generator)
            else:
                parameter.fill_(1.0)
    return Denoiser(model, tokenizer)
