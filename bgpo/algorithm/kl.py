"""Estimators of KL(theta || reference) from samples of theta, with x = log p_theta - log p_reference.

k1 = x, k2 = x^2 / 2, k3 = exp(-x) - 1 + x (Schulman, "Approximating KL divergence"). On a sequence x is the
difference of the averaged ELBOs, on a token that of its log-probabilities. Torch-free to import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def k1(x: Tensor) -> Tensor:
    """Unbiased; as a loss its gradient is zero in the mean, so it holds nothing back."""
    return x


def k2(x: Tensor) -> Tensor:
    """Never negative; the gradient of (B - B_ref)^2 / 2 is (B - B_ref) times that of B (ESPO)."""
    return x.square() / 2


def k3(x: Tensor) -> Tensor:
    """Never negative and unbiased; its exponential is large where the reference is likelier (d1, TraceRL)."""
    return (-x).exp() - 1 + x


KL_ESTIMATORS: dict[str, Callable[[Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
