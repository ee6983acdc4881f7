"""The mask draws of a step, and the completions worth scoring.

Everything is drawn for all completions first; dropping and merging come after and move no mask.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bgpo.algorithm.masking import (
    MASK_SCHEMES,
    DrawShape,
    MaskDraws,
    coupled,
    full,
    one_ratio,
    shared_in_groups,
    trace_slices,
    trace_steps,
    with_earlier_blocks_masked,
    with_prompt_masked,
)
from bgpo.algorithm.objectives import Objective
from bgpo.config import TrainConfig
from bgpo.training.likelihood import Batch
from bgpo.training.rollouts import Rollouts
from bgpo.training.seeds import torch_generator

_ON_PATH = ("trace_slices", "trace_steps")  # made from each rollout's own order


def draws_of(config: TrainConfig, objective: Objective, rollouts: Rollouts, step: int, update: int) -> MaskDraws:
    """The draws for all B completions at one update of a step; equal for every update unless masks are redrawn."""
    c, device = config, rollouts.completion_ids.device
    purpose = f"masks of update {update}" if redraws(c, objective) and update else "masks"
    generator = torch_generator(c.seed, purpose, step, device)
    scheme = scheme_of(c, objective)
    if scheme == "trace_slices":
        return trace_slices(rollouts.commit_step, c.trace_shrink)
    if scheme == "trace_steps":
        return trace_steps(rollouts.commit_step, rollouts.written, c.mc_samples, generator)
    P, G = rollouts.reward.shape
    shape = DrawShape(P if c.share_masks else P * G, c.mc_samples, c.completion_length, c.block_length)
    if scheme == "one_ratio":
        draws = one_ratio(shape, generator, update, c.updates_per_rollout)
    else:
        draws = {"full": full, "coupled": coupled, **MASK_SCHEMES}[scheme](shape, generator)
    if objective.prompt_masked:
        draws = with_prompt_masked(draws, rollouts.prompt_ids.shape[1], generator)
        if scheme == "block":
            draws = with_earlier_blocks_masked(draws, c.block_length, generator)
    if c.share_masks:
        draws = shared_in_groups(draws, G)
    if scheme in ("full", "coupled"):
        return draws.scoring_only(rollouts.written)
    drawn = rollouts.commit_step > 0  # what fills up an ended completion is not the policy's choice
    return draws if bool(drawn.all()) else draws.scoring_only(drawn)


def scheme_of(config: TrainConfig, objective: Objective) -> str:
    return objective.draws if config.mask_draws == "auto" else config.mask_draws


def estimates_elbo(config: TrainConfig, objective: Objective) -> bool:
    """Whether the weighted sums of the step's draws estimate an ELBO."""
    return scheme_of(config, objective) in MASK_SCHEMES


def redraws(config: TrainConfig, objective: Objective) -> bool:
    """Whether each update of a rollout has masks of its own."""
    return objective.redraw if config.fresh_masks == "auto" else config.fresh_masks == "each_update"


def weights_of(objective: Objective, rollouts: Rollouts) -> Tensor:
    """(B,) advantages, or what the objective puts in their place."""
    if objective.weigh is None:
        return rollouts.advantage
    return objective.weigh(rollouts.advantage.view(rollouts.reward.shape)).reshape(-1)


def batch_maker(config: TrainConfig, objective: Objective, rollouts: Rollouts) -> Callable[[MaskDraws], Batch]:
    """Draws for all B completions -> the batch of those worth scoring.

    Completions of weight 0 are left out, since their gradient is 0 (not so with a KL). Equal completions of a group
    that share their masks become one row that counts for all.
    """
    weight = weights_of(objective, rollouts)
    P, G = rollouts.reward.shape
    group = torch.arange(P, device=weight.device).repeat_interleave(G)
    rows = torch.arange(len(weight), device=weight.device)
    if config.drop_zero_advantage and not config.kl_coefficient:
        rows = weight.nonzero()[:, 0]
    count = torch.ones(len(rows), device=weight.device)
    if merges(config, objective):
        rows, count = _merged(rows, group, rollouts.completion_ids, weight)

    def make(draws: MaskDraws) -> Batch:
        return Batch(
            rollouts.prompt_ids[rows], rollouts.completion_ids[rows], draws.select(rows), weight[rows], group[rows],
            count, rollouts.prompt_length[rows], rollouts.logprob[rows],
        )

    return make


def merges(config: TrainConfig, objective: Objective) -> bool:
    return config.merge_duplicates and config.share_masks and scheme_of(config, objective) not in _ON_PATH


def _merged(rows: Tensor, group: Tensor, ids: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The first of each kind of (group, completion, weight), and how many there are of it."""
    kinds: dict[tuple, list[int]] = {}
    for row, g, w, *tokens in zip(rows.tolist(), group[rows].tolist(), weight[rows].tolist(), *ids[rows].T.tolist()):
        kinds.setdefault((g, w, *tokens), []).append(row)
    first = torch.tensor([same[0] for same in kinds.values()], dtype=torch.long, device=rows.device)
    return first, torch.tensor([float(len(same)) for same in kinds.values()], device=rows.device)
