"""AdamW over what is trained: the parameters, or float32 masters of those held in half precision.

Half-precision weights cannot take small steps: at a learning rate of 5e-7 a bfloat16 of 0.02 stays where it is. So
the optimiser moves float32 masters, to which the weights are rounded after each step. Gradients add up in float32
as well: each pass's bfloat16 gradient is moved into the master's as soon as it is there, and freed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bgpo.config import TrainConfig
from bgpo.training.hardware import bitsandbytes_problem

_HALF = (torch.bfloat16, torch.float16)


class Masters:
    """float32 copies of a model's trainable half-precision parameters; gradients go to them, not to the weights.

    Attributes:
        by_name: the copies by parameter name; empty where there is nothing in half precision.
    """

    def __init__(self, model: nn.Module | None):
        self.by_name: dict[str, Tensor] = {}
        self._weights: dict[str, nn.Parameter] = {}
        for name, parameter in model.named_parameters() if model else ():
            if parameter.requires_grad and parameter.dtype in _HALF:
                master = parameter.detach().float()
                self.by_name[name], self._weights[name] = master, parameter
                parameter.register_post_accumulate_grad_hook(_into(master))

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """After each step of `optimizer`, which moves the masters, the weights are rounded to them."""
        if self.by_name:
            optimizer.register_step_post_hook(lambda *_: self.round_weights())

    @torch.no_grad()
    def round_weights(self) -> None:
        for name, master in self.by_name.items():
            self._weights[name].copy_(master)


def policy_optimizer(model: nn.Module, config: TrainConfig) -> tuple[torch.optim.Optimizer, Masters]:
    """The optimiser of what `config` trains in `model`, and the masters that it moves in place of weights.

    Raises:
        ValueError: when 8-bit moments are asked for and cannot be had here.
    """
    masters = Masters(model if config.precision == "bf16" else None)
    trained = [masters.by_name.get(name, p) for name, p in model.named_parameters() if p.requires_grad]
    settings = {
        "lr": config.learning_rate, "betas": (0.9, config.adam_beta2), "weight_decay": config.weight_decay,
    }
    if config.optimizer == "adamw8bit":
        optimizer = _eight_bit(trained, settings)
    else:
        optimizer = torch.optim.AdamW(trained, fused=True, **settings)
    masters.follow(optimizer)
    return optimizer, masters


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Sets and returns the rate of a step (0-based): a linear rise, then constant or down to a tenth."""
    rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    if config.lr_schedule == "linear":
        rate *= 1 - 0.9 * step / config.train_steps
    for group in optimizer.param_groups:
        group["lr"] = rate
    return rate


def trained_parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What the optimiser moves and has a gradient for."""
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _eight_bit(trained: list[Tensor], settings: dict) -> torch.optim.Optimizer:
    if trained and not trained[0].is_cuda:
        raise ValueError("optimizer = adamw8bit needs an NVIDIA GPU; this run computes on the CPU. Set it to adamw.")
    if problem := bitsandbytes_problem():
        raise ValueError(f"optimizer = adamw8bit {problem}; set optimizer to adamw, or mend that.")
    import bitsandbytes

    return bitsandbytes.optim.AdamW8bit(trained, **settings)


def _into(master: Tensor):
    def move(parameter: nn.Parameter) -> None:
        # taken out first: memory may run out in the next line, and what is left in place would count twice
        gradient, parameter.grad = parameter.grad, None
        if master.grad is None:
            master.grad = gradient.float()
        else:
            master.grad.add_(gradient)

    return move
