"""What a run will hold in memory, before it starts, from the shape of its model. Torch-free.

Activations are counted by what autograd keeps of a stock Llama layer with sdpa, per token, measured on small models (in
bytes, exact there): `_LAYER`. What is estimated and not known: the token budget where it is automatic, kernels'
workspaces, fragmentation. The figure is meant to be right within a quarter; the run's page compares it with what was
measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from bgpo.config import TrainConfig, prompt_room
from bgpo.models.registry import MODELS
from bgpo.models.shapes import Shape, shape_of
from bgpo.training.hardware import Room

# bytes a token of a layer keeps: per unit of width, per unit of mlp, per unit of adapter rank and adapted matrix, rest;
# by (weights' bytes, adapter's bytes or 0)
_LAYER = {
    (4, 0): (40, 16, 0, 24), (2, 0): (24, 8, 0, 24), (4, 4): (32, 16, 4, 24), (2, 4): (40, 10, 4, 24),
    (2, 2): (20, 8, 2, 24),
}
_FOUR_BIT = 0.516  # bytes a weight: NF4 and its twice quantised scales
_CHUNK = 24 * 2**20  # logits of a chunk of rows
_LAST_LAYER_TOKENS, _LAST_LAYER_SHARE = 640, 8  # that the last layer reads at one time, or the share of a pass
_MOST_TOKENS = {"cpu": 4096, "cuda": 65_536}  # of an automatic budget
_SHARE_OF_FREE = 0.5
_ADAPTED = {"all": 7, "attention": 4, "mlp": 3}


@dataclass(frozen=True)
class Part:
    """One use of memory; bytes."""

    name: str
    label: str
    size: float


@dataclass(frozen=True)
class Estimate:
    """Parts that are there at once at the highest point of a step.

    Attributes:
        tokens: of one likelihood pass; saved: bytes that autograd keeps for backward in it.
        advice: the knob that helps most, as the end of a sentence.
    """

    parts: tuple[Part, ...]
    tokens: int
    saved: float
    advice: str

    @property
    def total(self) -> float:
        return sum(part.size for part in self.parts)


def estimate(config: TrainConfig, room: Room, token_budget: int = 0) -> Estimate | None:
    """The memory of a run on `room`; None where the model's shape cannot be known before it is downloaded.

    Args:
        token_budget: the one that the run has taken, when it is known.
    """
    source = config.start_from or ("" if MODELS[config.model].built_in else config.model_path)
    shape = shape_of(config.model, source)
    if shape is None:
        return None
    standing = _standing(config, shape)
    per_token = activation_bytes(config, shape)
    free = room.free - sum(part.size for part in standing)
    tokens, held = _pass_tokens(config, token_budget or config.token_budget, room.kind, free, per_token)
    rows = held * _scored_share(config)
    saved = _saved(config, shape, tokens, held)
    again = tokens * _layer_bytes(config, shape) if config.activation_checkpointing else 0  # one layer at a time
    logits = _logits(config, shape, tokens, rows)
    rollouts = _rollouts(config, shape) if config.job == "train" else 0.0
    update = [
        Part("gradients", "Gradients", _trained(config, shape) * _gradient_bytes(config)),
        Part("activations", "Activations", saved + again),
        Part("logits", "Logits", logits),
    ]
    if sum(part.size for part in update) < rollouts:
        update = [Part("rollouts", "Rollouts", rollouts)]
    parts = tuple(part for part in (*standing, *update) if part.size)
    return Estimate(parts, tokens, saved, _advice(config, parts))


def activation_bytes(config: TrainConfig, shape: Shape) -> float:
    """Bytes that one token of a pass keeps for backward."""
    ends = (8 if config.precision == "fp32" else 6) * shape.width if config.adapter == "none" else 0
    if config.activation_checkpointing:
        return shape.layers * shape.width * _weight_bytes(config) + ends
    return shape.layers * _layer_bytes(config, shape) + ends


def _saved(config: TrainConfig, shape: Shape, tokens: int, held: int) -> float:
    """Bytes kept by passes of `tokens`, of which `held` at one time.

    The last layer keeps half of what it has of its width, for keys and values, and all of what it has of scored rows;
    it has only some of a pass at a time, unless graphs are retained.
    """
    share = _scored_share(config)
    if not (config.masked_head and config.masked_last_layer):
        return held * (activation_bytes(config, shape) + share * shape.width * _weight_bytes(config))
    one = shape.width * _weight_bytes(config) if config.activation_checkpointing else _layer_bytes(config, shape)
    below = held * (activation_bytes(config, shape) - one)
    if config.objective == "elbo" and config.job == "train":
        read = 0 if config.activation_checkpointing else held
    else:
        read = min(tokens, max(_LAST_LAYER_TOKENS, tokens // _LAST_LAYER_SHARE))
    width = _layer_keeps(config)[0] * shape.width
    return below + read * (width / 2 + share * _layer_bytes(config, shape))


def _layer_keeps(config: TrainConfig) -> tuple[int, int, int, int]:
    adapter = 0 if config.adapter == "none" else 2 if config.precision == "bf16_pure" else 4
    return _LAYER[_weight_bytes(config), adapter]


def _layer_bytes(config: TrainConfig, shape: Shape) -> float:
    weights = _weight_bytes(config)
    width, mlp, rank, rest = _layer_keeps(config)
    narrower = 2 * weights * (shape.heads - shape.kv_heads) * shape.head_width
    ranks = rank * config.lora_rank * _ADAPTED[config.lora_targets]
    return width * shape.width + mlp * shape.mlp + ranks + rest - narrower


def _standing(config: TrainConfig, shape: Shape) -> list[Part]:
    """What is there from the first step to the last."""
    weights, trained = _weight_bytes(config), _trained(config, shape)
    if config.quantization == "4bit":
        frozen = shape.layer_weights * _FOUR_BIT + (shape.parameters - shape.layer_weights) * weights
    else:
        frozen = shape.parameters * weights
    adapter = trained * (2 if config.precision == "bf16_pure" else 4) if config.adapter != "none" else 0
    masters = trained * 4 if config.precision == "bf16" and config.adapter == "none" else 0
    moments = 2 if config.optimizer == "adamw8bit" else 4 if config.precision == "bf16_pure" else 8
    copied = config.job == "train" and config.kl_coefficient and config.kl_reference == "start"
    return [
        Part("weights", "Weights", frozen + adapter),
        Part("masters", "Master weights", masters),
        Part("optimiser", "AdamW's moments", trained * moments),
        Part("reference", "Reference policy", frozen if copied and config.adapter == "none" else 0),
    ]


def _pass_tokens(config: TrainConfig, budget: int, kind: str, free: float, per_token: float) -> tuple[int, int]:
    """(tokens of one pass, tokens whose graphs are held at one time)."""
    width = prompt_room(config) + config.completion_length
    if config.job == "finetune":
        completions, draws = config.examples_per_step, 1
    else:
        completions, draws = config.prompts_per_step * config.group_size, config.mc_samples
    if not budget:
        fitting = int(_SHARE_OF_FREE * max(0.0, free) / per_token)
        budget = max(width, min(_MOST_TOKENS[kind], fitting))
    pairs = max(1, budget // width)
    chunk = min(completions, pairs)
    in_a_pass = chunk * min(draws, max(1, pairs // chunk))
    held = chunk * draws if config.objective == "elbo" and config.job == "train" else in_a_pass
    return in_a_pass * width, held * width


def _scored_share(config: TrainConfig) -> float:
    """Scored rows in the tokens of a pass: on average half of the completion is masked."""
    return 0.5 * config.completion_length / (prompt_room(config) + config.completion_length)


def _logits(config: TrainConfig, shape: Shape, tokens: int, held_rows: float) -> float:
    """float32 logits, their log-softmax and gradient."""
    row = shape.vocabulary * 4
    if config.objective == "elbo" and config.job == "train":
        return held_rows * row * 2
    rows = tokens * (_scored_share(config) if config.masked_head else 1.0)
    return 3 * min(rows * row, _CHUNK if config.chunked_head else float("inf"))


def _rollouts(config: TrainConfig, shape: Shape) -> float:
    """Hidden states of all rows at one layer, the logits of their blocks, and keys and values where they are kept."""
    rows = config.prompts_per_step * config.group_size
    width = prompt_room(config) + config.completion_length
    size = _weight_bytes(config)
    states = rows * width * (4 * shape.width + 2 * shape.mlp) * size
    logits = 3 * rows * min(config.block_length, config.completion_length) * shape.vocabulary * 4
    kept = getattr(config, "cache", "none") != "none"
    cache = 2 * shape.layers * shape.kv_heads * shape.head_width * rows * width * size if kept else 0
    return states + logits + cache


def _advice(config: TrainConfig, parts: tuple[Part, ...]) -> str:
    """What helps most against the largest part that something can be done about."""
    for part in sorted(parts, key=lambda part: part.size, reverse=True):
        if part.name == "activations" and config.objective == "elbo" and config.mc_samples > 1:
            return "set objective to bgpo, which holds one pass whatever mc_samples is"
        if part.name == "activations" and not config.activation_checkpointing:
            return "set activation_checkpointing to true"
        if part.name in ("weights", "masters", "optimiser", "gradients", "reference") and config.adapter == "none":
            return "set adapter to lora, which trains a small part of the weights"
        if part.name == "weights" and config.precision == "fp32":
            return "set precision to bf16"
        if part.name == "weights" and config.quantization == "none":
            return "set quantization to 4bit"
        if part.name == "rollouts":
            return "lower prompts_per_step or group_size"
    return "lower token_budget or completion_length"


def _weight_bytes(config: TrainConfig) -> int:
    return 4 if config.precision == "fp32" else 2


def _gradient_bytes(config: TrainConfig) -> int:
    """Gradients of bfloat16 weights add up in their masters' float32."""
    return 2 if config.precision == "bf16_pure" else 4


def _trained(config: TrainConfig, shape: Shape) -> int:
    if config.adapter == "none":
        return shape.parameters
    return shape.adapter_parameters(config.lora_rank, config.lora_targets)
