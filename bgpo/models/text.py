"""Text <-> token ids, for the built-in character tokenizer and for byte-level tokenizers with chat templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

PROMPT_STYLES = ("chat", "plain", "characters")
_SPLIT = "\ue000prompt\ue000"  # private use: stands for the prompt in a rendered template


class Text:
    """How a model's prompts are written and its completions read.

    Attributes:
        style: "chat" puts a prompt into the tokenizer's chat template, "plain" takes it as it is, "characters"
            is the built-in tokenizer's.
        turn_end_id: closes an answer of a chat, or None.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, style: str, turn_end_id: int | None = None,
        template_options: Mapping[str, Any] | None = None,
    ):
        self.tokenizer = tokenizer
        self.style = style
        self.turn_end_id = turn_end_id
        self._options = dict(template_options or {})

    def prompt(self, text: str) -> list[int]:
        """Ids of a user's message, ready to be answered; raises ValueError for what cannot be written."""
        if self.style == "characters":
            return self._characters(text, "prompt")
        if self.style == "plain":
            return self._written(text)
        before, after = self._template
        if self._holds_control(text):
            return self._ids(before) + self._written(text) + self._ids(after)
        # in one piece, as published: the tokenizer may join the message's edges with what stands beside them
        return self._ids(self._rendered(text))

    def answer(self, text: str) -> list[int]:
        """Ids of a completion without its end token; a chat's answer closes its turn first."""
        if self.style == "characters":
            return self._characters(text, "completion")
        return self._written(text) + ([self.turn_end_id] if self.style == "chat" and self.turn_end_id else [])

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that hold no end token. Control tokens show as they are written."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One printable piece per token; part of a character shows as its bytes."""
        if self.style == "characters":
            return self.tokenizer.convert_ids_to_tokens(list(ids))
        return [self._piece(index) for index in ids]

    def _piece(self, index: int) -> str:
        piece = self.decode([index])
        if "\ufffd" not in piece:
            return piece or f"<{index}>"  # a row of the embedding that no token has
        token = self.tokenizer.convert_ids_to_tokens(index)
        return "".join(_printable(self._byte_of[character]) for character in token if character in self._byte_of)

    @cached_property
    def _byte_of(self) -> dict[str, int]:
        """The byte that each character of a byte-level token stands for."""
        printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
        others = [byte for byte in range(256) if byte not in printable]
        return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}

    @cached_property
    def _template(self) -> tuple[str, str]:
        before, found, after = self._rendered(_SPLIT).partition(_SPLIT)
        if not found:
            raise ValueError("The chat template leaves the message out; set prompt_style to plain, or choose another "
                             "model.")
        return before, after

    def _rendered(self, text: str) -> str:
        return self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True, **self._options
        )

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _written(self, text: str) -> list[int]:
        """Ids of text that somebody wrote: `<|eot|>` in it is five characters, never a control token."""
        if not self._holds_control(text):
            return self._ids(text)
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    @cached_property
    def _control(self) -> tuple[str, ...]:
        added = self.tokenizer.added_tokens_decoder.values()
        return tuple({str(token) for token in added if token.special} | set(self.tokenizer.all_special_tokens))

    def _holds_control(self, text: str) -> bool:
        return any(token in text for token in self._control)

    def _characters(self, text: str, what: str) -> list[int]:
        vocabulary = self.tokenizer.get_vocab()
        unknown = [character for character in text if character not in vocabulary]
        if unknown:
            raise ValueError(
                f"The {what} holds {unknown[0]!r}, which this model has no token for; it knows "
                f"{''.join(sorted(piece for piece in vocabulary if len(piece) == 1))}."
            )
        return [vocabulary[character] for character in text]


def _printable(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else f"<{byte:02X}>"
