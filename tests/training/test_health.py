"""Each rule raises on its pattern, once, and keeps quiet in a run that learns."""

from __future__ import annotations

import math
import random

import pytest

from bgpo.config import TrainConfig
from bgpo.training import health
from bgpo.training.health import CLEAR_STEPS, RULES, WATCHED, WINDOW, Alert, Health
from bgpo.training.metrics import METRICS

CONFIG = TrainConfig(group_size=16, prompts_per_step=16, max_grad_norm=0.3)
# added to the trainer after the rules that read them


def healthy(step: int, noise: random.Random | None = None, steps: int = 100) -> dict[str, float]:
    """A run that learns: rewards rise; signal, diversity, length and entropy go down with success."""
    done = step / steps
    shake = noise.gauss if noise else lambda mean, spread: 0.0
    reward = min(1.0, max(0.0, 0.3 + 0.65 * done + shake(0, 0.08)))
    return {
        "reward/mean": reward, "groups/live_fraction": max(0.0, 1 - 0.7 * done + shake(0, 0.05)),
        "groups/distinct_fraction": 0.3 - 0.2 * done, "completion/tokens": 8 - 5 * done,
        "ratio/ess_after": 0.97, "log_ratio/p05_after": -0.05, "log_ratio/p95_after": 0.05,
        "bound/gap": 0.0, "bound/gap_after": 1e-4 * math.exp(shake(0, 1)), "policy/entropy": 0.4 * (1 - done) + 0.001,
        "grad/norm": math.exp(shake(0, 0.7)),  # always above the clip, as in the presets
    }


# what keeps rules quiet that would rightly speak up as well when the reward falls
ELSE_FINE = {"groups_distinct_fraction": 0.3, "policy_entropy": 0.3, "completion_tokens": 8.0}


def observe(steps, config: TrainConfig = CONFIG) -> list[Alert]:
    """Of rewards of 0 or 1, where the steps do not say how many answers are right."""
    watch = Health(config)
    whole = ((step, {"reward/solved": values.get("reward/mean", math.nan)} | values) for step, values in steps)
    return [alert for step, values in whole for alert in watch.observe(step, values)]


def named(alerts: list[Alert]) -> list[str]:
    return [alert.name for alert in alerts]


def bad_from(begin: int, end: int = 100, **bad: float):
    """Healthy steps whose metrics of these names (`reward_mean` is reward/mean) are replaced from `begin` on."""
    changed = {name.replace("_", "/", 1) if "log_ratio" not in name else name.replace("log_ratio_", "log_ratio/"): value
               for name, value in bad.items()}
    assert changed.keys() <= WATCHED
    return [(step, healthy(step) | (changed if step >= begin else {})) for step in range(1, end + 1)]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("steps", [60, 700])
def test_a_run_that_learns_raises_nothing(seed, steps):
    noise = random.Random(seed)
    assert observe((step, healthy(step, noise, steps)) for step in range(1, steps + 1)) == []


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("spread", [0.02, 0.1, 0.2])
def test_noise_on_a_level_reward_raises_nothing(level, spread):
    noise = random.Random(1)
    steps = [
        (step, healthy(1) | {"reward/mean": min(1.0, max(0.0, noise.gauss(level, spread))),
                             "groups/live_fraction": min(1.0, max(0.0, noise.gauss(0.5, 2 * spread)))})
        for step in range(1, 1001)
    ]
    assert observe(steps) == []


def test_reward_and_live_groups_that_fall_together_are_a_collapse():
    (alert,) = observe(bad_from(60, reward_mean=0.1, groups_live_fraction=0.1, **ELSE_FINE))
    assert (alert.name, alert.severity) == ("collapse", "serious")
    assert 60 < alert.step <= 60 + WINDOW
    assert "down from 0.6" in alert.message and "learning_rate" in alert.message


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_decay_under_noise_is_found_in_longer_windows(seed):
    noise = random.Random(seed)
    steps = [(s, healthy(1) | {"reward/mean": min(1.0, max(0.0, noise.gauss(0.6 if s < 60 else 0.25, 0.15))),
                               "groups/live_fraction": 0.9 if s < 60 else 0.4}) for s in range(1, 140)]
    found = observe(steps)
    assert named(found) == ["collapse"] and 60 < found[0].step < 110


def test_live_groups_that_fall_while_the_reward_rises_are_success():
    assert observe(bad_from(60, groups_live_fraction=0.05)) == []


def test_a_reward_that_falls_while_groups_stay_live_is_a_warning():
    (alert,) = observe(bad_from(60, reward_mean=0.2, groups_live_fraction=1.0, **ELSE_FINE))
    assert (alert.name, alert.severity) == ("reward_falling", "warning")


def test_completions_that_shrink_without_reward():
    steps = [(s, healthy(1) | {"completion/tokens": 100 if s < 40 else 30}) for s in range(1, 80)]
    (alert,) = observe(steps)
    assert alert.name == "shrinking_completions" and "from 100.0 to" in alert.message
    assert observe(bad_from(40, completion_tokens=2)) == []  # the reward rises: it has learnt to be brief


@pytest.mark.parametrize("bad", [
    {"ratio_ess_after": 0.3}, {"log_ratio_p95_after": 1.2}, {"log_ratio_p05_after": -1.2},
])
def test_a_policy_that_moves_too_far(bad):
    (alert,) = observe(bad_from(40, **bad))
    assert alert.name == "policy_drift" and "lower learning_rate" in alert.message
    (value,) = bad.values()
    assert f"{value:.0%}" in alert.message or f"{value:.2f} nats" in alert.message


def test_off_policy_drift_names_the_knob_that_causes_it():
    config = CONFIG.with_values(updates_per_rollout=4)
    assert "updates_per_rollout or learning_rate" in observe(bad_from(40, ratio_ess_after=0.1), config)[0].message


def test_one_odd_step_is_no_drift():
    odd = {"ratio/ess_after": 0.01, "log_ratio/p95_after": 9.0, "grad/norm": 1e6, "reward/mean": 0.0}
    assert observe((s, healthy(s) | (odd if s == 50 else {})) for s in range(1, 101)) == []


def test_no_group_with_a_signal():
    alerts = observe((s, healthy(1) | {"reward/mean": 0.0, "groups/live_fraction": 0.0}) for s in range(1, 30))
    assert named(alerts) == ["no_signal"] and alerts[0].step == health.DEAD_STEPS
    assert "warmup_steps" in alerts[0].message
    (lost,) = observe((s, healthy(1) | ({"reward/mean": 0.0, "groups/live_fraction": 0.0} if s > 1 else {}))
                      for s in range(1, 30))
    assert "lower learning_rate: it once had 0.31" in lost.message
    (stuck,) = observe((s, healthy(1) | {"reward/mean": 0.5, "groups/live_fraction": 0.0}) for s in range(1, 30))
    assert "temperature" in stuck.message
    assert observe((s, healthy(1) | {"reward/mean": 1.0, "groups/live_fraction": 0.0}) for s in range(1, 99)) == []


def test_few_groups_per_step_need_more_steps_without_signal():
    steps = [(s, healthy(1) | {"reward/mean": 0.5, "groups/live_fraction": 0.0}) for s in range(1, 65)]
    (alert,) = observe(steps, CONFIG.with_values(prompts_per_step=2))
    assert alert.step == 32


@pytest.mark.parametrize(("group_size", "same", "fine"), [(2, 0.5, 0.6), (4, 0.26, 0.4), (16, 0.08, 0.15)])
def test_completions_that_are_all_the_same(group_size, same, fine):
    config = CONFIG.with_values(group_size=group_size)
    steps = [[(s, healthy(1) | {"groups/distinct_fraction": share}) for s in range(1, 40)] for share in (same, fine)]
    assert named(observe(steps[0], config)) == ["same_answers"]
    assert observe(steps[1], config) == []
    solved = [(s, values | {"reward/mean": 0.9}) for s, values in steps[0]]
    assert observe(solved, config) == []


@pytest.mark.parametrize(("name", "bad"), [
    ("no_signal", {"groups/live_fraction": 0.0}), ("same_answers", {"groups/distinct_fraction": 0.08}),
    ("no_entropy", {"policy/entropy": 0.001}),
])
def test_a_reward_that_pays_for_the_form_of_wrong_answers_is_no_success(name, bad):
    def paid(right):
        return observe((s, healthy(1) | bad | {"reward/mean": 1.6, "reward/solved": right}) for s in range(1, 40))

    assert named(paid(0.1)) == [name] and paid(1.0) == []


def test_a_bound_above_the_objective_is_said_at_once():
    (alert,) = observe(bad_from(50, bound_gap_after=-1e-3))
    assert (alert.name, alert.severity, alert.step) == ("trainer_wrong", "serious", 50)
    assert observe(bad_from(50, bound_gap_after=-1e-12)) == []


def test_a_gap_at_an_on_policy_update_is_wrong_and_off_policy_it_is_not():
    assert named(observe(bad_from(50, bound_gap=1e-3))) == ["trainer_wrong"]
    assert observe(bad_from(50, bound_gap=1e-3), CONFIG.with_values(updates_per_rollout=2)) == []


def test_entropy_near_zero_before_the_task_is_solved():
    steps = [(s, healthy(1) | {"policy/entropy": 0.4 if s < 20 else 0.001}) for s in range(1, 60)]
    (alert,) = observe(steps)
    assert alert.name == "no_entropy" and "0.001 nats" in alert.message
    assert observe((s, v | {"reward/mean": 0.9}) for s, v in steps) == []


def test_clipping_far_above_the_clip_without_progress():
    steps = [(s, healthy(1) | {"grad/norm": 30.0}) for s in range(1, 80)]
    (alert,) = observe(steps)
    assert (alert.name, alert.step) == ("always_clipped", health.CLIP_WINDOW)
    assert "clipped in 50 of 50 steps" in alert.message
    assert observe((s, v | {"reward/mean": 0.3 + s / 200}) for s, v in steps) == []
    assert observe((s, v | {"grad/norm": 0.9}) for s, v in steps) == []


def test_a_gradient_that_explodes_and_hurts():
    steps = [(s, healthy(1) | {"grad/norm": 1.0 if s < 40 else 50.0, "reward/mean": 0.6 if s < 40 else 0.5})
             for s in range(1, 60)]
    (alert,) = observe(steps)
    assert (alert.name, alert.severity) == ("exploding_gradient", "serious")
    assert "jumped to 50, where 1 was usual" in alert.message
    assert observe((s, v | {"reward/mean": 0.6}) for s, v in steps) == []


def test_an_alert_comes_when_a_condition_begins_and_again_only_after_it_was_gone():
    def steps(gone: int):
        for step in range(1, 200):
            low = 20 <= step < 60 or step >= 60 + gone
            yield step, healthy(1) | {"ratio/ess_after": 0.1 if low else 0.9}

    assert len(observe(steps(gone=CLEAR_STEPS // 2))) == 1
    again = observe(steps(gone=CLEAR_STEPS + WINDOW))
    assert named(again) == ["policy_drift"] * 2 and again[1].step > 60 + CLEAR_STEPS


def test_a_resumed_run_goes_on_as_if_it_had_not_been_interrupted():
    steps = bad_from(60, end=200, reward_mean=0.1, groups_live_fraction=0.1, ratio_ess_after=0.2)
    whole = observe(steps)
    assert len(whole) == 5
    for stop in (1, 30, 62, 64, 66, 150):
        again = Health(CONFIG)
        before = [alert for step, values in steps[:stop] for alert in again.observe(step, values)]
        checkpoint = max(0, stop - 5)  # the process has died; the steps after its checkpoint are trained again
        after = [alert for step, values in steps[checkpoint:] for alert in again.observe(step, values)]
        assert before + after == whole


def test_what_a_run_does_not_log_is_not_judged():
    for name in sorted(WATCHED):
        kept = {"reward/mean": 0.5, "lr": 1e-3, name: math.nan}
        assert observe((step, kept) for step in range(1, 100)) == []
    assert observe((step, {"warmup/loss": 3.0}) for step in range(1, 100)) == []


def test_a_metric_that_is_missing_at_this_step_is_not_judged_by_older_steps():
    low = [(step, {"ratio/ess_after": 0.1}) for step in range(1, WINDOW)]
    assert observe([*low, (WINDOW, {"reward/mean": 0.5}), (WINDOW + 1, {"reward/mean": 0.5})]) == []


def test_state_stays_small():
    watch = Health(CONFIG)
    for step in range(1, 3000):
        watch.observe(step, healthy(step % 100) | {"reward/solved": 0.5})
    series = watch._history._series
    assert set(series) == WATCHED
    assert all(len(one.recent) == health.MEMORY and len(one.first) == WINDOW for one in series.values())


def test_rules_have_names_of_their_own_and_read_known_metrics():
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert METRICS.keys() >= WATCHED
