"""What is measured: the cells, their sizes, and the order that makes a report half-way meaningful.

A cell is one training run or one measurement. Its settings are part of its file, so that a changed plan
measures again and an unchanged one goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bgpo.algorithm.masking import MASK_SCHEMES
from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.config import TrainConfig
from bgpo.presets import PRESETS
from bgpo.tasks.registry import TASKS

# on-policy their gradient is BGPO's to the last bit (identities 11 and 12): one seed checks it, the others are BGPO's
TWINS = ("bgpo_clipped", "bgpo_reanchored", "elbo", "elbo_two_pass")
REGIMES = (1, 4)
GRADIENT_BLOCK = 4
_FIXED_DRAWS = {"full": 1, "coupled": 3, "one_ratio": 1}
_TOKENS_PER_SECOND = 45_000  # forwarded, one thread: for the first guess of the time left only
# as the page was measured; the presets' own may change
_WARM_STARTS = {
    "adder": {"warmup_steps": 1500, "warmup_learning_rate": 2e-3},
    "stack_programs": {"warmup_steps": 1200, "warmup_learning_rate": 2e-3},
}
_EASY_REWARD = Path(__file__).with_name("easy_reward.py")


@dataclass(frozen=True)
class Cell:
    """One file to be made.

    Attributes:
        part: which measurement; settings: what it is asked for; needs: names of cells that come first.
        seconds: a guess of its time on a core of its own.
    """

    part: str
    name: str
    settings: dict[str, Any]
    needs: tuple[str, ...] = ()
    seconds: float = 1.0


@dataclass(frozen=True)
class Scale:
    """How large everything is.

    Attributes:
        changes: to every task's preset. budgets: tokens forwarded, by task, that part 1 compares at.
        least_steps: training steps that every run of part 1 makes at least; eval_every: by number of draws.
        objective_budget: tokens forwarded that part 2 compares at; evaluations: about how many on the way.
        state_steps: RL steps before parts 3 and 4 measure; replicates: gradients per cell of part 3;
            reference_replicates: in each half of its reference.
    """

    name: str
    tasks: tuple[str, ...]
    changes: dict[str, Any]
    mc_seeds: int
    draws: tuple[int, ...]
    least_steps: int
    budgets: dict[str, int]
    eval_every: dict[int, int]
    objective_seeds: int
    objective_budget: int
    evaluations: int
    state_steps: int
    measured_prompts: int
    measured_group: int
    gradient_draws: tuple[int, ...]
    replicates: int
    reference_replicates: int
    gap_seeds: int
    gap_draws: int
    gap_scales: tuple[float, ...]
    gap_updates: tuple[int, ...]
    memory_draws: tuple[int, ...]
    common: dict[str, Any] = field(
        default_factory=lambda: {"threads": 1, "bound_probe": 0, "token_budget": 4096, "advantage": "mean"}
    )


FULL = Scale(
    "full", ("adder", "stack_programs"), {"eval_problems": 128}, mc_seeds=5, draws=(1, 2, 4, 16), least_steps=16,
    budgets={"adder": 1_200_000, "stack_programs": 1_800_000}, eval_every={1: 4, 2: 4, 4: 2, 16: 2},
    objective_seeds=5, objective_budget=700_000, evaluations=6, state_steps=10, measured_prompts=8,
    measured_group=8, gradient_draws=(1, 4, 16), replicates=24, reference_replicates=24, gap_seeds=3,
    gap_draws=16, gap_scales=tuple(2.0**k for k in range(-6, 7)), gap_updates=(1, 2, 4, 8, 16, 32),
    memory_draws=(1, 2, 4, 8, 16, 32),
)
QUICK = Scale(
    "quick", ("adder", "stack_programs"),
    {
        "eval_problems": 8, "warmup_steps": 30, "warmup_examples": 128, "prompts_per_step": 2, "group_size": 6,
        "reward_file": str(_EASY_REWARD),
    },
    mc_seeds=2, draws=(1, 4), least_steps=2, budgets={"adder": 2_000, "stack_programs": 3_000},
    eval_every={1: 1, 4: 1}, objective_seeds=1, objective_budget=2_000, evaluations=2, state_steps=1,
    measured_prompts=3, measured_group=6, gradient_draws=(1, 2), replicates=4, reference_replicates=4, gap_seeds=1,
    gap_draws=4, gap_scales=(0.25, 1.0, 4.0), gap_updates=(1, 2), memory_draws=(1, 2),
)


def config_of(scale: Scale, task: str, seed: int, **values: Any) -> TrainConfig:
    """The task's preset with the scale's changes."""
    changes = {**_WARM_STARTS[task], **scale.common, **scale.changes, **values}
    return PRESETS[task].config().with_values(seed=seed, **changes)


def step_tokens(config: TrainConfig) -> int:
    """Tokens forwarded by one step if every completion is live: a guess, to place evaluations by."""
    c, objective = config, OBJECTIVES[config.objective]
    draws = _FIXED_DRAWS.get(objective.draws, c.denoising_steps if objective.draws == "trace_slices" else c.mc_samples)
    two_passes = not objective.separable and not objective.retained
    passes = 3 * c.updates_per_rollout
    passes += two_passes * (c.updates_per_rollout - objective.ratio_only)
    passes += (objective.redraw and objective.uses_old) * (c.updates_per_rollout - 1)
    rows = c.prompts_per_step * c.group_size * (TASKS[c.task].prompt_length + c.completion_length)
    return rows * (c.denoising_steps + draws * passes)


def plan(scale: Scale) -> list[Cell]:
    """All cells, in the order in which they are made."""
    main, *others = scale.tasks
    seeds = range(max(scale.mc_seeds, scale.objective_seeds, scale.gap_seeds))
    cells = [
        *_mask_draws(scale, main, 0), *_gap(scale, 0), *_gradients(scale), *_objectives(scale, 0), *_memory(scale),
    ]
    for seed in seeds[1:]:
        cells += _mask_draws(scale, main, seed)
    for seed in seeds[1:]:
        cells += _objectives(scale, seed) if seed < scale.objective_seeds else []
        cells += _gap(scale, seed) if seed < scale.gap_seeds else []
    for task in others:
        for seed in range(scale.mc_seeds):
            cells += _mask_draws(scale, task, seed)
    return cells


def _mask_draws(scale: Scale, task: str, seed: int) -> list[Cell]:
    """A seed's warm start and, where part 1 has that many seeds, its runs."""
    draws = scale.draws if seed < scale.mc_seeds else ()
    return [_warm_start(scale, task, seed), *(_mc_samples(scale, task, seed, K) for K in draws)]


def _warm_start(scale: Scale, task: str, seed: int) -> Cell:
    config = config_of(scale, task, seed)
    return _training("warm_start", f"warm-start_{task}_{seed}", config, 0, 0, (), 0.035 * config.warmup_steps)


def _training(
    part: str, name: str, config: TrainConfig, steps: int, tokens: int, needs: tuple[str, ...], seconds: float
) -> Cell:
    settings = {"config": config.model_dump(), "least_steps": steps, "least_tokens": tokens}
    return Cell(part, name, settings, needs, 3 + seconds)


def _mc_samples(scale: Scale, task: str, seed: int, K: int) -> Cell:
    config = config_of(
        scale, task, seed, mc_samples=K, eval_every=scale.eval_every[K], train_steps=100_000, objective="bgpo"
    )
    budget = scale.budgets[task]
    tokens = max(budget, scale.least_steps * step_tokens(config))
    return _training(
        "mc_samples", f"mc-samples_{task}_{K}_{seed}", config, scale.least_steps, budget,
        (f"warm-start_{task}_{seed}",), tokens / _TOKENS_PER_SECOND,
    )


def _objectives(scale: Scale, seed: int) -> list[Cell]:
    cells = []
    for updates in REGIMES:
        for name in OBJECTIVES:
            if updates == 1 and name in TWINS and seed:
                continue
            config = config_of(
                scale, "adder", seed, objective=name, updates_per_rollout=updates, mc_samples=4, train_steps=100_000
            )
            every = max(1, round(scale.objective_budget / scale.evaluations / step_tokens(config)))
            cells.append(_training(
                "objectives", f"objectives_{name}_{updates}_{seed}", config.with_values(eval_every=every), 1,
                scale.objective_budget, (f"warm-start_adder_{seed}",), scale.objective_budget / _TOKENS_PER_SECOND,
            ))
    return cells


def _state(scale: Scale, seed: int) -> Cell:
    config = config_of(scale, "adder", seed, train_steps=scale.state_steps, eval_every=scale.state_steps)
    seconds = scale.state_steps * step_tokens(config) / _TOKENS_PER_SECOND
    return _training("state", f"state_{seed}", config, 10**9, 0, (f"warm-start_adder_{seed}",), seconds)


def _measured(scale: Scale, seed: int, **values: Any) -> dict[str, Any]:
    """The config whose rollouts parts 3 and 4 measure on, and the checkpoint that made them."""
    config = config_of(
        scale, "adder", seed, prompts_per_step=scale.measured_prompts, group_size=scale.measured_group, **values
    )
    return {"config": config.model_dump(), "state": f"state_{seed}", "state_steps": scale.state_steps}


def _gradients(scale: Scale) -> list[Cell]:
    rows = scale.measured_prompts * scale.measured_group * 13 * 3 / _TOKENS_PER_SECOND
    most = max(scale.gradient_draws)
    reference = Cell(
        "reference", "reference", _measured(scale, 0, mc_samples=most) | {"replicates": scale.reference_replicates},
        ("state_0",), 2 * rows * most * scale.reference_replicates,
    )
    cells = [reference]
    for scheme in MASK_SCHEMES:
        for share in (False, True):
            values = {"mask_draws": scheme, "share_masks": share}
            if scheme == "block":
                values["block_length"] = GRADIENT_BLOCK
            settings = _measured(scale, 0, **values)
            # the rollouts must be the same ones for every scheme, whatever blocks its masks respect
            settings |= {"draws": list(scale.gradient_draws), "replicates": scale.replicates}
            settings["rollouts"] = _measured(scale, 0)["config"]
            name = f"gradient_{scheme}_{'shared' if share else 'own'}"
            seconds = rows * sum(scale.gradient_draws) * scale.replicates
            cells.append(Cell("gradient", name, settings, ("reference",), seconds))
    return cells


def _gap(scale: Scale, seed: int) -> list[Cell]:
    settings = _measured(scale, seed, mc_samples=scale.gap_draws)
    settings |= {"scales": list(scale.gap_scales), "updates": list(scale.gap_updates)}
    return [_state(scale, seed), Cell("gap", f"gap_{seed}", settings, (f"state_{seed}",), 60)]


def _memory(scale: Scale) -> list[Cell]:
    return [
        Cell("memory", f"memory_{objective}_{K}", {"objective": objective, "mc_samples": K}, (), 5)
        for K in scale.memory_draws for objective in ("bgpo", "elbo", "elbo_two_pass")
    ]
