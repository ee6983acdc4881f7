"""One adapter over a stock bidirectional decoder and its tokenizer, the same for every model family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from bgpo.models import last_layer
from bgpo.models.cache import ReadKV
from bgpo.models.text import Text


def linear_matrix(module: torch.nn.Module) -> Tensor | None:
    """(V, D) of a head that is one matrix in float32 or wider and nothing else, or None."""
    plain = type(module) is torch.nn.Linear and module.bias is None and not module._forward_hooks
    return module.weight if plain and module.weight.dtype in (torch.float32, torch.float64) else None


@dataclass(frozen=True)
class Spec:
    """What a denoiser needs to know of its model beyond the weights.

    Attributes:
        family: key in MODELS.
        mask_id, pad_id: token ids; `pad_id` may be an end token, so padding is never read off ids alone.
        eos_ids: tokens that end a completion; the first one fills what is left of it.
        logit_shift, attention_block: see `ModelFamily`.
        max_length: tokens of prompt and completion.
        prompt_style, turn_end_id, template_options: see `Text`.
        files: the small files of the published folder (config.json, tokenizer, ...) by name, written back as they
            were when the model is saved; empty for the built-in model.
    """

    family: str
    mask_id: int
    pad_id: int
    eos_ids: tuple[int, ...]
    logit_shift: bool = False
    attention_block: int = 0
    max_length: int = 512
    prompt_style: str = "characters"
    turn_end_id: int | None = None
    template_options: Mapping[str, object] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict, repr=False)


def tiny_spec(tokenizer: PreTrainedTokenizerBase) -> Spec:
    """The built-in model's, from its tokenizer."""
    return Spec("tiny", tokenizer.mask_token_id, tokenizer.pad_token_id, (tokenizer.eos_token_id,))


class Denoiser:
    """A model that predicts masked tokens from both sides.

    Axes: B rows, T tokens of prompt and completion, P of the prompt, L of the completion, D width, V vocabulary.

    Attributes:
        model: the weights; `config.is_causal` is False.
        mask_id, pad_id, eos_id: token ids; `eos_ids` are all that end a completion, `eos_id` is the one that fills it.
        banned_ids: tokens that sampling never writes (mask, and padding where that is a token of its own).
        attention_block: 0, or the length of the blocks of a block-causal model.
        logit_shift: whether the weights predict one position ahead; `hidden` has put that right.
        source: the published folder that the weights were read from; None: they have moved since, or are nowhere else.
    """

    source: Path | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, spec: Spec | None = None):
        if getattr(model.config, "is_causal", True):
            raise ValueError("The model's config does not say is_causal = false; a causal model cannot denoise.")
        self.model = model
        self.tokenizer = tokenizer
        self.spec = spec or tiny_spec(tokenizer)
        self.mask_id, self.pad_id = self.spec.mask_id, self.spec.pad_id
        self.eos_ids, self.eos_id = self.spec.eos_ids, self.spec.eos_ids[0]
        self.attention_block, self.logit_shift = self.spec.attention_block, self.spec.logit_shift
        self.banned_ids = [self.mask_id] + [self.pad_id] * (self.pad_id not in self.eos_ids)
        self.text = Text(tokenizer, self.spec.prompt_style, self.spec.turn_end_id, self.spec.template_options)

    def with_model(self, model: PreTrainedModel) -> Denoiser:
        """The same denoiser over other weights of the same shape."""
        return Denoiser(model, self.tokenizer, self.spec)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def layers(self) -> int:
        return self.model.config.num_hidden_layers

    @property
    def vocabulary_size(self) -> int:
        """V, the rows of the head."""
        return self.model.config.vocab_size

    def valid(self, ids: Tensor) -> Tensor:
        """(B, T) -> (B, T) bool: false on the left padding.

        Padding is the run of `pad_id` that a row opens with and nothing else: a family may pad with its end token,
        and end tokens after an answer are part of what the model reads.
        """
        return (ids != self.pad_id).cumsum(1) > 0

    def hidden(
        self,
        ids: Tensor,
        *,
        valid: Tensor | None = None,
        positions: Tensor | None = None,
        completion_ids: Tensor | None = None,
        cache: ReadKV | None = None,
    ) -> Tensor:
        """(B, T) ids -> (B, T, D): `logits(hidden[:, i])` is the prediction for position i, whatever the family.

        A row's states do not depend on how far it was padded on the left, nor on its neighbours in the batch.

        Args:
            valid: (B, T) bool, true on tokens; None: all but the left padding.
            positions: (B, T) of the rotary embedding; None: counted from the row's first token.
            completion_ids: (B, L) the clean tokens of the last L columns, for block-causal models alone. Each block
                then reads the clean blocks before it instead of their noised ones, as when it is decoded
                (BD3LM, arXiv 2503.09573): the states that a likelihood needs. None: it reads `ids` as they stand.
            cache: keys and values of other columns, which the ids read as well; `ids` are then its window. Of a model
                with shifted logits, the first state of a window is right only where the window begins the canvas.
        """
        valid = self.valid(ids) if valid is None else valid
        states = self._unshifted(ids, valid, positions, completion_ids, cache)
        return _shifted(states, valid) if self.logit_shift else states

    def states_at(
        self, ids: Tensor, wanted: Tensor, valid: Tensor, positions: Tensor | None = None, cache: ReadKV | None = None
    ) -> Tensor:
        """(N, D): what `hidden` gives at the (B, T) bool `wanted` positions, none of them a row's first, for less."""
        at = self._predicting(wanted)
        with last_layer.only_for(self.model, at) as narrowed:
            states = self._unshifted(ids, valid, positions, None, cache)
        return states if narrowed else states[at]

    def before_last_layer(
        self, ids: Tensor, wanted: Tensor, completion_ids: Tensor | None = None
    ) -> last_layer.BeforeLastLayer | None:
        """The pass of `hidden`, stopped before the last layer, which then gives the states of the (B, T) bool `wanted`
        positions; None where that cannot be had of this model."""
        valid, at = self.valid(ids), self._predicting(wanted)
        if self.logit_shift and bool((wanted & (valid.cumsum(1) == 1)).any()):  # a row's first token is not shifted
            return None
        if completion_ids is not None:  # between the prompt and what is noised
            L = completion_ids.shape[1]
            at = torch.cat([at[:, :-L], torch.zeros_like(at[:, -L:]), at[:, -L:]], dim=1)
        return last_layer.stop_before(
            self.model, at, lambda: self._unshifted(ids, valid, None, completion_ids, None)
        )

    def _predicting(self, wanted: Tensor) -> Tensor:
        """(B, T) bool positions -> those whose states predict them: of a shifted model the ones before them."""
        if not self.logit_shift:
            return wanted
        return torch.cat([wanted[:, 1:], torch.zeros_like(wanted[:, :1])], dim=1)

    def _unshifted(
        self, ids: Tensor, valid: Tensor, positions: Tensor | None, completion_ids: Tensor | None,
        cache: ReadKV | None,
    ) -> Tensor:
        if cache is not None:
            return self._cached(ids, valid, positions, cache)
        padded = not bool(valid.all())
        if padded and positions is None:
            positions = (valid.cumsum(1) - 1).clamp(min=0)
        if self.attention_block:
            return self._block_causal(ids, valid, positions, padded, completion_ids)
        return self._states(ids, valid if padded else None, positions)

    def _states(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor | None, cache: ReadKV | None = None
    ) -> Tensor:
        return self.model.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=False
        ).last_hidden_state

    def _cached(self, ids: Tensor, valid: Tensor, positions: Tensor | None, cache: ReadKV) -> Tensor:
        seen = torch.cat([cache.seen, valid], dim=1)  # (B, kept + T)
        padded = not bool(seen.all())
        if padded and positions is None:
            positions = (valid.cumsum(1) - 1).clamp(min=0)
        mask = seen if padded else None
        if self.attention_block:
            columns = torch.cat([cache.columns, cache.window])
            key, query = (
                torch.div(column, self.attention_block, rounding_mode="floor") for column in (columns, cache.window)
            )
            mask = (key <= query[:, None])[None]
            if padded:
                mask = (mask & seen[:, None]) | (columns == cache.window[:, None])
            mask = mask[:, None].expand(len(ids), 1, -1, -1)
        return self._states(ids, mask, positions, cache)

    def _block_causal(
        self, ids: Tensor, valid: Tensor, positions: Tensor | None, padded: bool, clean: Tensor | None
    ) -> Tensor:
        """Blocks are counted back from the end of the canvas, so they begin where the completion begins, however
        long the prompt and its padding are; the prompt's first block may be a short one."""
        B, T = ids.shape
        L = 0 if clean is None else clean.shape[1]
        P = T - L
        column = torch.arange(T, device=ids.device)
        block = torch.div(column - T, self.attention_block, rounding_mode="floor")
        if clean is None:
            mask = (block[None, :] <= block[:, None])[None]
        else:  # columns: prompt, clean completion, noised completion
            ids = torch.cat([ids[:, :P], clean, ids[:, P:]], dim=1)
            column, block = torch.cat([column, column[P:]]), torch.cat([block, block[P:]])
            noised = torch.arange(T + L, device=ids.device) >= T
            earlier, same = block[None, :] < block[:, None], block[None, :] == block[:, None]
            mask = ((earlier & ~noised) | (same & (noised[None, :] == noised[:, None])))[None]
        if positions is not None or clean is not None:
            positions = column[None] if positions is None else positions[:, column]
        if padded:
            # padding reads itself alone: a row that reads nothing is not a number
            mask = (mask & valid[:, column][:, None]) | torch.eye(len(column), dtype=torch.bool, device=ids.device)
        states = self._states(ids, mask[:, None].expand(B, 1, -1, -1), positions)
        return states if clean is None else torch.cat([states[:, :P], states[:, T:]], dim=1)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., V): the head, applied to the rows one asks for and no others."""
        return self.model.lm_head(hidden)

    @property
    def head_matrix(self) -> Tensor | None:
        """(V, D) when the head is one matrix and nothing else; the backward of the head may then go by hand."""
        return linear_matrix(self.model.lm_head)

    def encode_prompts(self, prompts: Sequence[str], prompt_length: int) -> Tensor:
        """(B, prompt_length) ids of users' messages, padded on the left to one width whatever the batch.

        Raises:
            ValueError: when a prompt is too long or holds a character that the vocabulary lacks.
        """
        rows = [_fitting(self.text.prompt(prompt), prompt_length, "prompt") for prompt in prompts]
        padded = [[self.pad_id] * (prompt_length - len(row)) + row for row in rows]
        return torch.tensor(padded, device=self.device)

    def encode_conversation(self, messages: Sequence[str], prompt_length: int) -> Tensor:
        """(1, P) ids of messages in turns, the user's first and last, without padding.

        Raises:
            ValueError: as `encode_prompts`; P may be `prompt_length` at most.
        """
        return torch.tensor([_fitting(self.text.conversation(messages), prompt_length, "prompt")], device=self.device)

    def encode_completions(self, completions: Sequence[str], completion_length: int) -> Tensor:
        """(B, completion_length) ids, the rest filled with the end token; raises ValueError likewise."""
        rows = [_fitting(self.text.answer(completion), completion_length, "completion") for completion in completions]
        padded = [row + [self.eos_id] * (completion_length - len(row)) for row in rows]
        return torch.tensor(padded, device=self.device)

    def prompt_tokens(self, prompt_ids: Tensor) -> Tensor:
        """(B, P) prompts -> (B,) tokens without the padding."""
        return self.valid(prompt_ids).sum(1)

    def decode(self, ids: Tensor) -> list[str]:
        """(B, L) ids -> texts up to the first end token."""
        return [self.text.decode(row[: n - 1] if row[n - 1] in self.eos_ids else row[:n])
                for row, n in zip(ids.tolist(), self.completion_tokens(ids).tolist())]

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One printable piece per token."""
        return self.text.pieces(ids)

    def completion_tokens(self, ids: Tensor) -> Tensor:
        """(B, L) ids -> (B,) tokens written, up to and including the first end token."""
        L = ids.shape[1]
        ended = torch.isin(ids, torch.tensor(self.eos_ids, device=ids.device)).int()
        return torch.where(ended.any(1), ended.argmax(1) + 1, L)


def _shifted(states: Tensor, valid: Tensor) -> Tensor:
    """States of models whose position i - 1 predicts position i; a row's first token keeps its own.

    (Dream's published code takes the padding's state there; the first token of a prompt is never predicted.)
    """
    moved = torch.cat([states[:, :1], states[:, :-1]], dim=1)
    before = torch.cat([torch.zeros_like(valid[:, :1]), valid[:, :-1]], dim=1)
    return torch.where((valid & ~before)[..., None], states, moved)


def _fitting(ids: list[int], limit: int, what: str) -> list[int]:
    if len(ids) > limit:
        raise ValueError(
            f"The {what} has {len(ids)} tokens; this model takes up to {limit} there. Shorten it, or raise "
            f"{what}_length."
        )
    return ids
