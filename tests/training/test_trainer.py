"""The loop: resume equality, stopping, equality of the two objectives on-policy, what is reported."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.models.checkpoints import load_model
from bgpo.tasks.adder import Adder
from bgpo.tasks.base import PARTS, Reward
from bgpo.training import warmup
from bgpo.training.metrics import METRICS
from bgpo.training.trainer import run

SHORT = TrainConfig(
    warmup_steps=30, warmup_examples=128, train_steps=4, prompts_per_step=4, group_size=6, mc_samples=3, eval_every=2,
    eval_problems=16, threads=1, token_budget=64,
)
TIMES = {name for name in METRICS if name.startswith(("time/", "memory/"))}


class Recorder:
    """A listener that remembers, and asks to stop after `stop_after` questions."""

    def __init__(self, stop_after: int | None = None):
        self.points: dict[tuple[str, int], float] = {}
        self.phases: list[tuple[str, int, int]] = []
        self.saved: list[tuple[int, str, Path, float | None]] = []
        self.shown: dict[int, list] = {}
        self.kept: dict[int, list] = {}
        self.asked = 0
        self.stop_after = stop_after

    def phase(self, name, done, total):
        self.phases.append((name, done, total))

    def metrics(self, step, values):
        self.points |= {(name, step): value for name, value in values.items()}

    def completions(self, step, shown):
        self.shown[step] = shown

    def rollouts(self, step, kept):
        self.kept[step] = kept

    def keep(self):
        pass

    def checkpoint(self, step, kind, folder, reward):
        self.saved.append((step, kind, folder, reward))

    def should_stop(self):
        self.asked += 1
        return self.stop_after is not None and self.asked > self.stop_after

    @property
    def reproducible(self) -> dict[tuple[str, int], float]:
        return {key: value for key, value in self.points.items() if key[0] not in TIMES}


@pytest.fixture(scope="module", autouse=True)
def easy_reward():
    """A reward that an almost untrained model sometimes earns, so that groups carry a signal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Adder, "reward", lambda self, problem, text: Reward(float("0" in text[:3]), "has a 0 or not"))
        yield


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """A whole run, its warm start included."""
    home = tmp_path_factory.mktemp("whole")
    recorder = Recorder()
    outcome = run(SHORT, home / "run", recorder, home / "warm_starts")
    assert (outcome.status, outcome.step) == ("finished", 4)
    assert all(recorder.points["grad/norm", step] > 0 for step in range(1, 5)), "a run without signal proves nothing"
    return home, recorder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder).model.state_dict()


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_every_step_hands_out_the_groups_that_are_kept(uninterrupted):
    _, recorder = uninterrupted
    G, L = SHORT.group_size, SHORT.completion_length
    groups = min(SHORT.keep_rollouts, SHORT.prompts_per_step)
    assert sorted(recorder.kept) == [1, 2, 3, 4]
    for step, kept in recorder.kept.items():
        places = [(r.problem_index, r.completion_index) for r in kept]
        assert places == [(p, g) for p in range(groups) for g in range(G)]
        assert all((r.reward, r.reason) == (float("0" in r.completion[:3]), "has a 0 or not") for r in kept)
        live = [r for r in kept if r.advantage]
        mean = sum(r.reward for r in kept if r.problem_index == kept[0].problem_index) / G
        assert kept[0].advantage == pytest.approx(kept[0].reward - mean), step
        for r in kept:
            trace = json.loads(r.trace)
            assert sorted(position for _, position, _, _ in trace) == list(range(L))
            assert trace == sorted(trace) and all(0 < sure <= 1 for *_, sure in trace)
            written = [piece for _, _, piece, _ in sorted(trace, key=lambda event: event[1])][: r.tokens]
            assert "".join(written).removesuffix("<eos>") == r.completion
    assert live, "no group of the last step carries a signal"


def test_reports_what_a_page_shows(uninterrupted):
    _, recorder = uninterrupted
    names = {name for name, _ in recorder.points}
    assert names <= set(METRICS)
    others = {"memory/cuda_peak_mb", "kl/reference", "ratio/clipped_fraction"}
    others |= {f"reward/part_{name}" for name in PARTS}  # this run has a reward of its own
    others |= {name for name in METRICS if name.startswith(("probe/", "finetune/", "eval/"))}  # those of other jobs
    assert names == set(METRICS) - others, "a metric that no run logs has no place in METRICS"
    assert sorted(step for name, step in recorder.points if name == "reward/heldout_greedy") == [0, 2, 4]
    assert sorted(step for name, step in recorder.points if name == "reward/mean") == [1, 2, 3, 4]
    assert sorted(step for name, step in recorder.points if name == "warmup/loss") == [10, 20, 30]
    assert [(step, kind) for step, kind, _, _ in recorder.saved] == [(0, "warm_start"), (2, "evaluation"), (4, "final")]
    assert all(folder.is_dir() and reward is not None for _, _, folder, reward in recorder.saved)
    assert {phase for phase, _, _ in recorder.phases} == {"starting", "warming_up", "training", "evaluating"}
    assert all(len(shown) == 6 for shown in recorder.shown.values())


def test_learning_rate_rises_and_falls_as_its_schedule_says(uninterrupted, tmp_path):
    home, whole = uninterrupted
    peak = SHORT.learning_rate
    assert [whole.points["lr", step] for step in (1, 4)] == pytest.approx([peak / 5, peak * 4 / 5])
    recorder = Recorder()
    linear = SHORT.with_values(lr_schedule="linear", lr_warmup_steps=0, train_steps=2)
    run(linear, tmp_path / "run", recorder, home / "warm_starts")
    assert [recorder.points["lr", step] for step in (1, 2)] == pytest.approx([peak, peak * 0.55])


def test_on_policy_gap_is_zero_and_after_the_update_never_negative(uninterrupted):
    _, recorder = uninterrupted
    for (name, _), value in recorder.points.items():
        if name == "bound/gap":
            assert value == 0
        if name == "bound/gap_after":
            assert value >= -1e-12


@pytest.mark.parametrize(
    "stop_after", [3, 90, *(pytest.param(unit, marks=pytest.mark.slow) for unit in (25, 31, 34, 45, 60))]
)
def test_stopped_and_resumed_equals_uninterrupted(uninterrupted, tmp_path, stop_after):
    """Stopped in the warm start, in an evaluation, in a rollout, between likelihood passes."""
    home, whole = uninterrupted
    first = Recorder(stop_after)
    outcome = run(SHORT, tmp_path / "run", first, tmp_path / "warm_starts")
    assert outcome.status == "stopped"
    assert first.asked == stop_after + 1, "it went on after it was asked to stop"
    second = Recorder()
    assert run(SHORT, tmp_path / "run", second, tmp_path / "warm_starts").status == "finished"
    assert_same_weights(tmp_path / "run/checkpoints/step-000004", home / "run/checkpoints/step-000004")
    both = first.reproducible | second.reproducible
    warm = {key: value for key, value in both.items() if key[0] == "warmup/loss"}
    assert {key: value for key, value in both.items() if key not in warm} == {
        key: value for key, value in whole.reproducible.items() if key[0] != "warmup/loss"
    }


def test_resume_from_the_last_checkpoint_after_a_crash(uninterrupted, tmp_path):
    home, _ = uninterrupted

    class Crash(Recorder):
        def metrics(self, step, values):
            super().metrics(step, values)
            if step == 3:
                raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        run(SHORT, tmp_path / "run", Crash(), home / "warm_starts")
    second = Recorder()
    assert run(SHORT, tmp_path / "run", second, home / "warm_starts").status == "finished"
    assert min(step for name, step in second.points if name == "reward/mean") == 3, "step 2's checkpoint was not used"
    assert_same_weights(tmp_path / "run/checkpoints/step-000004", home / "run/checkpoints/step-000004")


def test_second_run_skips_the_warm_start(uninterrupted, tmp_path):
    home, whole = uninterrupted
    again = Recorder()
    run(SHORT, tmp_path / "run", again, home / "warm_starts")
    assert not any(name == "warmup/loss" for name, _ in again.points)
    assert again.reproducible == {k: v for k, v in whole.reproducible.items() if k[0] != "warmup/loss"}


def test_bgpo_and_the_plain_objective_are_the_same_run_on_policy(uninterrupted, tmp_path):
    """Same curves to the last bit, same weights, and several times the memory."""
    home, whole = uninterrupted
    plain = Recorder()
    run(SHORT.with_values(objective="elbo"), tmp_path / "run", plain, home / "warm_starts")
    assert plain.reproducible == {k: v for k, v in whole.reproducible.items() if k[0] != "warmup/loss"}
    assert_same_weights(tmp_path / "run/checkpoints/step-000004", home / "run/checkpoints/step-000004")
    assert plain.points["memory/saved_mb", 1] > 2.5 * whole.points["memory/saved_mb", 1]


@pytest.mark.parametrize("token_budget", [13, 10_000])
def test_rollouts_and_masks_do_not_depend_on_the_token_budget(uninterrupted, tmp_path, token_budget):
    home, whole = uninterrupted
    recorder = Recorder()
    run(SHORT.with_values(token_budget=token_budget, train_steps=1), tmp_path / "run", recorder, home / "warm_starts")
    assert recorder.points["reward/mean", 1] == whole.points["reward/mean", 1]
    assert recorder.points["elbo/mean", 1] == pytest.approx(whole.points["elbo/mean", 1], rel=1e-5)
    assert recorder.points["grad/norm", 1] == pytest.approx(whole.points["grad/norm", 1], rel=1e-4)


def test_several_updates_leave_the_policy_and_keep_the_bound(uninterrupted, tmp_path):
    home, _ = uninterrupted
    recorder = Recorder()
    config = SHORT.with_values(updates_per_rollout=3, learning_rate=3e-3, lr_warmup_steps=0, train_steps=2)
    run(config, tmp_path / "run", recorder, home / "warm_starts")
    gaps = [value for (name, _), value in recorder.points.items() if name == "bound/gap"]
    assert all(gap > 0 for gap in gaps)


@pytest.mark.parametrize("objective", ["bgpo", "elbo"])
def test_a_step_without_signal_changes_nothing(uninterrupted, tmp_path, monkeypatch, objective):
    home, _ = uninterrupted
    monkeypatch.setattr(Adder, "reward", lambda *_: Reward(1.0, "always"))
    recorder = Recorder()
    config = SHORT.with_values(objective=objective, train_steps=2)
    run(config, tmp_path / "run", recorder, home / "warm_starts")
    assert recorder.points["groups/live_fraction", 1] == 0 and recorder.points["grad/norm", 1] == 0
    assert_same_weights(tmp_path / "run/checkpoints/step-000002", tmp_path / "run/checkpoints/step-000000")


def test_divergence_is_a_sentence_and_leaves_the_weights(uninterrupted, tmp_path, monkeypatch):
    home, _ = uninterrupted
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda *_: torch.tensor(math.nan))
    with pytest.raises(ArithmeticError, match="Lower learning_rate"):
        run(SHORT, tmp_path / "run", Recorder(), home / "warm_starts")


def test_cache_key_depends_on_what_makes_a_warm_start_and_on_nothing_else():
    key = warmup.cache_key(SHORT)
    for change in ({"seed": 1}, {"warmup_steps": 31}, {"task": "stack_programs"}, {"correct_fraction": 0.5}):
        assert warmup.cache_key(SHORT.with_values(**change)) != key
    for change in ({"mc_samples": 9}, {"objective": "elbo"}, {"train_steps": 9}, {"learning_rate": 1e-3}):
        assert warmup.cache_key(SHORT.with_values(**change)) == key


def test_nothing_seeds_the_global_generator(uninterrupted, tmp_path):
    home, _ = uninterrupted
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    run(SHORT.with_values(train_steps=1), tmp_path / "run", Recorder(), home / "warm_starts")
    assert torch.equal(torch.rand(3), expected)
