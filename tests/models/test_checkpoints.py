"""Checkpoints: whole or absent, readable by others, refused when damaged."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bgpo.models import checkpoints
from bgpo.models.checkpoints import CheckpointError, TrainingState, load_model, load_optimizer, newest, save_checkpoint
from bgpo.models.tiny import build_tiny
from tests.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


@pytest.fixture
def trained():
    """A model and an optimiser that has stepped."""
    model = build_tiny(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(model.model.parameters(), lr=1e-3)
    _step(model, optimizer)
    return model, optimizer


def _step(model, optimizer) -> None:
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    optimizer.zero_grad()
    model.logits(model.hidden(ids)).square().mean().backward()
    optimizer.step()


def _save(folder, trained, step: int = 3, phase: str = "training"):
    save_checkpoint(folder, trained[0], TrainingState(phase, step, 1.5, 1), trained[1])


def test_other_tools_read_it(tmp_path, trained):
    _save(tmp_path / "c", trained)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "c")
    assert type(model).__name__ == "LlamaForCausalLM" and model.config.is_causal is False
    assert AutoTokenizer.from_pretrained(tmp_path / "c").mask_token == "<mask>"
    ids = torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids).logits, trained[0].logits(trained[0].hidden(ids)))


def test_training_goes_on_bit_for_bit(tmp_path, trained):
    _save(tmp_path / "c", trained)
    loaded = load_model(tmp_path / "c")
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=1e-3)
    load_optimizer(tmp_path / "c", loaded, optimizer)
    _step(*trained)
    _step(loaded, optimizer)
    for a, b in zip(trained[0].model.parameters(), loaded.model.parameters()):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "training_state.json"])
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_is_noticed_and_the_one_before_is_used(tmp_path, trained, name, damage):
    _save(tmp_path / "step-000001", trained, 1)
    _save(tmp_path / "step-000002", trained, 2)
    path = tmp_path / "step-000002" / name
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content if damage == "flip" else content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="Choose another"):
        load_model(tmp_path / "step-000002")
    assert newest(tmp_path) == tmp_path / "step-000001"


def test_newest_prefers_training_over_warm_up(tmp_path, trained):
    assert newest(tmp_path) is None
    _save(tmp_path / "warm-up-000900", trained, 900, "warming_up")
    assert newest(tmp_path).name == "warm-up-000900"
    _save(tmp_path / "step-000002", trained, 2)
    assert newest(tmp_path).name == "step-000002"


def test_a_save_that_fails_leaves_the_old_one_and_nothing_else(tmp_path, trained, monkeypatch):
    folder = tmp_path / "step-000001"
    _save(folder, trained, 1)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        _save(folder, trained, 1)
    checkpoints.verify(folder)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from bgpo.models import checkpoints as c
from bgpo.models.tiny import build_tiny

folder = Path(sys.argv[1])

def save(step, last):
    left = [last]
    def dying(real):
        def act(*given, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*given, **named)
        return act
    for place, name in ((c, "save_published"), (c, "save_file"), (c, "_sync"), (os, "rename"), (c.shutil, "rmtree")):
        setattr(place, name, dying(getattr(place, name)))
    model = build_tiny(torch.Generator().manual_seed(0))
    state = c.TrainingState("training", step, 0.0, 1)
    c.save_checkpoint(folder / f"step-{step:06d}", model, state, torch.optim.AdamW(model.model.parameters()))

def in_a_process_of_its_own(step, last):
    pid = os.fork()
    if pid == 0:
        save(step, last)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

assert in_a_process_of_its_own(1, 99) == 0
for last in range(1, 99):
    code = in_a_process_of_its_own(2, last)
    print(code, c.newest(folder).name, len(list(folder.glob(".*"))), flush=True)
    if code == 0:
        break
c.discard_half_written(folder)
print(sorted(path.name for path in folder.iterdir()))
"""


def test_a_process_that_is_killed_at_any_point_of_a_save_leaves_the_one_before(tmp_path):
    """At every file, sync and rename; the last save is whole. What the dead have left is removed at the next start."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True,
                          timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    *kills, (code, name, _) = [line.split() for line in done.stdout.splitlines()[:-1]]
    assert (code, name) == ("0", "step-000002")
    assert len(kills) > 5 and {code for code, _, _ in kills} == {str(-signal.SIGKILL)}
    names = [name for _, name, _ in kills]
    assert names == sorted(names) and names[0] == "step-000001"
    assert int(kills[-1][2]) > 1
    assert done.stdout.splitlines()[-1] == "['step-000001', 'step-000002']"
