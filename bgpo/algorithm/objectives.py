"""Objectives: one function each, to be maximised. Tensors in, one value per completion out.

    paper                 here                      shape
    n_t                   K                         number of mask draws, the last axis
    ell_j (theta)         elbo[:, j]                (B, K) ELBO estimate of draw j
    ell_j (theta_old)     old_elbo[:, j]            (B, K) the same masks under the old policy
    d_j                   log_ratio = elbo - old    (B, K)
    delta                 log_ratio.mean(-1)        (B,)
    A                     advantage                 (B,)

Differences from the BGPO paper (arXiv 2510.11683): none in the formulas. Whether an ELBO is divided by
the completion length before it comes here is the caller's choice (`normalize_by_length`); the
paper's equations do not, its published lineage does.

Everything is float32 or wider. The positive branch stays linear as written: exp(log(1 + d)) is NaN
for d <= -1. The module names torch types only for readers, so a form can list OBJECTIVES without torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def bgpo(elbo: Tensor, old_elbo: Tensor, advantage: Tensor) -> Tensor:
    """BGPO's linear lower bound (arXiv 2510.11683, eqs. 9 to 14).

        g_j = (1 + d_j) A / K      if A >= 0     exp(u) >= 1 + u
        g_j = exp(d_j)  A / K      if A <  0     Jensen
        R_lb = sum_j g_j  <=  A exp(delta)       for every draw of masks

    Each term needs one mask draw, so each can be back-propagated and freed by itself.

    Args:
        elbo, old_elbo: (B, k) for any part k <= K of the draws.
        advantage: (B,).

    Returns:
        (B,) the mean of K g_j over the k draws given: weigh a part by k / K and sum the parts.
    """
    log_ratio = elbo - old_elbo
    negative = (advantage < 0)[:, None]
    # exp only sees the negative branch: a `where` over an overflowing exp has a NaN gradient
    ratio = (1 + log_ratio).where(~negative, log_ratio.where(negative, 0.0).exp())
    return advantage * ratio.mean(-1)


def elbo(elbo: Tensor, old_elbo: Tensor, advantage: Tensor) -> Tensor:
    """The objective that BGPO bounds, VRPO-style online (arXiv 2510.11683, eqs. 6 and 7).

        R = A exp(delta),   delta = mean_j d_j

    The mean sits inside the exponential, so the gradient of one draw needs all of them: every graph
    is held until the last.

    Args:
        elbo, old_elbo: (B, K), all draws.
        advantage: (B,).

    Returns:
        (B,) values.
    """
    return advantage * (elbo - old_elbo).mean(-1).exp()


@dataclass(frozen=True)
class Objective:
    """An entry of OBJECTIVES.

    `separable`: a mean of terms that need one mask draw each, so that the trainer may back-propagate
    draw by draw and free each graph. This is the paper's central claim as one attribute.
    """

    name: str
    value: Callable[[Tensor, Tensor, Tensor], Tensor]
    separable: bool
    summary: str


OBJECTIVES: dict[str, Objective] = {
    "bgpo": Objective("bgpo", bgpo, True, "BGPO's linear bound: constant memory in mc_samples."),
    "elbo": Objective("elbo", elbo, False, "The plain ELBO objective: keeps every draw's graph until backward."),
}
