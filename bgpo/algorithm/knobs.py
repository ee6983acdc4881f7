"""What a config's objective knobs may hold, and have to agree on. Torch-free: a form refuses what the worker would."""

from __future__ import annotations

from typing import Protocol

from bgpo.algorithm.objectives import OBJECTIVES

MASK_DRAWS = (
    "auto", "stratified", "antithetic", "systematic", "iid", "complementary", "gauss", "block", "bernoulli",
)
FRESH_MASKS = ("auto", "each_rollout", "each_update")
LENGTH_NORMALIZATIONS = ("auto", "completion", "none")
KL_REFERENCES = ("start", "old")
CUSTOM = "custom"  # the objective of the user's own file
_LONGEST_SHOWN = 60


class ObjectiveKnobs(Protocol):
    """The knobs of a config that objectives read."""

    objective: str
    objective_file: str
    mask_draws: str
    advantage: str
    group_size: int
    updates_per_rollout: int


def objective_contradictions(c: ObjectiveKnobs) -> dict[str, str]:
    """Knob -> one sentence for each that cannot hold with the others."""
    problems: dict[str, str] = {}
    if c.objective == CUSTOM and not c.objective_file:
        problems["objective_file"] = (
            "objective = custom without an objective_file; name the Python file, or choose one of the objectives."
        )
    if c.objective_file and c.objective != CUSTOM:
        problems["objective_file"] = (
            f"objective_file = {c.objective_file[:_LONGEST_SHOWN]} is not used by objective = {c.objective}; set "
            "objective to custom, or clear objective_file."
        )
    objective = OBJECTIVES.get(c.objective)
    if objective and objective.fixed_draws and c.mask_draws != "auto":
        problems["mask_draws"] = (
            f"mask_draws = {c.mask_draws} is not possible with objective = {c.objective}, whose draws are part of the "
            "method; set mask_draws to auto, or choose another objective."
        )
    return problems | _group_contradictions(c)


def _group_contradictions(c: ObjectiveKnobs) -> dict[str, str]:
    if c.group_size > 1:
        return {}
    if c.updates_per_rollout > 1:
        return {"updates_per_rollout": (
            f"updates_per_rollout = {c.updates_per_rollout} with group_size = 1 would repeat a step without anything "
            "to compare with; set updates_per_rollout to 1 or group_size to 2 or more."
        )}
    if c.advantage != "none":
        return {"group_size": (
            f"group_size = 1 gives every completion the advantage 0 under advantage = {c.advantage}; "
            "set group_size to 2 or more, or advantage to none."
        )}
    return {}
