"""Checkpoints in a run's folder that no row names: of a process that was killed in between, or of a lost database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from bgpo.jobs import runner
from storage.checkpoints import add_checkpoint, checkpoints_of
from storage.database import Database
from storage.runs import Run

_NAME = re.compile(r"step-\d+")


def list_checkpoints(db: Database, run: Run) -> None:
    """Gives every whole checkpoint in the run's folder a row. For a run that no process works on."""
    known = {saved.step for saved in checkpoints_of(db, run.id)}
    for path, state in saved_in(Path(run.folder)):
        step = whole_number(state.get("step"))
        if step not in known:
            kind = "final" if step == run.train_steps else "evaluation" if step else "warm_start"
            add_checkpoint(db, run.id, step, kind, str(path))


def saved_in(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    """Whole checkpoints of training with what they say of themselves, by step."""
    found = []
    for path in folder.glob("checkpoints/step-*"):
        state = runner.read_json(path / "training_state.json")
        if _NAME.fullmatch(path.name) and (path / "manifest.json").is_file() and state:
            found.append((path, state))
    return sorted(found, key=lambda item: whole_number(item[1].get("step")))


def whole_number(value: Any) -> int:
    """What a file says, if it is a number that a column can hold; else 0."""
    return int(value) if isinstance(value, (int, float)) and 0 <= value < 2**31 else 0
