"""The model that is trained: where its weights come from, how they are held, which of them move.

    loaded (a checkpoint, a published model, a fresh tiny one)  ->  trainable (precision, adapter, checkpointing)
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from bgpo.algorithm.elbo import Scorer
from bgpo.config import TrainConfig, prompt_room
from bgpo.models.adapters import AdapterSettings, FrozenReference, add_adapter, has_adapter, is_adapter, merge_adapter
from bgpo.models.bases import refer_to
from bgpo.models.checkpoints import (
    TrainingState,
    load_base,
    load_model,
    put_adapter,
    save_checkpoint,
    share_checkpoint,
)
from bgpo.models.denoiser import Denoiser
from bgpo.models.folders import BASE_FOLDER
from bgpo.models.hub import Report, local_folder
from bgpo.models.knobs import block_contradictions
from bgpo.models.loading import Overrides, load
from bgpo.models.memory import attention_for, checkpoint_layers
from bgpo.models.quantization import quantize
from bgpo.models.registry import MODELS
from bgpo.models.tiny import build_tiny
from bgpo.training.hardware import bitsandbytes_problem
from bgpo.training.seeds import torch_generator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "bf16_pure": torch.bfloat16}


def fresh_policy(config: TrainConfig, device: torch.device, report: Report = lambda done, total: None) -> Denoiser:
    """The model that a run begins with, before any training of its own.

    Args:
        report: told bytes done and in all while a published model is downloaded; may raise, which ends it.

    Raises:
        ValueError: in one sentence, when the weights cannot be had or are of another family.
    """
    if config.start_from:
        model = load_model(Path(config.start_from), device)
        if has_adapter(model.model):  # what it has learned becomes part of the weights
            merge_adapter(model.model)
        else:
            model.source = Path(config.start_from)
        if model.spec.family != config.model:
            raise ValueError(
                f"start_from holds a model of the family {model.spec.family}, and model = {config.model}; set model to "
                f"{model.spec.family}."
            )
        refuse_other_blocks(model, config)
        return model
    if not MODELS[config.model].built_in:
        return _published(config, device, report)
    model = build_tiny(torch_generator(config.seed, "weights"))
    model.model.to(device)
    return model


def _published(config: TrainConfig, device: torch.device, report: Report) -> Denoiser:
    overrides = Overrides(config.mask_id, config.prompt_style, config.attention_block)
    # a warm start moves weights by steps that bfloat16 would round away
    dtype = torch.float32 if config.warmup_steps else DTYPES[config.precision]
    folder = local_folder(config.model_path, report)
    model = load(folder, config.model, dtype=dtype, device=device, overrides=overrides)
    model.source = folder
    tokens = prompt_room(config) + config.completion_length
    if tokens > model.spec.max_length:
        raise ValueError(
            f"completion_length = {config.completion_length} after prompts of up to {prompt_room(config)} tokens is "
            f"more than the {model.spec.max_length} that {config.model_path} takes; lower completion_length."
        )
    refuse_other_blocks(model, config)
    return model


def refuse_other_blocks(model: Denoiser, config: TrainConfig) -> None:
    """Raises ValueError where the config means other blocks than those of attention that the model was saved with.

    The form knows the family's usual block; only the weights' own folder says what they were trained with.
    """
    block = model.attention_block
    if not block:
        return
    if config.attention_block not in (0, block):
        raise ValueError(
            f"attention_block = {config.attention_block}, and these weights were trained with blocks of {block} "
            f"tokens; set attention_block to 0 or {block}."
        )
    if problems := block_contradictions(config, block):
        raise ValueError(next(iter(problems.values())))


def trainable(model: Denoiser, config: TrainConfig, folder: Path) -> Denoiser:
    """`model` as `config` trains it; under an adapter the run's folder keeps the frozen weights, or where they are.

    Raises:
        ValueError: when this machine lacks what the config asks for.
    """
    model.model.zero_grad(set_to_none=True)  # the last gradient of a warm start is no part of what comes
    dtype = DTYPES[config.precision]
    if config.start_from and any(parameter.dtype != dtype for parameter in model.model.parameters()):
        model.source = None  # rounded, they are other weights than the checkpoint's
    for parameter in model.model.parameters():  # not the buffers: rounded rotary angles are another model
        parameter.data = parameter.data.to(dtype)
    if config.adapter == "none":
        return _held(model, config)
    base = _keep_base(model, config, folder / BASE_FOLDER)
    model = _quantized(model, config)
    settings = AdapterSettings(config.lora_rank, config.lora_alpha, config.lora_dropout, config.lora_targets)
    dtype = torch.bfloat16 if config.precision == "bf16_pure" else torch.float32
    add_adapter(model.model, settings, base, torch_generator(config.seed, "adapter"), dtype)
    return _held(model, config)


def _keep_base(model: Denoiser, config: TrainConfig, base: Path) -> str:
    """Keeps the frozen weights of an adapter; the path or hub id by which other tools find them."""
    state = TrainingState("base", 0, 0.0, torch.get_num_threads())
    if model.source is None:
        save_checkpoint(base, model, state, optimizer=None)
        return str(base)
    if config.start_from:
        share_checkpoint(model.source, base, state)
        return str(base)
    refer_to(model, config.model_path, base)
    return str(model.source.absolute()) if Path(config.model_path).expanduser().is_dir() else config.model_path


def resumed(config: TrainConfig, checkpoint: Path, device: torch.device) -> Denoiser:
    """The model of a run's own checkpoint, as `trainable` had made it."""
    if not is_adapter(checkpoint):
        return _held(load_model(checkpoint, device), config)
    model = _quantized(load_base(checkpoint, device), config)
    put_adapter(model, checkpoint)
    return _held(model, config)


def reference_policy(config: TrainConfig, model: Denoiser, step: int, checkpoints: Path) -> Scorer | None:
    """The policy that training started from, if the KL holds on to it. Under an adapter it costs no second copy."""
    if not config.kl_coefficient or config.kl_reference != "start":
        return None
    if has_adapter(model.model):
        return FrozenReference(model)
    if step:
        return load_model(checkpoints / "step-000000", model.device)
    reference = model.with_model(copy.deepcopy(model.model))
    reference.model.eval()
    return reference


def _held(model: Denoiser, config: TrainConfig) -> Denoiser:
    dtype, block_causal = DTYPES[config.precision], model.attention_block > 0
    model.model.set_attn_implementation(attention_for(model.device, dtype, block_causal))
    if config.activation_checkpointing:
        checkpoint_layers(model.model, dropout=config.lora_dropout > 0)
    model.model.eval()
    return model


def _quantized(model: Denoiser, config: TrainConfig) -> Denoiser:
    if config.quantization == "none":
        return model
    if model.device.type != "cuda":
        raise ValueError("quantization = 4bit needs an NVIDIA GPU, and this run computes on the CPU; set it to none.")
    if problem := bitsandbytes_problem():
        raise ValueError(f"quantization = 4bit {problem}; set quantization to none, or mend that.")
    quantize(model.model)
    return model
