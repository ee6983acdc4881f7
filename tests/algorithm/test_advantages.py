"""Advantages, by hand."""

import pytest
import torch

from bgpo.algorithm.advantages import ADVANTAGES

REWARDS = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]])


def test_mean():
    expected = torch.tensor([[0.5, -0.5, -0.5, 0.5], [0, 0, 0, 0], [0.75, -0.25, -0.25, -0.25]])
    torch.testing.assert_close(ADVANTAGES["mean"](REWARDS), expected)


def test_std_has_unit_spread_and_survives_equal_rewards():
    got = ADVANTAGES["std"](REWARDS)
    torch.testing.assert_close(got[0].std(), torch.tensor(1.0), rtol=1e-4, atol=0)
    assert (got[1] == 0).all()


@pytest.mark.parametrize("name", ["mean", "std", "leave_one_out"])
@pytest.mark.parametrize("reward", [0.1, 0.3, 1 / 3, 0.7, -0.1, 1e4 + 0.1])
def test_equal_rewards_are_no_signal_whatever_their_mean_is_rounded_to(name, reward):
    for group in (2, 3, 6, 7, 8, 12):
        assert not ADVANTAGES[name](torch.full((4, group), reward)).any()


def test_leave_one_out_compares_with_the_others():
    # the first of group 3: 1 - mean(0, 0, 0); the second: 0 - mean(1, 0, 0)
    torch.testing.assert_close(ADVANTAGES["leave_one_out"](REWARDS)[2], torch.tensor([1.0, -1 / 3, -1 / 3, -1 / 3]))


@pytest.mark.parametrize("name", ["mean", "std", "leave_one_out"])
def test_groups_are_centred(name):
    torch.testing.assert_close(ADVANTAGES[name](REWARDS).sum(1), torch.zeros(3), rtol=0, atol=1e-6)


def test_none_keeps_the_reward():
    assert torch.equal(ADVANTAGES["none"](REWARDS), REWARDS)
