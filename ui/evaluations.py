"""Checkpoints by tasks and completion lengths: what the job `evaluate`, and runs on their way, have measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from bgpo.config import TrainConfig
from bgpo.models.decoding_knobs import eval_lengths
from bgpo.training.metrics import COMPLETIONS_FILE, EVALUATIONS, at_length, evaluation_file
from storage.checkpoints import checkpoints_of
from storage.metrics import values_by_step
from storage.runs import Run, get_run, list_runs
from ui import run_words
from ui.answers import RefusedRequest, json_answer
from ui.run_summaries import short
from ui.services import Services

METRICS = ("eval/pass_1", "eval/pass_1_low", "eval/pass_1_high", "eval/pass_k", "eval/tokens", "eval/nfe")


@dataclass(frozen=True)
class Measured:
    """One model: `scores` are its metrics by completion length, as far as the evaluation has come.

    Attributes:
        run: that measured it.
        step: of `run` itself, whose checkpoint it is; None: the job `evaluate`, which measures what it starts from.
    """

    run: Run
    config: TrainConfig
    scores: list[tuple[int, dict[str, float | None]]]
    step: int | None = None


def add(router: APIRouter, services: Services) -> None:
    """Adds the route to the API's router."""

    @router.get("/evaluations")
    def evaluations(request: Request) -> Response:
        runs = list_runs(services.db)
        return json_answer(request, table(measured(services, runs), {run.id: run.name for run in runs}))

    @router.get("/runs/{run_id}/judged")
    def judged(run_id: int, step: int | None = None) -> Response:
        return FileResponse(judged_file(services, run_id, step), media_type="application/x-ndjson",
                            filename=f"run-{run_id}{'' if step is None else f'-step-{step}'}-completions.jsonl")


def judged_file(services: Services, run_id: int, step: int | None) -> Path:
    """Every completion of an evaluation with its verdict; `step` None: of a run of the job `evaluate`.

    Raises RunNotFound, and RefusedRequest where there is no such file.
    """
    folder = Path(get_run(services.db, run_id).folder)
    path = folder / COMPLETIONS_FILE if step is None else folder / EVALUATIONS / evaluation_file(step)
    if not path.is_file():
        raise RefusedRequest("The completions of this evaluation are not on this machine any more.", 404)
    return path


def measured(services: Services, runs: Iterable[Run]) -> list[Measured]:
    """What some runs have measured, the oldest run first; of a run on its way, the checkpoints that are there."""
    found = []
    for run in sorted(runs, key=lambda run: run.id):
        # most rows measure no pass@1, and reading a config takes longer than looking for words
        config = None if all(word in run.config_json for word in _MEASURE_NOTHING) else run_words.config_of(run)
        if config is not None and config.job == "evaluate":
            found.append(Measured(run, config, values_by_step(services.db, run.id, METRICS)))
        elif config is not None and config.job == "train":
            found += _on_the_way(services, run, config)
    return found


# in the config of a run that trains the built-in model without being asked for pass@1
_MEASURE_NOTHING = ('"job":"train"', '"model":"tiny"', '"eval_lengths":""', '"eval_samples":1,')


def _on_the_way(services: Services, run: Run, config: TrainConfig) -> list[Measured]:
    lengths = eval_lengths(config)
    names = [at_length(name, length) for length in lengths for name in METRICS]
    saved = {checkpoint.step for checkpoint in checkpoints_of(services.db, run.id)}
    return [
        Measured(run, config, [(length, _at(values, length)) for length in lengths], step)
        for step, values in values_by_step(services.db, run.id, names) if step in saved
    ]


def _at(values: Mapping[str, float | None], length: int) -> dict[str, float | None]:
    """A run with one try a problem logs no pass@k: it is pass@1 then."""
    found = {name: values.get(at_length(name, length)) for name in METRICS}
    return found | {"eval/pass_k": found["eval/pass_k"] if found["eval/pass_k"] is not None else found["eval/pass_1"]}


def table(evaluations: Iterable[Measured], names: Mapping[int, str]) -> dict[str, Any]:
    """`{"columns": [...], "rows": [...]}`; where one checkpoint was measured several times, the newest counts.

    Args:
        evaluations: the oldest first.
        names: of the runs that are there, by id.
    """
    columns: dict[str, dict[str, Any]] = {}
    rows: dict[str, dict[str, Any]] = {}
    for one in evaluations:
        for length, values in one.scores:
            if values.get("eval/pass_1") is None:
                continue
            column, row = _column(one.config, length), _row(one, names)
            columns.setdefault(column["key"], column)
            cells = rows.setdefault(row["key"], row)["cells"]
            cells[column["key"]] = _cell(one, values, cells.get(column["key"], {}).get("times", 0) + 1)
    order = sorted(columns.values(), key=lambda column: (column["task"], column["data"], column["length"]))
    return {"columns": order, "rows": list(rows.values())}


def _column(config: TrainConfig, length: int) -> dict[str, Any]:
    source = config.task_file or config.data
    return {
        "key": "\n".join((config.task, config.task_file, config.data, str(length))), "task": config.task,
        "data": PurePath(source).name, "length": length,
    }


def _row(one: Measured, names: Mapping[int, str]) -> dict[str, Any]:
    """What was measured: a step of a run, else the weights by their name."""
    run, config = one.run, one.config
    if one.step is not None:
        return {"key": f"run:{run.id}@{one.step}", "run": run.id, "name": run.name, "step": one.step, "cells": {}}
    if run.parent_id is not None:
        name = names.get(run.parent_id, f"run {run.parent_id}, which is not there any more")
        key = f"run:{run.parent_id}@{run.parent_step}"
        return {"key": key, "run": run.parent_id, "name": name, "step": run.parent_step, "cells": {}}
    weights = config.start_from or config.model_path
    name = PurePath(weights).name or f"{config.model}, untrained"
    return {"key": f"weights:{weights or config.model}", "run": None, "name": name, "step": None, "cells": {}}


def _cell(one: Measured, values: Mapping[str, float | None], times: int) -> dict[str, Any]:
    config = one.config
    numbers = {name.removeprefix("eval/"): short(values.get(name)) for name in METRICS}
    return numbers | {
        "problems": config.eval_problems, "samples": config.eval_samples, "evaluation": one.run.id,
        "times": times, "of_step": one.step,
        "cache": config.eval_cache, "schedule": config.eval_schedule,
    }
