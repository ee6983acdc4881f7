"""LoRA by peft: an adapter inside a stock model, on its own on disk, switched off where the frozen model is asked for.

On disk an adapter has peft's layout (adapter_model.safetensors, adapter_config.json), so other tools read it. The
frozen weights it belongs to are found by `base_model_name_or_path` there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from bgpo.models.denoiser import Denoiser
from bgpo.models.last_layer import BeforeLastLayer

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_NAME = "default"  # peft's own
_TARGETS = {
    "attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
_TARGETS["all"] = (*_TARGETS["attention"], *_TARGETS["mlp"])


@dataclass(frozen=True)
class AdapterSettings:
    """A LoRA adapter: W x + alpha / rank * B A dropout(x)  (arXiv 2106.09685). `targets`: all, attention or mlp."""

    rank: int
    alpha: float
    dropout: float
    targets: str


def add_adapter(
    model: PreTrainedModel, settings: AdapterSettings, base: str, generator: torch.Generator,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Freezes `model` and puts a fresh adapter into it, which changes nothing yet: B is 0, A comes from `generator`.

    Args:
        base: path or hub id of the frozen weights, for whoever loads the adapter.
    """
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=settings.dropout,
        target_modules=list(_TARGETS[settings.targets]), bias="none", base_model_name_or_path=base,
    )
    _inject(model, config, dtype)
    with torch.no_grad():
        for layer in _layers(model, LoraLayer):
            A = layer.lora_A[_NAME].weight
            bound = 1 / math.sqrt(A.shape[1])  # as torch initialises a Linear
            A.copy_(torch.empty(A.shape).uniform_(-bound, bound, generator=generator))


def has_adapter(model: nn.Module) -> bool:
    return bool(getattr(model, "peft_config", None))


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a whole model."""
    return (folder / ADAPTER_CONFIG).exists()


def save_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Writes the adapter alone."""
    config = model.peft_config[_NAME]
    config.inference_mode = False
    config.save_pretrained(folder)
    tensors = {f"base_model.model.{name}": tensor for name, tensor in _adapter_tensors(model).items()}
    save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})


def load_adapter(model: PreTrainedModel, folder: Path) -> None:
    """Puts the adapter of `folder` into its frozen model, exactly; raises ValueError when the two do not fit."""
    prefix = "base_model.model."
    tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(folder / ADAPTER_WEIGHTS).items()}
    _inject(model, PeftConfig.from_pretrained(str(folder)), next(iter(tensors.values())).dtype)
    wanted = _adapter_tensors(model)
    odd = sorted(wanted.keys() ^ tensors.keys()) or [n for n in wanted if wanted[n].shape != tensors[n].shape]
    if odd:
        raise ValueError(
            f"The adapter in {folder} does not fit its base model: {odd[0]} is missing, unknown or of another size."
        )
    set_peft_model_state_dict(model, tensors, adapter_name=_NAME)


def base_of(folder: Path) -> str:
    """Path or hub id of the frozen weights that the adapter in `folder` belongs to."""
    return PeftConfig.from_pretrained(str(folder)).base_model_name_or_path or ""


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Inside, the model is the frozen one. Not for a pass with a graph: on the way back gradients are switched on."""
    layers = _layers(model, BaseTunerLayer)
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def merge_adapter(model: PreTrainedModel) -> None:
    """Adds the adapter into the weights and takes it out: a stock model again."""
    for name, layer in [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    del model.peft_config
    for parameter in model.parameters():
        parameter.requires_grad_(True)


class FrozenReference:
    """The model that an adapter was put into, as a policy: the same weights with the adapter off, no second copy."""

    def __init__(self, policy: Denoiser):
        self._policy = policy
        self.model = policy.model
        self.mask_id = policy.mask_id
        self.head_matrix = policy.head_matrix
        self.attention_block = policy.attention_block

    def hidden(self, ids: Tensor, **given: Tensor | None) -> Tensor:
        with adapter_off(self.model):
            return self._policy.hidden(ids, **given)

    def before_last_layer(self, ids: Tensor, wanted: Tensor, **given: Tensor | None) -> _WithoutAdapter | None:
        with adapter_off(self.model):
            stopped = self._policy.before_last_layer(ids, wanted, **given)
        return None if stopped is None else _WithoutAdapter(self.model, stopped)

    def logits(self, hidden: Tensor) -> Tensor:
        with adapter_off(self.model):
            return self._policy.logits(hidden)


class _WithoutAdapter:
    """A frozen model's pass that has stopped before the last layer."""

    def __init__(self, model: nn.Module, stopped: BeforeLastLayer):
        self.below = stopped.below
        self._model, self._stopped = model, stopped

    def rows(self, below: Tensor, part: slice, held: bool) -> Tensor:
        with adapter_off(self._model):
            return self._stopped.rows(below, part, held)


def _inject(model: PreTrainedModel, config: PeftConfig, dtype: torch.dtype) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng():  # peft draws from the global generator
        inject_adapter_in_model(config, model, _NAME)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype)


def _adapter_tensors(model: PreTrainedModel) -> dict[str, Tensor]:
    tensors = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _layers(model: nn.Module, kind: type) -> list:
    return [module for module in model.modules() if isinstance(module, kind)]
