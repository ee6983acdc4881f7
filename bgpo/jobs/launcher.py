"""A row becomes processes: starts the runner of a run that has been claimed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bgpo.jobs import runner
from bgpo.jobs.command import DATABASE_VARIABLE, holds_password
from bgpo.jobs.devices import is_cpu
from storage.database import Database
from storage.runs import Run

ROOT = Path(__file__).resolve().parents[2]  # where `bgpo` and `storage` are imported from


class LaunchError(Exception):
    """A run whose runner could not be started; the message is a sentence for a person."""


def launch(db: Database, run: Run, devices: Sequence[str] = ()) -> subprocess.Popen[bytes]:
    """Starts the runner of a run with status launching, on the devices that it has leased, and returns at once.

    The runner has a session of its own: Ctrl-C in the app's terminal does not reach it, and it goes on
    when the app ends. The caller polls what is returned so that no zombie stays. Raises LaunchError.
    """
    folder = Path(run.folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        runner.forget_last_end(folder)
        with open(folder / runner.LOG, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-S", "-E", runner.__file__, str(folder), *worker_command(db, run.id)],
                cwd=ROOT, env=worker_environment(db) | device_environment(run, devices),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )
    except OSError as error:
        what = f" {error.filename}" if error.filename else ""
        raise LaunchError(f"The run's process could not be started:{what} {error.strerror or error}.") from error


def worker_command(db: Database, run_id: int) -> list[str]:
    """The command of one run's worker; every user of the machine can read it, so it holds no password."""
    command = [sys.executable, "-m", "bgpo.jobs.worker", str(run_id)]
    return command if holds_password(db.url) else [*command, "--database", db.url]


def device_environment(run: Run, devices: Sequence[str]) -> dict[str, str]:
    """What keeps the run on its own devices, and its mark."""
    gpus = [device for device in devices if not is_cpu(device)]
    # a run that only has no GPU because none is known keeps what there may be of another make
    visible = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus or run.device_kind == "cpu" else {}
    return {runner.RUN_FOLDER: run.folder, **visible}


def worker_environment(db: Database) -> dict[str, str]:
    """The app's environment, and what the worker needs beside its command."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {
        DATABASE_VARIABLE: db.url,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",  # a line is in the log when it is printed
        "PYTHONFAULTHANDLER": "1",  # and a crash in native code leaves a trace there
    }
