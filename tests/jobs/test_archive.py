"""A run goes out and comes back whole; whatever else comes in is refused with a sentence and leaves nothing."""

from __future__ import annotations

import errno
import io
import json
import os
import random
import shutil
import stat
import zipfile
from pathlib import Path

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.jobs import archive as module
from bgpo.jobs import control
from bgpo.jobs.archive import ArchiveError, export_run, import_run
from bgpo.jobs.commands import main
from bgpo.models.adapters import AdapterSettings, add_adapter
from bgpo.models.checkpoints import TrainingState, load_model, save_checkpoint
from bgpo.models.tiny import build_tiny
from bgpo.training import trainer
from bgpo.training.plugins import PluginError, file_problems, judge_of, keep_copies, task_of
from storage.alerts import Alert, alerts_of
from storage.checkpoints import add_checkpoint, checkpoints_of, pin_checkpoint
from storage.completions import Completion, completions_of
from storage.metrics import Point, flush, points_after, series
from storage.rollouts import Rollout, whole_rollouts
from storage.runs import get_run, list_runs, run_events, transition
from storage.search import search_rollouts

CONFIG = TrainConfig(train_steps=60, seed=7)
ROLLOUT = {
    "step": 2, "problem_index": 0, "completion_index": 0, "prompt": "", "completion": "", "expected": "", "reward": 1,
    "advantage": 0, "tokens": 1, "reason": "", "parts": {}, "trace": "[]",
}
COMPLETION = {
    "step": 2, "kind": "held_out", "index": 0, "prompt": "", "completion": "", "expected": "", "reward": 1,
    "reason": "", "trace": "[]",
}
POINT = {"metric": "reward/mean", "step": 1, "seconds": 0.5, "value": 1.0}
EVENT = {"time": 1.0, "who": "user", "from_status": "", "to_status": "queued", "why": "created", "step": 0}
ALERT = {"step": 1, "name": "collapse", "severity": "serious", "message": "It fell.", "time": 1.0}
CHECKPOINT = {
    "id": 1, "run_id": 1, "step": 15, "kind": "stop", "folder": "step-000015", "created_at": 1.0, "reward": None,
    "pinned": False,
}
TRACE = json.dumps([[1, 0, "0", 0.9], [0, 1, "", None]])


@pytest.fixture
def run(db, row):
    """A stopped run with a bit of everything."""
    run = row("running", CONFIG.to_json())
    folder = Path(run.folder)
    points = [Point("reward/mean", step, step * 0.5, step / 5000 if step % 7 else None) for step in range(5000)]
    shown = Completion(5, "held_out", 0, "37+48", "075\u202e", "085", 0.0, "why", "[[1, 0, \"0\", 0.9]]")
    rollouts = [Rollout(step, 0, index, "1+1", f"text {step} {index}", "2", 0.5, None, 3, "r", {"a": None}, TRACE,
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
    os.utime(folder / "log.txt", (0, 0))  # before zip's time begins
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
    for folder in ("/", ".", str(tmp_path)):
        with pytest.raises(ArchiveError, match="is a folder; name the file in it that the archive is to be"):
            export_run(db, run.id, Path(folder))
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "x.zip", tmp_path / ("x" * 300)):
        with pytest.raises(ArchiveError, match="cannot be written"):
            export_run(db, run.id, place)
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


def with_row(exported: Path, target: Path, **values) -> Path:
    """A copy of an archive with other values in the run's row."""
    with zipfile.ZipFile(exported) as archive:
        row = json.loads(archive.read("run.json"))
    return changed(exported, target, run_json=json.dumps(row | values))


def link(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    return entry


LONG = random.Random(0).randbytes(2**19 + 1).hex()  # a little more than 1 MiB that packs no better than words
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
    "a step too far": ({"rollouts_jsonl": json.dumps(ROLLOUT | {"step": 2**30})}, "rows 1 to 1 of rollouts"),
    "a severity": ({"alerts_jsonl": json.dumps(ALERT | {"severity": "x"})}, "rows 1 to 1 of alerts cannot be"),
    "a long row": ({"points_jsonl": LONG * 8}, "Row 1 of points is longer than 8 MiB"),
    "a long config": ({"config_json": LONG}, "config.json has 10.* 1048576 are allowed"),
    "a long manifest": ({"manifest_json": LONG}, "manifest.json cannot be read"),
    "a table of something else": ({"events_jsonl": "[1]\n"}, r"Row 1 of events cannot be read: \[1\] is no object"),
    "nested row": ({"events_jsonl": "[" * 100_000 + "\n"}, "Row 1 of events cannot be read"),
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


def test_one_value_that_no_page_could_show_and_nothing_comes_in(db, run, exported, runs_folder, tmp_path):
    """One such run was enough to keep every list of runs from its answer. More values: `storage/test_imports.py`."""
    with zipfile.ZipFile(exported) as archive:
        row = json.loads(archive.read("run.json"))
    rows = [row | {"created_at": float("inf")}, row | {"step": [1]}, row | {"reason": 5}, row | {"status": ["failed"]}]
    rows += [{key: row[key] for key in row if key != lost} for lost in ("name", "status", "step", "failure_kind")]
    bad = [({"run_json": json.dumps(row)}, r"(Its run\.json|the run's row) .*\.") for row in rows]
    for table, good, name, value in (
        ("points", POINT, "step", "abc"), ("events", EVENT, "time", None), ("alerts", ALERT, "time", float("inf")),
        ("checkpoints", CHECKPOINT, "reward", "abc"), ("completions", COMPLETION, "trace", "[[1]]"),
        ("rollouts", ROLLOUT, "advantage", float("nan")),
    ):
        lines = json.dumps(good) + "\n" + json.dumps(good | {name: value})
        bad.append(({f"{table}_jsonl": lines}, f"Row 2 of {table} cannot be read: {name} = .* is not .*; export"))
    bad.append(({"points_jsonl": json.dumps(POINT).replace("0.5", "1e999")}, "seconds = inf is not a number"))
    for change, sentence in bad:
        with pytest.raises(ArchiveError, match=sentence):
            import_run(db, changed(exported, tmp_path / "bad.zip", **change), runs_folder)
        assert [item.id for item in list_runs(db)] == [run.id]
        assert [path.name for path in runs_folder.iterdir()] == [str(run.id)]


def test_a_value_may_be_missing_where_it_may_be_in_a_run(db, exported, runs_folder, tmp_path):
    path = with_row(exported, tmp_path / "x.zip", started_at=None, finished_at=None)
    back = import_run(db, path, runs_folder)
    assert back.started_at is None and back.finished_at is None


def test_names_and_sentences_are_plain_lines(db, exported, runs_folder, tmp_path, capsys):
    """They are printed in terminals, which obey what they are told."""
    bad = "x\n  999  finished \x1b]0;owned\x07\x1b[31mred\u202e"
    events = "".join(json.dumps(EVENT | {"who": bad, "why": bad}) + "\n" for _ in range(2))
    path = with_row(exported, tmp_path / "a.zip", name=bad + "y" * 100_000, reason=bad, status="failed")
    with zipfile.ZipFile(path) as archive:
        manifest = json.loads(archive.read("manifest.json"))
    manifest["rows"]["events"] = 2
    path = changed(path, tmp_path / "b.zip", events_jsonl=events, manifest_json=json.dumps(manifest))
    back = import_run(db, path, runs_folder)
    assert back.name.startswith("x 999 finished ]0;owned [31mred yyy") and len(back.name) == 80
    assert back.reason == "x 999 finished ]0;owned [31mred"
    assert [event.why for event in run_events(db, back.id) if event.who != "user"][-2:] == [back.reason] * 2
    assert main(["list", "--database", db.url]) == 0
    assert "\x1b" not in capsys.readouterr().out
    nameless = import_run(db, with_row(exported, tmp_path / "c.zip", name="\x1b\n"), runs_folder)
    assert nameless.name == control.default_name(CONFIG)


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


def test_bytes_that_do_not_unpack(db, run, exported, runs_folder, tmp_path):
    whole = exported.read_bytes()
    for name in ("manifest.json", "run.json", "config.json", "points.jsonl", "events.jsonl"):
        with zipfile.ZipFile(exported) as archive:
            at = archive.getinfo(name).header_offset
        begins = at + 30 + sum(int.from_bytes(whole[at + field : at + field + 2], "little") for field in (26, 28))
        flipped = bytes(byte ^ 0xFF for byte in whole[begins + 2 : begins + 8])
        (tmp_path / "flipped").write_bytes(whole[: begins + 2] + flipped + whole[begins + 8 :])
        with pytest.raises(ArchiveError, match="no whole archive of a run"):
            import_run(db, tmp_path / "flipped", runs_folder)
        assert [path.name for path in runs_folder.iterdir()] == [str(run.id)]


def test_a_packing_that_may_ask_for_any_memory(db, exported, runs_folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_LZMA) as new, zipfile.ZipFile(exported) as old:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(ArchiveError, match="is packed in a way that no archive of a run is"):
        import_run(db, tmp_path / "x.zip", runs_folder)


def test_long_rows_are_written_a_few_at_a_time(db, exported, runs_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BATCH_BYTES", 10_000)
    sizes, written = [], module.flush
    monkeypatch.setattr(module, "flush", lambda db, id, points, *rest, **more: (
        sizes.append(len(points)), written(db, id, points, *rest, **more)))
    import_run(db, exported, runs_folder)
    assert sum(sizes) == 5000 and 50 < max(sizes) < 250


def test_into_a_data_folder_that_is_not_there_yet(db, run, exported, tmp_path):
    back = import_run(db, exported, tmp_path / "fresh" / "runs")
    assert Path(back.folder) == tmp_path / "fresh" / "runs" / str(back.id)


@pytest.mark.parametrize("step", ["copyfileobj", "disk_usage"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing(db, run, exported, runs_folder, monkeypatch, step):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module.shutil, step, full)
    with pytest.raises(ArchiveError, match=r"cannot be read or unpacked \(No space left on device\); see that"):
        import_run(db, exported, runs_folder)
    assert [item.id for item in list_runs(db)] == [run.id]
    assert [path.name for path in runs_folder.iterdir()] == [str(run.id)]


CODE = """
open({ran!r}, "w")
def reward(*_): return 0.0
def objective(elbo, *_): return elbo
def problems(split): return [f"{{split}} {{n}}" for n in range(9)]
def prompt(problem): return problem
"""
OWN_TASK = {"task": "own_file", "model": "llada", "model_path": "none/none", "warmup_steps": 0}


@pytest.mark.parametrize("place", ["imported_code/reward.py", "checkpoints/a/reward.txt", "log.txt"])
@pytest.mark.parametrize("knob, more", [
    ("reward_file", {}), ("objective_file", {"objective": "custom"}), ("task_file", OWN_TASK),
])
def test_no_file_of_an_archive_is_run_by_a_resume_or_a_fork(db, exported, runs_folder, tmp_path, monkeypatch, place,
                                                            knob, more):
    """The config came with it, so it may name a file of the folder that the archive is unpacked to."""
    monkeypatch.setenv("HOME", str(tmp_path))
    ran, given = tmp_path / "ran", f"~/{runs_folder.name}/2/x/../{place}"
    config = CONFIG.with_values(**more, **{knob: given})
    code = CODE.format(ran=str(ran))
    put = {"imported_code/reward.py": "code/reward.py"}.get(place, place)
    path = changed(exported, tmp_path / "e.zip", [(put, code)], [put], config_json=config.to_json())
    back = import_run(db, path, runs_folder)
    named = Path(back.folder, place)
    assert back.id == 2 and named.read_text() == code
    kept = TrainConfig.from_json(back.config_json)
    Path(back.folder, "x").mkdir()
    for folder in (Path(back.folder), tmp_path / "a_fork"):
        with pytest.raises(PluginError, match=f"{knob} = ~.* came with an imported run, so it is not run; read it"):
            trainer.run(kept, folder, None, tmp_path / "warm_starts")
    assert "came with an imported run" in file_problems(kept)[knob]
    assert not ran.exists()
    mine = tmp_path / "mine.py"
    shutil.copyfile(named, mine)
    assert file_problems(kept.with_values(**{knob: str(mine)})) == {}


def test_an_imported_run_goes_on_with_a_file_of_ones_own_and_its_copy(db, exported, runs_folder, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(CODE.format(ran=str(tmp_path / "ran")))
    config = CONFIG.with_values(**OWN_TASK, task_file=str(mine), reward_file=str(mine))
    back = import_run(db, changed(exported, tmp_path / "e.zip", config_json=config.to_json()), runs_folder)
    keep_copies(config, Path(back.folder))
    mine.unlink()
    keep_copies(config, Path(back.folder))
    assert task_of(config, Path(back.folder)).problems("train") and judge_of(config, Path(back.folder))


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
