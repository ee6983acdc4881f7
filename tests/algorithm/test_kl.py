"""The KL estimators, on a small distribution that can be summed over."""

from __future__ import annotations

import pytest
import torch

from bgpo.algorithm.kl import KL_ESTIMATORS

X = torch.linspace(-3, 3, 101, dtype=torch.float64)


def logits(seed: int) -> torch.Tensor:
    return torch.randn(7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_definitions():
    expected = {"k1": X, "k2": X**2 / 2, "k3": torch.expm1(-X) + X}
    assert list(KL_ESTIMATORS) == list(expected)
    for name, estimator in KL_ESTIMATORS.items():
        torch.testing.assert_close(estimator(X), expected[name])


@pytest.mark.parametrize("name", KL_ESTIMATORS)
def test_zero_where_the_policies_agree(name):
    assert KL_ESTIMATORS[name](torch.zeros(3)).eq(0).all()


@pytest.mark.parametrize("name", ["k2", "k3"])
def test_never_negative(name):
    assert KL_ESTIMATORS[name](X).min() >= 0


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_mean_over_the_policy_is_the_kl(name):
    p, reference = logits(0).log_softmax(0), logits(1).log_softmax(0)
    kl = torch.nn.functional.kl_div(reference, p, log_target=True, reduction="sum")
    torch.testing.assert_close((p.exp() * KL_ESTIMATORS[name](p - reference)).sum(), kl)


@pytest.mark.parametrize("name, holds_back", [("k1", False), ("k2", True)])
def test_mean_gradient_as_a_loss(name, holds_back):
    """That of k1 is zero, whatever the reference; that of k2 is the KL's own."""
    own, reference = logits(0).requires_grad_(), logits(1).log_softmax(0)
    p = own.log_softmax(0)
    got, = torch.autograd.grad((p.detach().exp() * KL_ESTIMATORS[name](p - reference)).sum(), own, retain_graph=True)
    kl, = torch.autograd.grad((p.exp() * (p - reference)).sum(), own)
    torch.testing.assert_close(got, kl if holds_back else torch.zeros_like(kl), rtol=0, atol=1e-14)
