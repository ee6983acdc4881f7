"""One adapter over a stock bidirectional decoder and its tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase


def linear_matrix(module: torch.nn.Module) -> Tensor | None:
    """(V, D) of a head that is one matrix in float32 or wider and nothing else, or None."""
    plain = type(module) is torch.nn.Linear and module.bias is None and not module._forward_hooks
    return module.weight if plain and module.weight.dtype in (torch.float32, torch.float64) else None


class Denoiser:
    """A model that predicts masked tokens from both sides.

    Axes: B rows, T tokens of prompt and completion, P of the prompt, L of the completion, D width, V vocabulary.

    Attributes:
        model: the weights; `config.is_causal` is False.
        mask_id, pad_id, eos_id: token ids, from the tokenizer.
        banned_ids: tokens that sampling never writes (mask and padding).
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase):
        if getattr(model.config, "is_causal", True):
            raise ValueError("The model's config does not say is_causal = false; a causal model cannot denoise.")
        self.model = model
        self.tokenizer = tokenizer
        self.mask_id: int = tokenizer.mask_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.banned_ids = [self.mask_id, self.pad_id]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def hidden(self, ids: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, D) last hidden states. Padding is not attended to, wherever it stands.

        Positions are relative, so a row's states do not depend on how far it was padded on the left.
        """
        seen = ids != self.pad_id
        mask = None if bool(seen.all()) else seen
        return self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V): the head, applied to the rows one asks for and no others."""
        return self.model.lm_head(hidden)

    @property
    def head_matrix(self) -> Tensor | None:
        """(V, D) when the head is one matrix and nothing else; the backward of the head may then go by hand."""
        return linear_matrix(self.model.lm_head)

    def encode_prompts(self, prompts: Sequence[str], prompt_length: int) -> Tensor:
        """(B, prompt_length) ids, padded on the left to one width whatever the batch.

        Raises:
            ValueError: when a prompt is too long or holds a character that the vocabulary lacks.
        """
        rows = [self._encode(prompt, prompt_length, "prompt") for prompt in prompts]
        padded = [[self.pad_id] * (prompt_length - len(row)) + row for row in rows]
        return torch.tensor(padded, device=self.device)

    def encode_completions(self, completions: Sequence[str], completion_length: int) -> Tensor:
        """(B, completion_length) ids, the rest filled with the end token; raises ValueError likewise."""
        rows = [self._encode(completion, completion_length, "completion") for completion in completions]
        padded = [row + [self.eos_id] * (completion_length - len(row)) for row in rows]
        return torch.tensor(padded, device=self.device)

    def decode(self, ids: Tensor) -> list[str]:
        """(B, L) ids -> texts up to the first end token."""
        return [self.tokenizer.decode(row[: n - 1] if row[n - 1] == self.eos_id else row[:n])
                for row, n in zip(ids.tolist(), self.completion_tokens(ids).tolist())]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One printable piece per token."""
        return self.tokenizer.convert_ids_to_tokens(list(ids))

    def completion_tokens(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B,) tokens written, up to and including the first end token."""
        L = ids.shape[1]
        ended = (ids == self.eos_id).int()
        first = torch.where(ended.any(1), ended.argmax(1) + 1, L)
        return first

    def _encode(self, text: str, limit: int, what: str) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        unknown = [character for character in text if character not in vocabulary]
        if unknown:
            raise ValueError(
                f"The {what} holds {unknown[0]!r}, which this model has no token for; it knows "
                f"{''.join(sorted(piece for piece in vocabulary if len(piece) == 1))}."
            )
        if len(text) > limit:
            raise ValueError(f"The {what} has {len(text)} tokens; this model takes up to {limit} there. Shorten it.")
        return [vocabulary[character] for character in text]
