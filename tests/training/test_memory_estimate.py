"""The estimate beside what torch holds: parameters exactly, activations within a stated factor."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from bgpo.config import TrainConfig
from bgpo.models.denoiser import Denoiser
from bgpo.models.shapes import PUBLISHED, TINY, shape_of
from bgpo.models.tiny import build_tiny, tiny_config, tiny_tokenizer
from bgpo.tasks.base import Reward
from bgpo.tasks.registry import TASKS
from bgpo.training.hardware import Room, room_for
from bgpo.training.machine import SavedBytes
from bgpo.training.memory_estimate import activation_bytes, estimate
from bgpo.training.optimizer import policy_optimizer
from bgpo.training.policy import trainable
from bgpo.training.rollouts import collect
from bgpo.training.update import Updater

GB = 2**30
H200 = Room("H200", "cuda", 140 * GB, 141 * GB)
LORA = {"adapter": "lora", "lora_rank": 4}
EIGHT_BILLION = {
    "model": "llada", "model_path": "GSAI-ML/LLaDA-8B-Instruct", "task": "gsm8k", "warmup_steps": 0,
    "completion_length": 512, "denoising_steps": 256, "block_length": 32, "prompt_length": 128,
    "prompts_per_step": 16, "group_size": 8, "learning_rate": 5e-7, "token_budget": 6144,
}


def part(found, name: str) -> float:
    return {p.name: p.size for p in found.parts}.get(name, 0.0)


@pytest.mark.parametrize("model", [
    LlamaForCausalLM(LlamaConfig(num_hidden_layers=3, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                                 intermediate_size=100, vocab_size=99)),
    Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                                 intermediate_size=100, vocab_size=99)),
    Qwen3ForCausalLM(Qwen3Config(num_hidden_layers=2, hidden_size=64, num_attention_heads=4, num_key_value_heads=2,
                                 intermediate_size=100, vocab_size=99, head_dim=32, tie_word_embeddings=True)),
], ids=["llama", "qwen2", "qwen3"])
def test_parameters_are_counted_exactly(tmp_path, model):
    family = "a2d"
    config = model.config.to_dict() | {"is_causal": False}
    (tmp_path / "config.json").write_text(json.dumps(config, default=str))
    assert shape_of(family, str(tmp_path)).parameters == sum(p.numel() for p in model.parameters())


def test_the_built_in_and_the_published_shapes():
    tiny = build_tiny(torch.Generator()).model
    assert TINY.parameters == sum(p.numel() for p in tiny.parameters())
    assert PUBLISHED["llada"].parameters == 8_015_581_184  # 16,031,162,368 bytes in its published index
    assert PUBLISHED["dream"].parameters == pytest.approx(7.6e9, rel=0.01)
    assert shape_of("a2d", "somebody/unknown") is None


@pytest.mark.parametrize("targets", ["all", "attention", "mlp"])
def test_adapters_are_counted_exactly(tmp_path, targets):
    config = TrainConfig(**LORA, lora_targets=targets)
    model = trainable(build_tiny(torch.Generator()), config, tmp_path).model
    assert TINY.adapter_parameters(4, targets) == sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("values", [
    {}, {"precision": "bf16"}, LORA, LORA | {"precision": "bf16"}, LORA | {"precision": "bf16_pure"},
    {"activation_checkpointing": True}, {"activation_checkpointing": True, "precision": "bf16"},
])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_activations_per_token_are_within_two_percent(tmp_path, values, kv_heads):
    stock = tiny_config(54)
    stock.num_key_value_heads = kv_heads
    config = TrainConfig(**values)
    model = trainable(Denoiser(LlamaForCausalLM(stock), tiny_tokenizer()), config, tmp_path)
    shape = SimpleNamespace(layers=3, width=96, heads=4, kv_heads=kv_heads, head_width=24, mlp=256)
    saved = SavedBytes(model.model)
    with saved:
        held = model.hidden(torch.full((8, 32), 5))
    assert held.requires_grad
    assert activation_bytes(config, shape) * 8 * 32 / 2**20 == pytest.approx(saved.peak_mb, rel=0.02)


@pytest.mark.parametrize("objective", ["bgpo", "elbo"])
@pytest.mark.parametrize("values", [{}, {"precision": "bf16"}, LORA])
def test_a_whole_update_holds_what_was_estimated_within_a_quarter(tmp_path, objective, values):
    from bgpo.algorithm.objectives import OBJECTIVES
    from bgpo.training.likelihood import Passes

    config = TrainConfig(
        objective=objective, prompts_per_step=3, group_size=4, mc_samples=8, token_budget=13 * 12, bound_probe=0,
        drop_zero_advantage=False, **values,
    )
    model = trainable(build_tiny(torch.Generator().manual_seed(0)), config, tmp_path)
    optimizer, _ = policy_optimizer(model.model, config)
    rollouts = collect(model, TASKS[config.task], config, 0, judge=lambda problem, text: Reward(float(len(text)), ""))
    rollouts = replace(rollouts, advantage=torch.linspace(-1, 1, 12))
    updater = Updater(config, OBJECTIVES[objective], model, optimizer, Passes(config.token_budget), None)
    measured = updater.update(rollouts, 0, lambda: None)["memory/saved_mb"]
    assert estimate(config, room_for(config)).saved / 2**20 == pytest.approx(measured, rel=0.25)


def test_eight_billion_parameters_on_one_card():
    full = estimate(TrainConfig(**EIGHT_BILLION, precision="bf16", optimizer="adamw8bit"), H200)
    assert part(full, "weights") == pytest.approx(16.03e9, rel=0.01)
    assert part(full, "masters") == part(full, "gradients") == pytest.approx(32.06e9, rel=0.01)
    assert part(full, "optimiser") == pytest.approx(16.03e9, rel=0.01)
    lora = estimate(TrainConfig(**EIGHT_BILLION, precision="bf16", adapter="lora"), H200)
    small = estimate(TrainConfig(**EIGHT_BILLION, precision="bf16", adapter="lora", quantization="4bit"), H200)
    assert small.total < lora.total < full.total and part(small, "weights") < 0.4 * part(lora, "weights")
    saving = estimate(TrainConfig(**EIGHT_BILLION, precision="bf16", activation_checkpointing=True), H200)
    plain = estimate(TrainConfig(**EIGHT_BILLION, precision="bf16"), H200)
    assert saving.saved < 0.1 * plain.saved


def test_memory_of_the_plain_objective_grows_with_its_draws_and_bgpo_s_does_not():
    def saved(objective, draws):
        config = TrainConfig(**EIGHT_BILLION, precision="bf16", objective=objective, mc_samples=draws)
        return estimate(config, H200).saved

    # at one draw the plain objective holds the last layer of the whole pass
    assert saved("bgpo", 64) == saved("bgpo", 1) < saved("elbo", 1) < 1.05 * saved("bgpo", 1)
    assert saved("elbo", 64) == 64 * saved("elbo", 1)


@pytest.mark.parametrize("values, words", [
    ({"precision": "fp32", "activation_checkpointing": True}, "adapter to lora"),
    ({"precision": "bf16", "adapter": "lora"}, "activation_checkpointing"),
    ({"precision": "bf16", "adapter": "lora", "objective": "elbo", "mc_samples": 16}, "objective to bgpo"),
    ({"precision": "bf16", "adapter": "lora", "activation_checkpointing": True, "prompts_per_step": 1},
     "quantization to 4bit"),
])
def test_advice_names_the_knob_that_helps_most(values, words):
    assert words in estimate(TrainConfig(**EIGHT_BILLION | values), H200).advice


def test_a_kl_to_the_start_costs_a_copy_but_not_under_an_adapter():
    kl = {"kl_coefficient": 0.1}
    assert part(estimate(TrainConfig(**kl), H200), "reference") == TINY.parameters * 4
    assert part(estimate(TrainConfig(**kl, **LORA), H200), "reference") == 0
