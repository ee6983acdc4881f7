"""The mirror with the packages that people install, each fed by a worker as people start it; skipped where missing.

Weights & Biases runs offline and trackio on its own files, so none needs an account. Each is read back by its own
means, or from its own file, and has to hold what the database holds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bgpo.jobs.mirror import PROJECT
from storage.metrics import points_after
from storage.runs import get_run
from tests.waiting import PATIENCE

from .conftest import QUICK, ROOT

TRACKIO = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
(name,) = SQLiteStorage.get_runs(sys.argv[1])
print(json.dumps([name, SQLiteStorage.get_logs(sys.argv[1], name)]))
"""


def needs(package: str) -> pytest.MarkDecorator:
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed; pip install {package}")


@pytest.fixture
def environment(data: Path) -> dict[str, str]:
    return {
        **os.environ, "WANDB_MODE": "offline", "TRACKIO_DIR": str(data / "trackio"), "HF_HUB_OFFLINE": "1",
        "HOME": str(data),
    }


@pytest.fixture
def mirrored(db, row, environment):
    """Trains some steps with that mirror; the run, and {metric: {step: value}} as the database has it."""

    def train(name: str):
        run = row("queued", QUICK.with_values(mirror=name, train_steps=3, warmup_steps=5, eval_every=3).to_json())
        command = [sys.executable, "-m", "bgpo.jobs.worker", str(run.id), "--database", db.url, "--json"]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        log = Path(run.folder, "log.txt").read_text()
        assert done.returncode == 0, done.stderr + log
        assert json.loads(done.stdout.splitlines()[-1])["status"] == "finished"  # whatever a service prints
        assert "mirror" not in log and f"reach {name}" not in log and f"{name} has not closed" not in log
        stored: dict[str, dict[int, float]] = {}
        for point in points_after(db, run.id, 0)[0]:
            if point.value is not None:
                stored.setdefault(point.metric, {})[point.step] = point.value
        assert len(stored["reward/mean"]) >= 3
        return get_run(db, run.id), stored

    return train


@needs("tensorboard")
def test_tensorboard_reads_back_what_the_database_holds(mirrored):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, stored = mirrored("tensorboard")
    found = EventAccumulator(str(Path(run.folder, "tensorboard")), size_guidance={"scalars": 0})
    found.Reload()
    seen = {name: {event.step: event.value for event in found.Scalars(name)} for name in found.Tags()["scalars"]}
    assert seen.keys() == stored.keys()
    for name, values in stored.items():
        assert seen[name] == pytest.approx(values, rel=1e-6)  # kept as 32-bit floats


@needs("wandb")
def test_weights_and_biases_holds_offline_what_the_database_holds(mirrored):
    run, stored = mirrored("wandb")
    (file,) = Path(run.folder).glob("wandb/offline-run-*/run-*.wandb")
    records = list(wandb_records(file))
    (begun,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (begun.project, begun.display_name) == (PROJECT, run.name)
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    assert (config["mirror"], config["train_steps"]) == ("wandb", 3)
    seen: dict[str, dict[int, float]] = {}
    for record in records:
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            values = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            for name in values.keys() & stored.keys():
                seen.setdefault(name, {})[values["step"]] = values[name]
    assert seen == stored


@needs("trackio")
def test_trackio_holds_what_the_database_holds(mirrored, environment):
    run, stored = mirrored("trackio")
    command = [sys.executable, "-c", TRACKIO, PROJECT]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout
    name, rows = json.loads(said.splitlines()[-1])
    assert name == f"{run.name} ({run.id})"
    seen: dict[str, dict[int, float]] = {}
    for line in rows:
        for metric in line.keys() & stored.keys():
            if line[metric] is not None:
                seen.setdefault(metric, {})[line["step"]] = line[metric]
    assert seen == stored


def wandb_records(file: Path) -> Iterator[object]:
    """The records of an offline run: a log in LevelDB's format (blocks of 32 kB, records in pieces) of protobufs."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, block = file.read_bytes(), 7, 32768
    whole = b""
    while at + 7 <= len(data):
        if block - at % block < 7:  # too little room for a header: padding
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            whole = b""
            yield record
