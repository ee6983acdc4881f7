"""The real worker around a job that needs no torch, so that a fault costs a second and not ten.

    python -m tests.jobs.tiny_worker RUN_ID --database URL

Everything but the training is the product's: row, signals, reporter, spool, log, end. The job's steps are figures that
follow from the seed; each saves its number, from which a resumed one goes on. At step `FAULT_AT` of the runs with seed
0 it executes what the test has put into the environment.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from bgpo.config import TrainConfig
from bgpo.jobs import runner, worker

FAULT = "BGPO_TEST_FAULT"  # statements of Python; `step`, `folder` and `listener` are theirs
FAULT_AT = 5
_STATE = "state.json"


def run(config: TrainConfig, folder: Path, listener, warm_start_cache: Path) -> SimpleNamespace:
    """Counts to `train_steps`; a figure and a saved step each."""
    done = (runner.read_json(folder / _STATE) or {"step": 0})["step"]
    listener.phase("training", done, config.train_steps)
    for step in range(done + 1, config.train_steps + 1):
        if listener.should_stop():
            return SimpleNamespace(status="stopped", step=step - 1)
        if step == FAULT_AT and config.seed == 0:
            exec(os.environ.get(FAULT, ""), {"step": step, "folder": folder, "listener": listener})
        listener.metrics(step, {"reward/mean": figure(config.seed, step), "lr": 1 / step})
        listener.phase("training", step, config.train_steps)
        listener.keep()
        runner.write_json(folder / _STATE, {"step": step})
        time.sleep(0.01)
    return SimpleNamespace(status="finished", step=config.train_steps)


def figure(seed: int, step: int) -> float:
    return ((seed + 1) * step % 17) / 17


if __name__ == "__main__":
    worker.JOBS["train"] = "tests.jobs.tiny_worker:run"
    sys.exit(worker.main())
