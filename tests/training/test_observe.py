"""The gap by the sign of the advantage, and its Monte Carlo error."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from bgpo.training.observe import bound_metrics


def batch_of(advantage: torch.Tensor, count: torch.Tensor | None = None) -> SimpleNamespace:
    return SimpleNamespace(advantage=advantage, count=torch.ones_like(advantage) if count is None else count)


def drawn(seed: int, B: int, K: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log ratios of iid draws around each completion's own; advantages and the completions' parts are the same for
    every seed."""
    own = torch.Generator().manual_seed(1)
    advantage, centre = torch.randn(B, generator=own), 0.1 * torch.randn(B, 1, generator=own)
    noise = 0.4 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed))
    old = torch.randn(B, K, generator=own)
    return (old + centre + noise).double(), old.double(), advantage.double()


def test_the_parts_add_up_and_no_movement_is_no_gap():
    now, old, advantage = drawn(3, B=12, K=4)
    found = bound_metrics(now, old, batch_of(advantage), 20, "_after")
    assert found["bound/gap_after"] == pytest.approx(
        found["bound/gap_positive_after"] + found["bound/gap_negative_after"]
    )
    assert found["bound/gap_negative_after"] > 0 and found["bound/gap_after_se"] > 0
    still = bound_metrics(old, old, batch_of(advantage), 20, "")
    assert {still[name] for name in ("bound/gap", "bound/gap_positive", "bound/gap_negative", "bound/gap_se")} == {0}
    assert still["bound/value"] == still["bound/elbo_objective"] == pytest.approx(advantage.sum().item() / 20)


def test_one_draw_has_no_error():
    now, old, advantage = drawn(3, B=12, K=1)
    assert not any(name.endswith("_se") for name in bound_metrics(now, old, batch_of(advantage), 12, "_after"))


@pytest.mark.parametrize("K", [8, 64])
def test_the_error_is_what_repeating_the_draws_shows(K):
    """The scatter of the gap over 300 sets of draws, against the mean of the error that each set alone reports."""
    found = [bound_metrics(*drawn(seed, B=16, K=K)[:2], batch_of(drawn(seed, 16, K)[2]), 16, "_after")
             for seed in range(300)]
    scatter = torch.tensor([one["bound/gap_after"] for one in found]).std().item()
    reported = sum(one["bound/gap_after_se"] ** 2 for one in found) / len(found)
    assert reported**0.5 == pytest.approx(scatter, rel=0.25)
