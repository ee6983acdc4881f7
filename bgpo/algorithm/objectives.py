"""Objectives: one function each, to be maximised. Tensors in, one value per completion out.

    paper                 here                      shape
    n_t                   K                         number of mask draws
    ell_j (theta)         elbo[:, j]                (B, K) ELBO estimate of draw j
    ell_j (theta_old)     old_elbo[:, j]            (B, K) the same masks under the old policy
    d_j                   log_ratio = elbo - old    (B, K)
    delta                 log_ratio.mean(-1)        (B,)
    A                     advantage                 (B,)
    log p(y_i | ...)      logprob[:, j, i]          (B, K, L) where `scored`, else 0

A sequence-level objective takes (elbo, old_elbo, advantage), a token-level one (logprob, old_logprob, scored,
weight, advantage). What else it needs is a keyword-only argument, filled by name from the config
(`clip_epsilon`, `eubo_beta`, ...) or from the step (`length`, `tokens`, `anchor`, `center`): see `surrogate.py`.
A new objective is a function and an entry of OBJECTIVES; the form, the command line and the comparison
read that table.

Everything is float32 or wider. Linear branches stay linear as written: exp(log(1 + d)) is NaN for d <= -1. The
module names torch types only for readers, so a form can list OBJECTIVES without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


# ---- BGPO and what it bounds ---------------------------------------------------------------------------------------


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
    return advantage * _linear_or_exp(elbo - old_elbo, advantage).mean(-1)


def bgpo_clipped(elbo: Tensor, old_elbo: Tensor, advantage: Tensor, *, clip_epsilon: float) -> Tensor:
    """BGPO with PPO's clip on each draw's ratio r_j = 1 + d_j or exp(d_j), as its published lineage trains.

    Still a lower bound, of the sequence-level clipped objective min(A r, A clip(r)) with r = exp(delta): min(1 + d,
    1 + e) is concave and max(exp(d), 1 - e) convex, so Jensen holds. PPO's dual clip is not (it is not convex), so it
    is not offered under this name. Shapes as in `bgpo`.
    """
    ratio = _linear_or_exp(elbo - old_elbo, advantage)
    return _clipped(ratio, advantage[:, None], clip_epsilon).mean(-1)


def bgpo_reanchored(
    elbo: Tensor, old_elbo: Tensor, advantage: Tensor, *, anchor: Tensor, center: Tensor
) -> Tensor:
    """BGPO's bound made tight at the previous update instead of at the old policy, for several updates per rollout.

        A >= 0:  A e^c (1 + delta - c)             the tangent of exp at c
        A <  0:  (A / K) sum_j exp(d_j - b_j)      Jensen with weights e^{b_j}

    with c the mean log ratio and b_j = (log ratio of draw j) - c at the previous update. A lower bound of A exp(delta)
    for every policy, equal in value and gradient at the anchor; c = b = 0 is `bgpo`. Linear, like it.

    Args:
        anchor: (B, k) the draws' log ratios at the anchor; center: (B,) their mean over all K draws.
    """
    log_ratio, c = elbo - old_elbo, center[:, None]
    negative = (advantage < 0)[:, None]
    tangent = c.exp() * (1 + log_ratio - c)
    return advantage * tangent.where(~negative, (log_ratio - anchor + c).where(negative, 0.0).exp()).mean(-1)


def elbo(elbo: Tensor, old_elbo: Tensor, advantage: Tensor) -> Tensor:
    """The objective that BGPO bounds, VRPO-style online (arXiv 2510.11683, eqs. 6 and 7).

        R = A exp(delta),   delta = mean_j d_j

    The mean sits inside the exponential, so the gradient of one draw needs all of them.

    Args:
        elbo, old_elbo: (B, K), all draws.
        advantage: (B,).

    Returns:
        (B,) values.
    """
    return advantage * (elbo - old_elbo).mean(-1).exp()


# ---- rivals with a sequence-level likelihood -----------------------------------------------------------------------


def gdpo(elbo: Tensor, old_elbo: Tensor, advantage: Tensor, *, clip_epsilon: float, length: int) -> Tensor:
    """GDPO (arXiv 2510.08554): the clipped sequence ratio exp(B - B_old) over Gauss nodes, divided by the length."""
    ratio = (elbo - old_elbo).mean(-1).exp()
    return _clipped(ratio, advantage, clip_epsilon) / length


def espo(elbo: Tensor, old_elbo: Tensor, advantage: Tensor, *, clip_epsilon: float) -> Tensor:
    """ESPO (arXiv 2512.03759): the clipped sequence ratio exp((B - B_old) / L).

    The division by L is the caller's (`length_normalization`); draws are complementary pairs.
    """
    ratio = (elbo - old_elbo).mean(-1).exp()
    return _clipped(ratio, advantage, clip_epsilon)


def spg_eubo(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *,
    eubo_beta: float, length: int,
) -> Tensor:
    """SPG (arXiv 2510.09541) with the evidence upper bound for A < 0: A ELBO / L if A >= 0, else A EUBO / L.

        EUBO = (1/beta) sum_i log E[ w 1(i masked) p_i^beta ],  beta >= 1

    A policy gradient: no ratio, no clip. The weights of a position are divided by their sum over the draws (they
    average to 1), and a position that no draw scored adds nothing.
    """
    return _spg(logprob, scored, weight, advantage, eubo_beta, 1.0, length)


def spg_mixture(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *,
    eubo_beta: float, eubo_share: float, length: int,
) -> Tensor:
    """SPG with omega EUBO + (1 - omega) ELBO for A < 0; omega = `eubo_share`, 0.5 as published."""
    return _spg(logprob, scored, weight, advantage, eubo_beta, eubo_share, length)


# ---- rivals with a token-level likelihood --------------------------------------------------------------------------


def diffu_grpo(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *,
    clip_epsilon: float, tokens: float,
) -> Tensor:
    """diffu-GRPO (d1, arXiv 2504.12216): clipped token ratios from one fully masked pass.

    Averaged over the written tokens of the whole step: `tokens` is their number per completion.
    """
    terms = _clipped((logprob - old_logprob).exp(), advantage[:, None, None], clip_epsilon)
    return step_token_mean(terms, scored, tokens)


def coupled_grpo(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *,
    clip_epsilon: float, tokens: float,
) -> Tensor:
    """coupled-GRPO (DiffuCoder, arXiv 2506.20639): diffu-GRPO on the coupled token log-probability of `couple`."""
    log_ratio, counted = couple(logprob - old_logprob, scored, weight)
    terms = _clipped(log_ratio.exp(), advantage[:, None, None], clip_epsilon)
    return step_token_mean(terms, counted, tokens)


def unigrpo(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *, clip_epsilon: float,
) -> Tensor:
    """UniGRPO (MMaDA, arXiv 2505.15809): clipped ratios of the tokens masked at one ratio, averaged over them."""
    terms = _clipped((logprob - old_logprob).exp(), advantage[:, None, None], clip_epsilon)
    return draw_token_mean(terms, scored)


def wd1(logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor) -> Tensor:
    """wd1 (arXiv 2507.08838): weighted log-likelihood of one fully masked pass; no ratio, no clip, no reference.

    `advantage` holds the weights of `softmax_weights`.
    """
    return advantage * (logprob * scored).sum(-1).mean(-1)


def tracerl(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *, clip_epsilon: float,
) -> Tensor:
    """TraceRL (arXiv 2509.06949): clipped token ratios on the slices of the rollout's own path, a mean per slice."""
    terms = _clipped((logprob - old_logprob).exp(), advantage[:, None, None], clip_epsilon)
    return draw_token_mean(terms, scored)


def agrpo(
    logprob: Tensor, old_logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, *,
    clip_epsilon: float, length: int,
) -> Tensor:
    """AGRPO (arXiv 2510.04019): clipped token ratios at Monte Carlo steps of the rollout, an unbiased sum over steps.

    `weight` is the number of steps; `old_logprob` is what the sampler drew with, at its temperature. Divided by L.
    """
    terms = _clipped((logprob - old_logprob).exp(), advantage[:, None, None], clip_epsilon)
    return path_mean(terms, scored, weight, length)


# ---- shared by several ---------------------------------------------------------------------------------------------


def step_token_mean(terms: Tensor, scored: Tensor, tokens: float) -> Tensor:
    """(B, K, L) -> (B,): the sum over a draw's scored tokens over the step's written tokens per completion."""
    return (terms * scored).sum(-1).mean(-1) / tokens


def draw_token_mean(terms: Tensor, scored: Tensor) -> Tensor:
    """(B, K, L) -> (B,): the mean over each draw's scored tokens, averaged over the draws."""
    count = scored.sum(-1)
    return ((terms * scored).sum(-1) / count.clamp(min=1)).mean(-1)


def path_mean(terms: Tensor, scored: Tensor, weight: Tensor, length: int) -> Tensor:
    """(B, K, L) -> (B,): the estimated sum over a rollout's steps, divided by the length."""
    return (weight * (terms * scored).sum(-1)).mean(-1) / length


def couple(logprob: Tensor, scored: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """coupled-GRPO's log p of a token: half of (fully masked pass + weight * the one of two passes that masks it).

    Args:
        logprob, scored: (B, 3, L); weight: (B, 3).

    Returns:
        (B, 1, L) log-probabilities and which of them count.
    """
    return (weight[..., None] * logprob * scored).sum(1, keepdim=True) / 2, scored[:, :1]


def softmax_weights(advantage: Tensor) -> Tensor:
    """wd1's weights G (softmax(A) - softmax(-A)) within each group: (P, G) -> (P, G). Equal advantages cancel."""
    return advantage.shape[-1] * (advantage.softmax(-1) - (-advantage).softmax(-1))


def _linear_or_exp(log_ratio: Tensor, advantage: Tensor) -> Tensor:
    """1 + d where A >= 0, exp(d) where A < 0."""
    negative = (advantage < 0)[:, None]
    # exp only sees the negative branch: a `where` over an overflowing exp has a NaN gradient
    return (1 + log_ratio).where(~negative, log_ratio.where(negative, 0.0).exp())


def _clipped(ratio: Tensor, advantage: Tensor, epsilon: float) -> Tensor:
    """PPO's min(r A, clip(r, 1 - e, 1 + e) A)."""
    return (ratio * advantage).minimum(ratio.clamp(1 - epsilon, 1 + epsilon) * advantage)


def _spg(
    logprob: Tensor, scored: Tensor, weight: Tensor, advantage: Tensor, beta: float, share: float, length: int
) -> Tensor:
    lower = (weight * (logprob * scored).sum(-1)).mean(-1)
    upper = eubo(logprob, scored, weight, beta)
    return advantage * lower.where(advantage >= 0, share * upper + (1 - share) * lower) / length


def eubo(logprob: Tensor, scored: Tensor, weight: Tensor, beta: float) -> Tensor:
    """(B, K, L) -> (B,) Renyi upper-bound surrogate of SPG, self-normalised weights; exact if the masks are enumerated.

    beta -> 0 tends to the (self-normalised) ELBO; beta = 1 is the sum of logs of the weighted mean probability.
    """
    share = weight[..., None] * scored  # (B, K, L)
    total = share.sum(1)
    seen = total > 0
    # an exponent of 0 outside the scored positions keeps their gradient finite; their share is 0
    mean = (share * (beta * logprob.where(scored, 0.0)).exp()).sum(1) / total.where(seen, 1.0)
    return mean.where(seen, 1.0).log().sum(-1) / beta


@dataclass(frozen=True)
class Objective:
    """An entry of OBJECTIVES.

    Attributes:
        level: "sequence" or "token", which of the two signatures `value` has.
        separable: a mean of terms that need one mask draw each, so that the trainer may back-propagate
            draw by draw and free each graph. This is the paper's central claim as one attribute.
        retained: keep every draw's graph until backward, as the plain objective is usually trained. An objective that
            is neither separable nor retained takes two passes: values first, then gradients draw by draw.
        ratio_only: the values enter as log ratios alone, so on-policy the first pass is not needed.
        uses_old: the value depends on the old policy.
        anchored: takes the log ratios of the previous update.
        old_for_negative_only: where A >= 0 the gradient does not depend on the old policy.
        draws: the mask draws it is published with; `fixed_draws`: no others make sense.
        prompt_masked: hides 15 % of the prompt, too, and of the blocks before a draw's own.
        redraw: published with fresh masks at each update of the same rollout.
        normalize_by_length: published with the ELBO divided by the length before it enters.
        weigh: (P, G) advantages -> weights that take their place, or None.
        sampler_head: scores with the sampler's temperature and the log-probabilities that it drew with.
        reduce: (log-probability difference, scored, weight) -> what a token's KL is taken of, or None.
        aggregate: terms per token -> (B,), for the KL of a token-level objective: by its name.
        published: knob values of its paper, other than the draws.
        source: paper.
    """

    name: str
    title: str
    value: Callable[..., Tensor]
    summary: str
    source: str
    level: str = "sequence"
    separable: bool = False
    retained: bool = False
    ratio_only: bool = True
    uses_old: bool = True
    anchored: bool = False
    old_for_negative_only: bool = False
    draws: str = "stratified"
    fixed_draws: bool = False
    prompt_masked: bool = False
    redraw: bool = False
    normalize_by_length: bool = True
    weigh: Callable[[Tensor], Tensor] | None = None
    sampler_head: bool = False
    reduce: Callable[..., tuple[Tensor, Tensor]] | None = None
    aggregate: Callable[..., Tensor] | None = None
    published: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def memory(self) -> str:
        """What happens to the graphs, in words."""
        if self.separable:
            return "each freed at once"
        if self.retained:
            return "all held until the backward pass"
        return "each freed at once, after a pass for the values"


def _table(*entries: Objective) -> dict[str, Objective]:
    return {entry.name: entry for entry in entries}


OBJECTIVES: dict[str, Objective] = _table(
    Objective(
        "bgpo", "BGPO", bgpo, "BGPO's linear bound: constant memory in mc_samples.", "arXiv 2510.11683",
        separable=True, old_for_negative_only=True,
        published={"advantage": "std", "mc_samples": 16, "updates_per_rollout": 1},
    ),
    Objective(
        "bgpo_clipped", "BGPO, clipped", bgpo_clipped,
        "The bound with a clip on each draw's ratio; bounds the clipped ELBO objective.", "arXiv 2510.11683, its code",
        separable=True, published={"advantage": "std", "clip_epsilon": 0.2, "mc_samples": 16},
    ),
    Objective(
        "bgpo_reanchored", "BGPO, re-anchored", bgpo_reanchored,
        "The bound made tight again at every update of a rollout; for several updates per rollout.", "derived here",
        separable=True, anchored=True, published={"advantage": "mean"},
    ),
    Objective(
        "elbo", "ELBO, graphs held", elbo, "The plain ELBO objective: keeps every draw's graph until backward.",
        "arXiv 2510.11683, eqs. 6 and 7", retained=True, published={"advantage": "std"},
    ),
    Objective(
        "elbo_two_pass", "ELBO, two passes", elbo,
        "The plain ELBO objective's exact gradient at constant memory: values first, then gradients draw by draw.",
        "derived here", published={"advantage": "std"},
    ),
    Objective(
        "espo", "ESPO", espo, "Clipped sequence ratio of the ELBO, complementary mask pairs.", "arXiv 2512.03759",
        draws="complementary", redraw=True,
        published={"advantage": "leave_one_out", "clip_epsilon": 0.2, "kl_coefficient": 1e-3, "kl_estimator": "k2",
                   "updates_per_rollout": 8, "mc_samples": 4},
    ),
    Objective(
        "gdpo", "GDPO", gdpo, "Clipped sequence ratio of an ELBO at Gauss nodes.", "arXiv 2510.08554",
        draws="gauss", normalize_by_length=False,
        published={"advantage": "mean", "clip_epsilon": 0.5, "mc_samples": 3},
    ),
    Objective(
        "spg_eubo", "SPG, EUBO", spg_eubo, "Policy gradient: ELBO for good completions, an upper bound for bad ones.",
        "arXiv 2510.09541", level="token", ratio_only=False, uses_old=False, draws="block", prompt_masked=True,
        redraw=True, normalize_by_length=False,
        published={"advantage": "mean", "eubo_beta": 1.5, "mc_samples": 2, "updates_per_rollout": 4},
    ),
    Objective(
        "spg_mixture", "SPG, mixture", spg_mixture, "SPG with half upper, half lower bound for bad completions.",
        "arXiv 2510.09541", level="token", ratio_only=False, uses_old=False, draws="block", prompt_masked=True,
        redraw=True, normalize_by_length=False,
        published={"advantage": "mean", "eubo_beta": 1.5, "eubo_share": 0.5, "mc_samples": 2, "updates_per_rollout": 4},
    ),
    Objective(
        "diffu_grpo", "diffu-GRPO (d1)", diffu_grpo, "Clipped token ratios of one fully masked pass.",
        "arXiv 2504.12216", level="token", separable=True, draws="full", fixed_draws=True, prompt_masked=True,
        redraw=True, aggregate=step_token_mean,
        published={"advantage": "mean", "clip_epsilon": 0.5, "kl_coefficient": 0.04, "kl_estimator": "k3",
                   "updates_per_rollout": 12},
    ),
    Objective(
        "coupled_grpo", "coupled-GRPO", coupled_grpo,
        "Clipped token ratios of three passes: all masked, and two that complement each other.", "arXiv 2506.20639",
        level="token", draws="coupled", fixed_draws=True, redraw=True, reduce=couple, aggregate=step_token_mean,
        published={"advantage": "leave_one_out", "clip_epsilon": 0.5, "kl_coefficient": 0.01, "kl_estimator": "k3",
                   "updates_per_rollout": 2},
    ),
    Objective(
        "unigrpo", "UniGRPO", unigrpo, "Clipped ratios of the tokens masked at one ratio, spread over the updates.",
        "arXiv 2505.15809", level="token", separable=True, draws="one_ratio", fixed_draws=True, redraw=True,
        aggregate=draw_token_mean,
        published={"advantage": "std", "clip_epsilon": 0.2, "kl_coefficient": 0.01, "kl_estimator": "k3"},
    ),
    Objective(
        "wd1", "wd1", wd1, "Weighted log-likelihood of one fully masked pass.", "arXiv 2507.08838",
        level="token", separable=True, uses_old=False, draws="full", fixed_draws=True, prompt_masked=True,
        redraw=True, weigh=softmax_weights, published={"advantage": "mean", "updates_per_rollout": 12},
    ),
    Objective(
        "tracerl", "TraceRL", tracerl, "Clipped token ratios along the rollout's own path, every slice of it.",
        "arXiv 2509.06949", level="token", separable=True, draws="trace_slices", fixed_draws=True,
        aggregate=draw_token_mean,
        published={"advantage": "std", "clip_epsilon": 0.2, "kl_coefficient": 0.01, "kl_estimator": "k3",
                   "kl_reference": "old"},
    ),
    Objective(
        "agrpo", "AGRPO", agrpo, "Clipped token ratios at Monte Carlo steps of the rollout's own path.",
        "arXiv 2510.04019", level="token", separable=True, draws="trace_steps", fixed_draws=True, sampler_head=True,
        aggregate=path_mean,
        published={"advantage": "mean", "clip_epsilon": 0.2, "mc_samples": 24, "updates_per_rollout": 1},
    ),
)
