"""The estimate as the form and the run page say it."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.training.hardware import Room
from tests.training.test_memory_estimate import EIGHT_BILLION
from ui import memory_words

GB = 10**9


def card(monkeypatch, free: float, **values):
    monkeypatch.setattr(memory_words, "room_for", lambda config: Room("NVIDIA H200", "cuda", free, 141 * GB))
    return memory_words.estimate_card(TrainConfig(**values))


def test_parts_add_up_and_a_warning_comes_only_where_they_do_not_fit(monkeypatch):
    saving = {"adapter": "lora", "activation_checkpointing": True}
    found = card(monkeypatch, 140 * GB, **EIGHT_BILLION, **saving, precision="bf16")
    assert sum(size for _, _, size, _ in found["parts"]) == pytest.approx(found["total"])
    assert "140 GB of 141 GB are free on the NVIDIA H200" in found["words"] and found["warning"] == ""
    tight = card(monkeypatch, 24 * GB, **EIGHT_BILLION, precision="fp32", activation_checkpointing=True)
    assert "does not fit" in tight["warning"] and "Set adapter to lora" in tight["warning"]


def test_a_model_that_is_not_here_yet_and_not_known_says_so(monkeypatch):
    values = EIGHT_BILLION | {"model": "a2d", "model_path": "somebody/unknown"}
    found = card(monkeypatch, 140 * GB, **values)
    assert found["parts"] == [] and "cannot be estimated" in found["words"]


def test_beside_what_was_measured():
    rows = memory_words.beside_measured(TrainConfig(device="cpu"), 1000, 3.0, 500.0)["rows"]
    assert [row[0] for row in rows] == ["Held for backward", "Process, with its libraries"]
    assert rows[0][2] == "3.1 MB" and "not yet" not in rows[1]
    assert memory_words.beside_measured(TrainConfig(device="cpu"), 0, None, None)["rows"][0][2] == "not yet"
