"""A conversation on the Chat page: what was asked, what each side answered, what the next answer reads of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bgpo.config import TrainConfig
from bgpo.jobs.chat_devices import REFUSE

MOST_READ = 50  # turns that a model is given; what does not fit is left out from the oldest on


@dataclass(frozen=True)
class Turn:
    """One message and its answers.

    Attributes:
        asked: as it was typed; message: as the model was asked, such as with a task's instructions around it.
        answers: side ("a" or "b") -> text; a side that was stopped, or was not there, is missing.
    """

    asked: str
    message: str
    answers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Conversation:
    """The turns so far. `replacing`: the next answer takes the place of the last turn."""

    turns: tuple[Turn, ...] = ()
    replacing: bool = False

    @property
    def number(self) -> int:
        """Of the next turn, 0-based."""
        return len(self.turns) - self.replacing

    @property
    def last(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    def earlier(self, side: str) -> list[str]:
        """What the next answer of a side reads: messages and answers in turns.

        Each side goes on with its own answers; one that joined later reads A's where it has none. A turn whose answer
        was stopped is not read.
        """
        said: list[str] = []
        for turn in self.turns[: self.number][-MOST_READ:]:
            answer = turn.answers.get(side, turn.answers.get("a"))
            if answer is not None:
                said += [turn.message, answer]
        return said

    def with_turn(self, turn: Turn) -> Conversation:
        return Conversation((*self.turns[: self.number], turn))

    def with_answer(self, side: str, text: str) -> Conversation:
        """The last turn with one more answer."""
        last = self.turns[-1]
        changed = replace(last, answers={**last.answers, side: text})
        return replace(self, turns=(*self.turns[:-1], changed))


@dataclass(frozen=True)
class Question:
    """What one or two checkpoints are asked; the second reads it as the first one's run would.

    Attributes:
        key: no two questions share it.
        session: the browser's.
        config, folder: of checkpoint A's run: its task encodes the prompt and judges both answers.
        settings: the sampler's.
        said: the conversation before it.
        if_taken: what to do while no GPU is free; see `Chat.answer`.
    """

    key: str
    session: str
    prompt: str
    config: TrainConfig
    folder: str
    settings: dict[str, Any]
    said: Conversation
    if_taken: str = REFUSE
