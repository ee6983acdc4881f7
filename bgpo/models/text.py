"""Text <-> token ids, for the built-in character tokenizer and for byte-level tokenizers with chat templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

PROMPT_STYLES = ("chat", "plain", "characters")
_SPLIT = "\ue000message{}\ue000"  # private use: stands for a message in a rendered template
_ROLES = ("user", "assistant")


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
        self._templates: dict[int, tuple[str, ...]] = {}

    def prompt(self, text: str) -> list[int]:
        """Ids of a user's message, ready to be answered; raises ValueError for what cannot be written."""
        return self.conversation([text])

    def conversation(self, messages: Sequence[str]) -> list[int]:
        """Ids of what a user and the model have said in turns, ready for the answer to the last message.

        Without a chat template earlier messages stand before the last one, a line each; the built-in tokenizer's model
        knows single problems only, so there the last one is all.

        Raises:
            ValueError: for what cannot be written.
        """
        if self.style == "characters":
            return self._characters(messages[-1], "prompt")
        if self.style == "plain":
            return self._written("\n".join(messages))
        around = self._template(len(messages))
        if any(map(self._holds_control, messages)):
            ids = self._ids(around[0])
            for message, after in zip(messages, around[1:]):
                ids += self._written(message) + self._ids(after)
            return ids
        # in one piece, as published: the tokenizer may join the message's edges with what stands beside them
        return self._ids(self._rendered(messages))

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

    def token_of(self, piece: str) -> int | None:
        """The id that `pieces` shows so; None where there is none, or more than one."""
        return self._of_pieces.get(piece)

    @cached_property
    def _of_pieces(self) -> dict[str, int | None]:
        found: dict[str, int | None] = {}
        for index, piece in enumerate(self.pieces(range(len(self.tokenizer)))):
            found[piece] = None if piece in found else index
        return found

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

    def _template(self, count: int) -> tuple[str, ...]:
        """What the chat template puts before, between and behind `count` messages."""
        if count not in self._templates:
            self._templates[count] = tuple(self._parts_of_template(count))
        return self._templates[count]

    def _parts_of_template(self, count: int) -> list[str]:
        rest, around = self._rendered([_SPLIT.format(index) for index in range(count)]), []
        for index in range(count):
            before, found, rest = rest.partition(_SPLIT.format(index))
            if not found:
                what = "the message" if count == 1 else "an earlier message"
                raise ValueError(f"The chat template leaves {what} out; set prompt_style to plain, or choose another "
                                 "model.")
            around.append(before)
        return [*around, rest]

    def _rendered(self, messages: Sequence[str]) -> str:
        turns = [{"role": _ROLES[index % 2], "content": message} for index, message in enumerate(messages)]
        return self.tokenizer.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True, **self._options
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
