"""The KL to a reference in whole runs: nothing at first, more as the policy leaves, less where it is held back."""

from __future__ import annotations

import pytest

from bgpo.algorithm.kl import KL_ESTIMATORS
from bgpo.config import TrainConfig
from bgpo.training.trainer import run
from tests.training.test_plugins import OWN_REWARD, Silent

CONFIG = TrainConfig(
    warmup_steps=4, warmup_examples=64, train_steps=3, prompts_per_step=4, group_size=4, mc_samples=3, eval_every=3,
    eval_problems=8, threads=1, token_budget=512, learning_rate=1e-3, lr_warmup_steps=0, max_grad_norm=10,
)


@pytest.fixture(scope="module")
def kl_of(tmp_path_factory):
    home = tmp_path_factory.mktemp("reference")
    (home / "reward.py").write_text(OWN_REWARD)

    def kl(**values) -> list[float]:
        listener = Silent()
        config = CONFIG.with_values(reward_file=str(home / "reward.py"), **values)
        run(config, tmp_path_factory.mktemp("run"), listener, home / "warm_starts")
        return [listener.points["kl/reference", step] for step in range(1, CONFIG.train_steps + 1)]

    return kl


@pytest.mark.parametrize("estimator", KL_ESTIMATORS)
@pytest.mark.parametrize("objective", ["bgpo", "diffu_grpo"])
def test_kl_to_the_start_is_zero_at_first_and_not_later(kl_of, estimator, objective):
    values = kl_of(objective=objective, kl_coefficient=1e-3, kl_estimator=estimator)
    assert abs(values[0]) < 1e-6
    assert abs(values[-1]) > 1e-4
    if estimator != "k1":
        assert min(values[1:]) > 10 * abs(values[0])


def test_larger_coefficient_holds_the_policy_closer(kl_of):
    assert kl_of(kl_coefficient=30.0)[-1] < 0.5 * kl_of(kl_coefficient=1e-3)[-1]


def test_kl_to_the_policy_of_the_rollouts_is_zero_at_every_first_update(kl_of):
    assert max(map(abs, kl_of(kl_coefficient=1.0, kl_reference="old"))) < 1e-6
