"""Routes that answer for the rollouts of a run: a step, a group, one prompt through training, a text, a trace."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request, Response

from storage.database import Database
from storage.rollouts import (
    GROUP_KINDS,
    ORDERS,
    Group,
    Rollout,
    group_of,
    groups_of,
    last_rollout_step,
    prompt_through_training,
    rollout_steps,
    rollouts_of_step,
    trace_of,
    traces_of_group,
)
from storage.runs import get_run
from storage.search import LONGEST, search_rollouts
from ui.answers import RefusedRequest, json_answer
from ui.services import Services

MOST = 200  # groups or found completions in one answer
LARGEST_STEP, LARGEST_INDEX = 2**20 - 1, 1023  # what a rollout's place may be at most


def add(router: APIRouter, services: Services) -> None:
    """Adds the routes to the API's router."""
    add_steps(router, services.db)
    add_groups(router, services.db)
    add_traces(router, services.db)
    add_search(router, services.db)


def add_steps(router: APIRouter, db: Database) -> None:
    """The steps that have rollouts, and all that one of them kept."""

    @router.get("/runs/{run_id}/rollouts")
    def of_step(
        request: Request, run_id: int, step: int | None = None, order: str = "reward", groups: str = "any",
        chars: int | None = None,
    ) -> Response:
        """`chars`: how much of each completion and prompt is wanted; all of it unless less is asked for."""
        get_run(db, run_id)
        _chosen("order", order, ORDERS), _chosen("kind of group", groups, GROUP_KINDS)
        if step is None:
            step = last_rollout_step(db, run_id)
        found = [] if step is None else rollouts_of_step(db, run_id, _within(step, 2**31), order=order, kind=groups)
        rows = [_cut(rollout_row(item), chars) for item in found]
        return json_answer(request, {"step": step, "rows": rows})

    @router.get("/runs/{run_id}/rollouts/steps")
    def steps(request: Request, run_id: int, after_step: int = -1) -> Response:
        get_run(db, run_id)
        return json_answer(request, [asdict(item) for item in rollout_steps(db, run_id, after_step)])


def add_groups(router: APIRouter, db: Database) -> None:
    """Groups of a kind over all steps, one group, and one prompt through training."""

    @router.get("/runs/{run_id}/rollouts/groups")
    def groups(request: Request, run_id: int, groups: str = "any", before_step: int | None = None,
               limit: int = 50) -> Response:
        get_run(db, run_id)
        _chosen("kind of group", groups, GROUP_KINDS)
        found = groups_of(db, run_id, kind=groups, before_step=before_step, limit=_within(limit, MOST) or 1)
        return json_answer(request, [group_row(item) for item in found])

    @router.get("/runs/{run_id}/rollouts/group")
    def group(request: Request, run_id: int, step: int, problem: int) -> Response:
        get_run(db, run_id)
        found = group_of(db, run_id, _within(step, LARGEST_STEP), _within(problem, 4 * LARGEST_INDEX))
        return json_answer(request, [rollout_row(item) for item in found])

    @router.get("/runs/{run_id}/rollouts/prompt")
    def prompt(request: Request, run_id: int, prompt: str) -> Response:
        get_run(db, run_id)
        return json_answer(request, [group_row(item) for item in prompt_through_training(db, run_id, prompt)])


def add_traces(router: APIRouter, db: Database) -> None:
    """How a completion was denoised, and when each token of a group's completions was fixed."""

    @router.get("/runs/{run_id}/rollouts/trace")
    def trace(request: Request, run_id: int, step: int, problem: int, completion: int) -> Response:
        get_run(db, run_id)
        place = _within(step, LARGEST_STEP), _within(problem, 4 * LARGEST_INDEX), _within(completion, LARGEST_INDEX)
        found = trace_of(db, run_id, *place)
        if found is None:
            raise RefusedRequest("That rollout is not stored; a run keeps the groups that keep_rollouts says.", 404)
        return json_answer(request, {"trace": json.loads(found or "[]")})

    @router.get("/runs/{run_id}/rollouts/orders")
    def orders(request: Request, run_id: int, step: int, problem: int) -> Response:
        get_run(db, run_id)
        found = traces_of_group(db, run_id, _within(step, LARGEST_STEP), _within(problem, 4 * LARGEST_INDEX))
        return json_answer(request, {"orders": {str(index): order_of(trace) for index, trace in found.items()}})


def add_search(router: APIRouter, db: Database) -> None:
    """Any text in the completions of all steps."""

    @router.get("/runs/{run_id}/search")
    def search(request: Request, run_id: int, q: str = "", before: str = "", limit: int = 50) -> Response:
        get_run(db, run_id)
        if len(q) > LONGEST:
            raise RefusedRequest(f"The text to look for is longer than {LONGEST} characters.")
        number = int(before) if before.isascii() and before.isdigit() and len(before) < 20 else None
        found, more = search_rollouts(db, run_id, q, before=number, limit=_within(limit, MOST) or 1)
        rows = [rollout_row(item) for item in found]
        # a text: the number has more bits than a number in a browser
        return json_answer(request, {"rows": rows, "before": str(more) if more else None})


def rollout_row(item: Rollout) -> dict[str, Any]:
    """One rollout as a page gets it; the trace is asked for by itself."""
    return {
        "step": item.step, "problem": item.problem_index, "index": item.completion_index, "prompt": item.prompt,
        "completion": item.completion, "expected": item.expected, "reward": item.reward, "advantage": item.advantage,
        "tokens": item.tokens, "reason": item.reason, "parts": item.parts,
        "solved": item.solved,
    }


def _cut(row: dict[str, Any], chars: int | None) -> dict[str, Any]:
    if chars is None:
        return row
    return row | {name: row[name][:max(0, chars)] for name in ("prompt", "completion")}


def order_of(trace: str) -> list[int]:
    """The denoising step at which each position was fixed, by position."""
    return [step for _, step in sorted((position, step) for step, position, *_ in json.loads(trace or "[]"))]


def group_row(item: Group) -> dict[str, Any]:
    row = asdict(item)
    return row | {"problem": row.pop("problem_index")}


def _chosen(what: str, name: str, table: dict[str, Any]) -> None:
    if name not in table:
        raise RefusedRequest(f"There is no {what} of that name; there are {', '.join(table)}.")


def _within(number: int, most: int) -> int:
    return max(0, min(number, most))
