"""A run goes out and comes back whole; whatever else comes in is refused with a sentence and leaves nothing."""

from __future__ import annotations

import io
import json
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.jobs import archive as module
from bgpo.jobs.archive import ArchiveError, export_run, import_run
from bgpo.models.adapters import AdapterSettings, add_adapter
from bgpo.models.checkpoints import TrainingState, load_model, save_checkpoint
from bgpo.models.tiny import build_tiny
from storage.alerts import Alert, alerts_of
from storage.checkpoints import add_checkpoint, checkpoints_of, pin_checkpoint
from storage.completions import Completion, completions_of
from storage.metrics import Point, flush, points_after, series
from storage.rollouts import Rollout, whole_rollouts
from storage.runs import get_run, list_runs, run_events, transition
from storage.search import search_rollouts

CONFIG = TrainConfig(train_steps=60, seed=7)


@pytest.fixture
def run(db, row):
    """A stopped run with a bit of everything."""
    run = row("running", CONFIG.to_json())
    folder = Path(run.folder)
    points = [Point("reward/mean", step, step * 0.5, step / 5000 if step % 7 else None) for step in range(5000)]
    shown = Completion(5, "held_out", 0, "37+48", "075\u202e", "085", 0.0, "why", "[[1, 0, \"0\", 0.9]]")
    rollouts = [Rollout(step, 0, index, "1+1", f"text {step} {index}", "2", 0.5, None, 3, "r", {"a": None}, "[[1]]",
                        index == 1)
                for step in range(30) for index in range(4)]  # fmt: skip
    flush(db, run.id, points, [shown], alerts=[Alert(3, "collapse", "serious", "It fell.", 2.0)], rollouts=rollouts)
    for step, reward in ((0, 0.1), (5, 0.9), (10, 0.4), (15, 0.5)):
        saved = folder / "checkpoints" / f"step-{step:06d}"
        saved.mkdir(parents=True)
        (saved / "model.safetensors").write_bytes(bytes([step]) * 10_000)
        (saved / "pytorch_model.bin").write_bytes(b"a pickle")
        add_checkpoint(db, run.id, step, "evaluation", str(saved), reward)
    (folder / "log.txt").write_text("It went well.\n")
    (folder / "code").mkdir()
    (folder / "code" / "reward.py").write_text("def reward(*_): return 1.0\n")
    transition(db, run.id, ("running",), "stopped", reason="Stopped.", step=15, seconds=12.5)
    return get_run(db, run.id)


@pytest.fixture
def exported(db, run, tmp_path):
    return export_run(db, run.id, tmp_path / "run.zip")


def test_a_run_comes_back_whole_under_a_new_number(db, run, exported, runs_folder):
    back = import_run(db, exported, runs_folder)
    assert back.id != run.id
    for name in ("name", "status", "reason", "step", "seconds", "created_at", "finished_at"):
        assert getattr(back, name) == getattr(run, name), name
    assert TrainConfig.from_json(back.config_json) == CONFIG
    everything = {"limit": 10**6}
    assert points_after(db, back.id, 0, **everything)[0] == points_after(db, run.id, 0, **everything)[0]
    assert series(db, back.id, "reward/mean", buckets=20) == series(db, run.id, "reward/mean", buckets=20)
    assert completions_of(db, back.id) == completions_of(db, run.id)
    assert whole_rollouts(db, back.id)[0] == whole_rollouts(db, run.id)[0]
    assert len(search_rollouts(db, back.id, "text 2", limit=500)[0]) == 44
    assert alerts_of(db, back.id) == alerts_of(db, run.id)
    assert [event for event in run_events(db, back.id) if event in run_events(db, run.id)] == run_events(db, run.id)
    assert Path(back.folder, "log.txt").read_text() == "It went well.\n"


def test_an_archive_from_before_verdicts_were_kept(db, run, exported, runs_folder, tmp_path):
    with zipfile.ZipFile(exported) as archive:
        rows = [json.loads(line) for line in archive.read("rollouts.jsonl").splitlines()]
    for row in rows:
        del row["solved"]
        row["parts"] = {"correct": float(row["completion_index"] == 2), "tags": 0.5}
    old = changed(exported, tmp_path / "old.zip", rollouts_jsonl="".join(json.dumps(row) + "\n" for row in rows))
    back = import_run(db, old, runs_folder)
    assert [item.solved for item in whole_rollouts(db, back.id)[0]] == [False, False, True, False] * 30


def test_the_best_and_the_last_checkpoint_go_with_it_and_no_pickle(db, run, exported, runs_folder):
    back = import_run(db, exported, runs_folder)
    saved = checkpoints_of(db, back.id)
    assert [(item.step, item.reward) for item in saved] == [(5, 0.9), (15, 0.5)]
    for item in saved:
        assert Path(item.folder).parent == Path(back.folder, "checkpoints")
        assert [path.name for path in Path(item.folder).iterdir()] == ["model.safetensors"]
        assert Path(item.folder, "model.safetensors").read_bytes() == bytes([item.step]) * 10_000


def test_the_model_under_an_adapter_goes_with_it(db, row, runs_folder, tmp_path):
    run = row("running", CONFIG.to_json())
    model, state = build_tiny(torch.Generator().manual_seed(0)), TrainingState("training", 0, 0.0, 1)
    base, saved = Path(run.folder, "base"), Path(run.folder, "checkpoints", "step-000005")
    save_checkpoint(base, model, state, None)
    add_adapter(model.model, AdapterSettings(2, 4.0, 0.0, "all"), str(base), torch.Generator().manual_seed(1))
    save_checkpoint(saved, model, state, None)
    add_checkpoint(db, run.id, 5, "final", str(saved), 0.5)
    transition(db, run.id, ("running",), "stopped")
    exported = export_run(db, run.id, tmp_path / "run.zip")
    shutil.rmtree(run.folder)
    back = import_run(db, exported, runs_folder)
    again = load_model(Path(checkpoints_of(db, back.id)[0].folder))
    ours, theirs = model.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("choice, steps", [
    ("none", []), ("best", [0, 5]), ("best_and_last", [0, 5, 15]), ("all", [0, 5, 10, 15]),
])
def test_which_checkpoints_go_with_it(db, run, runs_folder, tmp_path, choice, steps):
    pin_checkpoint(db, run.id, checkpoints_of(db, run.id)[0].id, True)
    back = import_run(db, export_run(db, run.id, tmp_path / "x.zip", choice), runs_folder)
    assert [item.step for item in checkpoints_of(db, back.id)] == steps
    assert all(item.pinned == (item.step == 0) for item in checkpoints_of(db, back.id))


def test_code_that_came_with_it_is_not_what_a_resumed_run_would_run(db, run, exported, runs_folder):
    back = import_run(db, exported, runs_folder)
    assert not Path(back.folder, "code").exists()
    assert Path(back.folder, "imported_code", "reward.py").exists()


def test_an_unknown_choice_and_a_place_that_cannot_be_written(db, run, tmp_path):
    with pytest.raises(ArchiveError, match="choose one of none, best, best_and_last, all"):
        export_run(db, run.id, tmp_path / "x.zip", "some")
    with pytest.raises(ArchiveError, match="cannot be written"):
        export_run(db, run.id, tmp_path / "nowhere" / "x.zip")
    assert not list(tmp_path.glob("*.part"))


def changed(exported: Path, target: Path, put=(), without=(), **replaced) -> Path:
    """A copy of an archive with other contents for some names, and files put in."""
    with zipfile.ZipFile(exported) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename not in without:
                key = entry.filename.replace(".", "_")
                new.writestr(entry.filename, replaced.get(key, old.read(entry)))
        for name, data in put:
            new.writestr(name, data)
    return target


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


BAD = {
    "parent": ({"put": [("../evil.txt", "x")]}, "has no place in the archive"),
    "deep parent": ({"put": [("checkpoints/../../evil.json", "x")]}, "has no place in the archive"),
    "dots": ({"put": [("checkpoints/step-1/...json", "x")]}, "has no place in the archive"),
    "absolute": ({"put": [("/tmp/evil.json", "x")]}, "has no place in the archive"),
    "drive": ({"put": [("C:\\evil.json", "x")]}, "has no place in the archive"),
    "link": ({"put": [(link("checkpoints/step-1/model.json"), "/etc/passwd")]}, "has no place in the archive"),
    "pickle": ({"put": [("checkpoints/step-1/model.bin", "x")]}, "has no place in the archive"),
    "stranger": ({"put": [("bin/sh", "x")]}, "has no place in the archive"),
    "bomb": ({"put": [("checkpoints/step-1/model.safetensors", b"\0" * 30_000_000)]}, "would grow 500 times or more"),
    "version": ({"manifest_json": '{"format": "bgpo-run", "version": 99, "rows": {}}'}, "version 99, and this"),
    "format": ({"manifest_json": json.dumps({"format": "notes", "version": 1})}, "of format 'notes'"),
    "no manifest": ({"without": ["manifest.json"]}, "manifest.json is missing"),
    "no points": ({"without": ["points.jsonl"]}, "points.jsonl is missing"),
    "not JSON": ({"run_json": "{"}, "run.json cannot be read"),
    "nested JSON": ({"run_json": "[" * 100_000}, "run.json cannot be read"),
    "config": ({"config_json": json.dumps({"mc_samples": 0})}, "config cannot run here: mc_samples"),
    "a row": ({"points_jsonl": '{"metric": "m", "step": 1, "seconds": 0, "value": 1}\nnonsense\n'}, "of points"),
    "a row of something else": ({"rollouts_jsonl": '{"step": 1}\n'}, "of rollouts"),
    "a step too far": ({"rollouts_jsonl": json.dumps({
        "step": 2**40, "problem_index": 0, "completion_index": 0, "prompt": "", "completion": "", "expected": "",
        "reward": 1, "advantage": 0, "tokens": 1, "reason": "", "parts": {}, "trace": "[]"})}, "of rollouts"),
    "a verdict that is none": ({"rollouts_jsonl": json.dumps({
        "step": 2, "problem_index": 0, "completion_index": 0, "prompt": "", "completion": "", "expected": "",
        "reward": 1, "advantage": 0, "tokens": 1, "reason": "", "parts": {}, "trace": "[]", "solved": "yes"})},
        "of rollouts"),
    "a text that is none": ({"completions_jsonl": json.dumps({
        "step": 2, "kind": None, "index": 0, "prompt": "", "completion": "", "expected": "", "reward": "much",
        "reason": "", "trace": "[]"})}, "of completions"),
    "fewer rows": ({"points_jsonl": ""}, "its manifest says"),
    "checkpoint elsewhere": ({"checkpoints_jsonl": json.dumps({
        "id": 1, "run_id": 1, "step": 1, "kind": "final", "folder": "../../..", "created_at": 0, "reward": None})},
        "checkpoint of step 1 is not in the archive"),
}


@pytest.mark.parametrize("bad", BAD)
def test_what_is_no_archive_of_a_run_leaves_nothing(db, run, exported, runs_folder, tmp_path, bad):
    change, sentence = BAD[bad]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArchiveError, match=sentence) as refused:
        import_run(db, changed(exported, tmp_path / "bad.zip", **change), runs_folder)
    assert str(refused.value).endswith(".")
    (tmp_path / "bad.zip").unlink()
    assert [item.id for item in list_runs(db)] == [run.id]
    assert [path for path in sorted(tmp_path.rglob("*")) if ".db" not in path.name] == [
        path for path in before if ".db" not in path.name
    ]


def test_a_damaged_or_foreign_file(db, run, exported, runs_folder, tmp_path):
    whole = exported.read_bytes()
    for name, data in (("cut", whole[: len(whole) // 2]), ("text", b"not a zip"), ("empty", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ArchiveError, match="no whole archive of a run"):
            import_run(db, tmp_path / name, runs_folder)
    flipped = bytearray(whole)
    at = whole.index(bytes([5]) * 1000) + 500  # a byte of the weights
    flipped[at] ^= 1
    (tmp_path / "flipped").write_bytes(flipped)
    with pytest.raises(ArchiveError, match="no whole archive of a run"):
        import_run(db, tmp_path / "flipped", runs_folder)
    assert [item.id for item in list_runs(db)] == [run.id]
    assert [path.name for path in runs_folder.iterdir()] == [str(run.id)]


def test_an_archive_that_needs_more_room_than_there_is(db, exported, runs_folder, monkeypatch):
    monkeypatch.setattr(module, "LARGEST", 10_000)
    with pytest.raises(ArchiveError, match=r"GB unpacked, and 0\.0 GB may be used; free some space"):
        import_run(db, exported, runs_folder)


def test_a_size_that_lies(db, run, exported, runs_folder, tmp_path):
    """The directory says 10 bytes, the file holds many more."""
    data = io.BytesIO()
    name = "checkpoints/step-000099/model.json"
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, b"x" * 5_000_000)
    lying = bytearray(changed(exported, tmp_path / "l.zip", put=[(name, b"x" * 5_000_000)]).read_bytes())
    while (at := lying.find((5_000_000).to_bytes(4, "little"))) >= 0:
        lying[at : at + 4] = (10).to_bytes(4, "little")
    (tmp_path / "l.zip").write_bytes(lying)
    with pytest.raises(ArchiveError):
        import_run(db, tmp_path / "l.zip", runs_folder)
    assert [item.id for item in list_runs(db)] == [run.id]
