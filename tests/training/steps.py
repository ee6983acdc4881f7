"""One real training step in float64: rollouts of the tiny model, and the weights that an update leaves behind."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import MethodType

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding

from bgpo.algorithm.objectives import OBJECTIVES, Objective
from bgpo.config import TrainConfig
from bgpo.models.denoiser import Denoiser
from bgpo.models.tiny import tiny_config, tiny_tokenizer
from bgpo.tasks.base import Reward
from bgpo.tasks.registry import TASKS
from bgpo.training.likelihood import Passes, head_of
from bgpo.training.rollouts import Rollouts, collect
from bgpo.training.update import Updater

# prompts of several widths, two blocks, and updates that move the policy
STEP = TrainConfig(
    task="stack_programs", completion_length=8, denoising_steps=4, block_length=4, temperature=0.8, prompts_per_step=3,
    group_size=4, mc_samples=4, updates_per_rollout=2, max_grad_norm=1e4, bound_probe=4, token_budget=200,
)
LEARNING_RATE = 0.1
# one of each way through an update: draws one by one, graphs held, re-anchored, a weight per draw and no old policy,
# draws that belong together, the sampler's own path
TYPICAL = ("bgpo", "elbo", "bgpo_reanchored", "spg_mixture", "coupled_grpo", "agrpo")
# what every objective has to show is shown by the typical ones by default, by all with -m slow
every_objective = pytest.mark.parametrize(
    "objective", [pytest.param(name, marks=() if name in TYPICAL else pytest.mark.slow) for name in OBJECTIVES]
)


def tiny(seed: int = 0) -> Denoiser:
    """A small sibling of the built-in model in float64 throughout, sure enough of something to be moved."""
    tokenizer = tiny_tokenizer()
    config = tiny_config(len(tokenizer))
    config.hidden_size, config.num_hidden_layers, config.intermediate_size, config.head_dim = 32, 2, 48, 8
    model = LlamaForCausalLM(config).double().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.2, generator=generator)
    # the stock norm and the stock angles are float32 whatever the weights are
    for module in model.modules():
        if isinstance(module, LlamaRMSNorm):
            module.forward = MethodType(_norm, module)
        if isinstance(module, LlamaRotaryEmbedding):
            module.forward = MethodType(_angles, module)
    return Denoiser(model, tokenizer)


def _norm(self: LlamaRMSNorm, x: Tensor) -> Tensor:
    return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.variance_epsilon)


def _angles(self: LlamaRotaryEmbedding, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
    angles = (position_ids[..., None] * self.inv_freq.double()).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def rollouts_of(config: TrainConfig) -> Rollouts:
    """Completions of `tiny()`, two of each group equal, with advantages of both signs and some of 0."""
    got = collect(tiny(), TASKS[config.task], config, 0, judge=lambda problem, text: Reward(0.0, ""))
    P, G = got.reward.shape
    take = torch.tensor([g * G + max(0, i - 1) for g in range(P) for i in range(G)])  # the first of each group twice
    assert len(got.prompt_length.unique()) > 1, "packing is only seen where prompts differ in width"
    advantage = torch.randn(P * G, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    advantage[[3, 6]] = 0
    rows = {name: getattr(got, name)[take] for name in ("completion_ids", "written", "commit_step")}
    return replace(got, **rows, advantage=advantage[take], logprob=got.logprob.double()[take])


def updater_of(config: TrainConfig, model: Denoiser, objective: Objective | None = None) -> Updater:
    """With plain gradient descent, whose steps are the gradients themselves."""
    optimizer = torch.optim.SGD(model.model.parameters(), LEARNING_RATE)
    passes = Passes(config.token_budget, config.packed, head_of(config))
    reference = Denoiser(copy.deepcopy(model.model), model.tokenizer) if config.kl_coefficient else None
    return Updater(config, objective or OBJECTIVES[config.objective], model, optimizer, passes, reference)


def moved(config: TrainConfig, rollouts: Rollouts, model: Denoiser | None = None) -> Tensor:
    """All weights after one step minus those before, as one vector."""
    model = model or tiny()
    before = flat(model)
    updater_of(config, model).update(rollouts, 0, lambda: None)
    return flat(model) - before


def flat(model: Denoiser) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.model.parameters()])
