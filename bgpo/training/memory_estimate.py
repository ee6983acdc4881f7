"""What a run will hold in memory, before it starts, from the shape of its model. Torch-free.

What autograd keeps is added up op by op (`kept.py`), as the update goes: the layers below for a whole pass, the last
layer for a few pairs at a time, the head for a chunk of their rows. A step is at its highest at one of three moments:
in the head, when most is kept; on the way back through a layer, which may be computed again there; or when all
gradients are there. The tests hold each figure against what torch holds. What is estimated and not known: the token
budget where it is automatic, what the draws leave masked, kernels' workspaces, fragmentation. The run's page compares
the figure with what was measured.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from math import ceil, log, sqrt

from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import TrainConfig, prompt_room
from bgpo.models.registry import MODELS
from bgpo.models.shapes import Shape, shape_of
from bgpo.training.hardware import Room
from bgpo.training.kept import Canvas, Held, Kept

_FOUR_BIT = 0.516  # bytes a weight: NF4 and its twice quantised scales
_CHUNK = 24 * 2**20  # logits of a chunk of rows
_LAST_LAYER_TOKENS, _LAST_LAYER_SHARE = 640, 8  # that the last layer reads at one time, or the share of a pass
_MOST_TOKENS = {"cpu": 4096, "cuda": 65_536}  # of an automatic budget
_SHARE_OF_FREE = 0.5
_NUMBER = 4  # bytes of a logit: float32 whatever the weights are
_IN_ORDER = ("stratified", "antithetic", "gauss")  # draws that mask more and more
_ALL_GROUPS = {"all": ("attention", "mlp"), "attention": ("attention",), "mlp": ("mlp",)}


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
        tokens: of one likelihood pass; saved: bytes that autograd keeps for backward, at most; logits: bytes of the
            logits that are there at one time, which need not be the step's highest point.
        advice: the knob that helps most, as the end of a sentence.
    """

    parts: tuple[Part, ...]
    tokens: int
    saved: float
    logits: float
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
    free = room.free - sum(part.size for part in standing)
    update = _Update(config, shape, room.kind, token_budget or config.token_budget, free)
    moments = [update.in_the_head(), update.on_the_way_back(), update.at_the_end()]
    if config.job == "train":
        moments.append([Part("rollouts", "Rollouts", _rollouts(config, shape))])
    highest = max(moments, key=lambda parts: sum(part.size for part in parts))
    parts = tuple(part for part in (*standing, *highest) if part.size)
    return Estimate(parts, update.tokens, update.saved, update.logits, _advice(config, parts))


@dataclass(frozen=True)
class _Cut:
    """What goes through the last layer together: pairs, their tokens, their scored rows, and the rectangles of rows."""

    pairs: float
    tokens: float
    rows: float
    room: float


class _Update:
    """One update of a step: what its passes keep, and what each moment adds.

    Attributes:
        tokens: of one pass; saved, logits: see `Estimate`.
    """

    def __init__(self, config: TrainConfig, shape: Shape, kind: str, budget: int, free: float):
        self.config, self.shape, self.kind = config, shape, kind
        self.kept = Kept(shape, _held(config, kind), _canvas(config))
        self.size = _weight_bytes(config)
        objective = OBJECTIVES.get(config.objective)
        self.retained = config.job == "train" and objective is not None and objective.retained
        self.narrow = config.masked_head and config.masked_last_layer
        width = prompt_room(config) + config.completion_length
        self._plan(max(1, (budget or self._automatic(width, free)) // width))
        self.tokens = self.pairs * width
        self.columns = self.pairs * self.kept.canvas.width  # what the layers see of a pass
        self.cut = self._largest_cut()
        self.chunk_rows, self.by_hand = self._head_chunk()
        self._add_up()

    # ---- how a step is cut

    def _automatic(self, width: int, free: float) -> int:
        """As the worker finds it: from a pass with every position of the completion scored, its graph behind it."""
        L, s = self.config.completion_length, self.shape
        below = width * sum(self._layer(index) for index in range(s.layers - 1))
        last = width * self.kept.stream if self.config.activation_checkpointing else self.kept.last(width, L, L)
        head = L * (self.kept.norm(s.width) + self.kept.head_input() + s.vocabulary * _NUMBER)
        fitting = int(_SHARE_OF_FREE * max(0.0, free) / (below + last + head)) * width
        return max(width, min(_MOST_TOKENS[self.kind], fitting))

    def _plan(self, fitting: int) -> None:
        """As `Passes.plan` cuts completions of one prompt length."""
        c = self.config
        completions = c.examples_per_step if c.job == "finetune" else c.prompts_per_step * c.group_size
        draws = _draws(c)
        chunk = min(completions, fitting)
        self.shared = min(draws, max(1, fitting // chunk))
        self.pairs = chunk * self.shared
        self.passes_held = ceil(draws / self.shared) if self.retained else 1
        self.alone = ceil(completions / chunk) * ceil(draws / self.shared) == self.passes_held  # nothing came before
        self.held = chunk * draws if self.retained else self.pairs
        self.share = _fullest_share(c, draws, self.shared, self.pairs)

    def _largest_cut(self) -> _Cut:
        """As `_parts` cuts a pass: not many pairs, and not many rows."""
        L, width = self.config.completion_length, self.kept.canvas.width
        if not self.narrow:
            return _Cut(self.pairs, self.columns, self.pairs * L * self.share, self.pairs * L)
        most = max(1, self.pairs // _LAST_LAYER_SHARE, _LAST_LAYER_TOKENS // width)
        limit = max(L, min(self._rows_in_a_chunk(), most * L // 2))
        pairs = min(self.pairs, most, max(1.0, limit / (L * self.share)))
        # of many parts one is as full as they may be
        rows = limit if self.pairs > most else min(limit, pairs * L * self.share)
        return _Cut(pairs, pairs * width, rows, max(rows, pairs * L * max(self.share, pairs / (pairs + 1))))

    def _rows_in_a_chunk(self) -> int:
        return max(1, _CHUNK // (self.shape.vocabulary * _NUMBER)) if self.config.chunked_head else 2**62

    def _head_chunk(self) -> tuple[float, bool]:
        """(rows whose logits are there at one time, whether their derivative is written over them)."""
        L = self.config.completion_length
        if not self.config.masked_head:
            return self.pairs * L, False
        at_a_time = self._rows_in_a_chunk()
        objective = OBJECTIVES.get(self.config.objective)
        tempered = self.config.job == "train" and objective is not None and objective.sampler_head
        by_hand = self.size == _NUMBER and self.pairs * L > at_a_time and not (tempered or self._fused or self.retained)
        return self.cut.rows if self.retained else min(self.cut.rows, max(at_a_time, L)), by_hand

    @property
    def _fused(self) -> bool:
        installed = importlib.util.find_spec("liger_kernel") is not None
        return self.config.fused_head and self.kind == "cuda" and installed

    # ---- what is kept

    def _layer(self, index: int) -> float:
        """Bytes a token of one of the layers below."""
        return self.kept.stream if self.config.activation_checkpointing else self.kept.token(first=index == 0)

    def _add_up(self) -> None:
        s, kept, held = self.shape, self.kept, self.held / self.pairs
        layers = s.layers - 1 if self.narrow else s.layers
        ids = 8 if kept.held.trained else 0
        self.below = held * self.columns * (sum(self._layer(index) for index in range(layers)) + ids)
        one_logits = self.chunk_rows * s.vocabulary * _NUMBER
        rows = self.held * self.config.completion_length * 0.5 if self.retained else self.cut.rows
        self.top = self._last_layer(rows) + self._final_norm(rows)
        through_autograd = rows * s.vocabulary * _NUMBER if self.retained else one_logits
        kept_logits = 0 if self.by_hand else through_autograd
        self.top += 0 if self.by_hand else rows * kept.head_input()
        self.saved = self.below + self.top + kept_logits
        self.logits = kept_logits + self._beside_logits(one_logits)

    def _last_layer(self, rows: float) -> float:
        if not self.narrow:
            return 0.0
        stream = self.shape.width * _NUMBER if self.size == _NUMBER else 0  # the norm keeps all that was read
        if not self.retained:
            return stream * (self.columns - self.cut.tokens) + self.kept.last(*self._sizes(self.cut))
        columns = self.held / self.pairs * self.columns
        if self.config.activation_checkpointing:
            return columns * self.kept.stream
        return self.kept.last(columns, rows, self.held * self.config.completion_length * self._fullest_of_a_cut)

    @property
    def _fullest_of_a_cut(self) -> float:
        """Rows of the rectangles that queries are put into, as a share of the completion."""
        return self.cut.room / (self.cut.pairs * self.config.completion_length)

    def _final_norm(self, rows: float) -> float:
        if self.narrow:
            return rows * self.kept.norm(self.shape.width)
        return self.held / self.pairs * self.columns * self.kept.norm(self.shape.width)

    @staticmethod
    def _sizes(cut: _Cut) -> tuple[float, float, float]:
        return cut.tokens, cut.rows, cut.room

    def _beside_logits(self, one: float) -> float:
        """What the head's backward makes beside what is kept: two more buffers of logits, or the matrix's gradient."""
        if self.by_hand:
            return one
        gradient = self._matrix_gradient
        if self._fused:
            return one * self.size / _NUMBER + gradient
        return max(2 * one, one + gradient)

    @property
    def _matrix_gradient(self) -> float:
        """The head's or the embedding's, where it is added to what is there or rounded on."""
        fresh = self.alone and self.config.precision != "bf16"
        trained = self.kept.held.trained and not fresh
        return self.shape.vocabulary * self.shape.width * self.size if trained else 0

    # ---- the moments

    def in_the_head(self) -> list[Part]:
        """Most is kept; the gradients of what the other parts of the pass have read are there, too."""
        beside = 0.0
        if self.narrow:
            half = self.size != _NUMBER and not (self.retained and self.config.activation_checkpointing)
            beside = self.held / self.pairs * self.columns * self.kept.stream * half
            beside += 0 if self.retained else (self.columns - self.cut.tokens) * self.kept.stream
        return [
            self._gradients(self._head_weights if self.alone else None),
            Part("activations", "Activations", self.below + self.top + beside),
            Part("logits", "Logits", self.logits),
        ]

    def on_the_way_back(self) -> list[Part]:
        """Through the uppermost layer below the last, while all the others' graphs are there."""
        again = self.kept.token() if self.config.activation_checkpointing else 0
        stream = 2 * self.kept.stream  # the gradient that comes in, and the one that goes on
        others = (self.passes_held - 1) / self.passes_held * (self.saved - self.below)
        kept = self.below + others + self.columns * (again + stream + self.kept.widest)
        weights = self._head_weights + self.shape.layer_weights // self.shape.layers
        matrix = self.shape.width * self.shape.mlp * self.size if self.kept.held.trained and not self.alone else 0
        return [
            self._gradients(weights if self.alone else None),
            Part("activations", "Activations", kept + matrix),
        ]

    def at_the_end(self) -> list[Part]:
        """All gradients, and the embedding's on its way to what is there of it."""
        return [self._gradients(None), Part("activations", "Activations", self._matrix_gradient)]

    @property
    def _head_weights(self) -> int:
        return self.shape.vocabulary * self.shape.width

    def _gradients(self, weights: int | None) -> Part:
        """Of as many weights as have one by then, None: of all."""
        trained = _trained(self.config, self.shape)
        if weights is not None:
            trained = min(weights, trained) if self.kept.held.trained else 0
        return Part("gradients", "Gradients", trained * _gradient_bytes(self.config))


def _held(config: TrainConfig, kind: str) -> Held:
    size = _weight_bytes(config)
    angles = _NUMBER if MODELS[config.model].rope_in_float32 else size
    if config.adapter == "none":
        return Held(size, angles=angles)
    adapter = 2 if config.precision == "bf16_pure" else 4
    dropout = 0 if config.job != "finetune" or not config.lora_dropout else 1 if kind == "cuda" else adapter
    return Held(size, False, adapter, config.lora_rank, _ALL_GROUPS[config.lora_targets], dropout, angles)


def _canvas(config: TrainConfig) -> Canvas:
    """A block-causal model reads the clean completion beside the noised one."""
    width = prompt_room(config) + config.completion_length
    if config.attention_block or MODELS[config.model].attention_block:
        return Canvas(width + config.completion_length, masked=True)
    return Canvas(width, masked=config.job == "finetune" or not config.packed)


def _scheme(config: TrainConfig) -> str:
    objective = OBJECTIVES.get(config.objective)
    if config.job == "finetune" or objective is None:
        return "iid"
    return objective.draws if config.mask_draws == "auto" else config.mask_draws


def _draws(config: TrainConfig) -> int:
    """K, of which some objectives fix what it is."""
    if config.job == "finetune":
        return 1
    of_the_path = ceil(config.denoising_steps / config.trace_shrink)
    fixed = {"full": 1, "one_ratio": 1, "coupled": 3, "trace_slices": of_the_path}
    return fixed.get(_scheme(config), config.mc_samples)


def _fullest_share(config: TrainConfig, draws: int, shared: int, pairs: int) -> float:
    """Scored rows in the completions of the fullest of a step's passes, each `shared` draws of some completions."""
    scheme = _scheme(config)
    of_a_step = {"trace_slices": config.trace_shrink, "trace_steps": 1}
    if scheme in of_a_step:
        return min(1.0, of_a_step[scheme] / config.denoising_steps)
    if scheme == "block":
        return 0.5 * config.block_length / config.completion_length
    if scheme in ("full", "coupled"):
        return 1.0 if shared < 3 else 2 / 3
    if scheme in _IN_ORDER:
        return 1 - 0.5 * shared / draws
    passes = max(1.0, draws / shared)
    return min(1.0, 0.5 + sqrt(2 * log(1 + passes) / (12 * pairs)))


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
