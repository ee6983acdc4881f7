"""The probe measures updates for real: the plain objective's memory grows with the draws, BGPO's does not."""

from __future__ import annotations

import pytest

from bgpo.config import TrainConfig
from bgpo.training import probe
from bgpo.training.metrics import METRICS

CONFIG = TrainConfig(
    job="probe", completion_length=8, prompts_per_step=4, group_size=4, mc_samples=8, threads=1,
    token_budget=16 * 19,
)


class Listener:
    """Remembers, and stops after so many questions."""

    def __init__(self, patience: int = 10**9):
        self.points: dict[tuple[str, int], float] = {}
        self.phases: list[tuple[str, int, int]] = []
        self.patience = patience

    def phase(self, name, done, total):
        self.phases.append((name, done, total))

    def metrics(self, step, values):
        self.points |= {(name, step): value for name, value in values.items()}

    def should_stop(self):
        self.patience -= 1
        return self.patience < 0


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Listener:
    listener = Listener()
    outcome = probe.run(CONFIG, tmp_path_factory.mktemp("run"), listener, tmp_path_factory.mktemp("cache"))
    assert outcome.status == "finished" and listener.phases[-1] == ("measuring", 8, 8)
    return listener


def test_the_plain_objective_grows_with_the_draws_and_bgpo_does_not(measured):
    held = {key: value for key, value in measured.points.items() if key[0].endswith("_saved_mb")}
    assert sorted({draws for _, draws in held}) == [1, 4, 8, 16]
    assert held["probe/bgpo_saved_mb", 16] < 1.1 * held["probe/bgpo_saved_mb", 1]
    assert held["probe/elbo_saved_mb", 16] == pytest.approx(16 * held["probe/elbo_saved_mb", 1], rel=0.1)
    assert held["probe/elbo_saved_mb", 1] == pytest.approx(held["probe/bgpo_saved_mb", 1], rel=0.1)


def test_every_figure_is_in_the_glossary(measured):
    assert {name for name, _ in measured.points} <= METRICS.keys()


def test_what_would_not_fit_is_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(probe, "free_bytes", lambda device: 1)
    listener = Listener()
    probe.run(CONFIG, tmp_path, listener, tmp_path)
    assert {draws for name, draws in listener.points if name == "probe/elbo_saved_mb"} == {1}
    assert {draws for name, draws in listener.points if name == "probe/bgpo_saved_mb"} == {1, 4, 8, 16}


def test_it_stops_between_two_cells(tmp_path):
    listener = Listener(patience=2)
    assert probe.run(CONFIG, tmp_path, listener, tmp_path).status == "stopped"
    assert {draws for _, draws in listener.points} == {1}
