"""Under two answers on the Chat page: which one is better, and how the two checkpoints stand so far."""

from __future__ import annotations

from typing import Any

import gradio as gr

from storage.database import Database
from storage.votes import Comparison, Counts, add_vote, vote_counts
from ui.tabs import PLAIN

BUTTONS = {"a": "A is better", "b": "B is better", "tie": "Tie", "both_wrong": "Both wrong"}


def count_words(counts: Counts) -> str:
    """`"A 3 : 1 B, 2 ties"`."""
    if counts == Counts():
        return "No votes on this pair yet."
    ties = f", {counts.tie} {'tie' if counts.tie == 1 else 'ties'}" if counts.tie else ""
    wrong = f", {counts.both_wrong} both wrong" if counts.both_wrong else ""
    return f"A {counts.a} : {counts.b} B{ties}{wrong}"


class VoteBar:
    """Four buttons and the counts, made in the current container; shown when there are two checkpoints.

    `compared` holds the two answers that wait for a vote, or None: one vote per pair of answers.
    """

    def __init__(self, db: Database):
        self.db = db
        self.compared = gr.State(None)
        with gr.Row(elem_id="chat-votes", visible=False) as self.row:
            self.buttons = {
                choice: gr.Button(label, size="sm", interactive=False, elem_id=f"chat-vote-{choice}")
                for choice, label in BUTTONS.items()
            }
            self.counts = gr.Markdown("", elem_id="chat-vote-counts")
        for choice, button in self.buttons.items():
            button.click(
                lambda compared, choice=choice: self.voted(compared, choice), self.compared, self.outputs,
                trigger_mode="once", **PLAIN,
            )

    @property
    def outputs(self) -> list[Any]:
        return [self.compared, self.counts, *self.buttons.values()]

    def voted(self, compared: Comparison | None, choice: str) -> dict[Any, Any]:
        """Keeps the vote; a second press on the same answers changes nothing."""
        if compared is None:
            return {self.compared: None}
        add_vote(self.db, compared, choice)
        counts = vote_counts(self.db, compared.checkpoint_a, compared.checkpoint_b)
        return self.closed() | {self.counts: f"Kept: {BUTTONS[choice]}. {count_words(counts)}"}

    def opened(self, compared: Comparison) -> dict[Any, Any]:
        """Two answers to vote on."""
        return {self.compared: compared} | {button: gr.update(interactive=True) for button in self.buttons.values()}

    def closed(self) -> dict[Any, Any]:
        """Nothing to vote on, for now."""
        return {self.compared: None} | {button: gr.update(interactive=False) for button in self.buttons.values()}

    def of_pair(self, a: int | None, b: int | None, compared: Comparison | None) -> dict[Any, Any]:
        """The bar for these two checkpoints: hidden unless there are two."""
        shown = {self.row: gr.update(visible=bool(a and b and a != b))}
        if compared and (compared.checkpoint_a, compared.checkpoint_b) == (a, b):
            return shown
        counts = count_words(vote_counts(self.db, a, b)) if a and b else ""
        return shown | self.closed() | {self.counts: counts}
