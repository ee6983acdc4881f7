"""A researcher's own objective and reward: the same run as the built-in one, copies that last, errors in sentences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bgpo.config import TrainConfig
from bgpo.models.checkpoints import load_model
from bgpo.training.trainer import run

OWN_BGPO = """
import torch
def objective(elbo, old_elbo, advantage):
    d = elbo - old_elbo
    return advantage * torch.where((advantage < 0)[:, None], d.exp(), 1 + d).mean(-1)
SEPARABLE = {separable}
"""
OWN_REWARD = "def reward(prompt, expected, completion):\n    return float(sum(map(ord, completion)) % 5)\n"
SHORT = TrainConfig(
    warmup_steps=4, warmup_examples=64, train_steps=2, prompts_per_step=3, group_size=4, mc_samples=3, eval_every=2,
    eval_problems=8, threads=1, token_budget=64, updates_per_rollout=2, learning_rate=1e-3,
)


class Silent:
    """A listener that keeps what is reproducible, and stops a run after `stop_after` steps."""

    def __init__(self, stop_after: int = 10):
        self.points: dict[tuple[str, int], float] = {}
        self.stop_after = stop_after

    def phase(self, *_): ...
    def completions(self, *_): ...
    def rollouts(self, *_): ...
    def keep(self): ...
    def checkpoint(self, *_): ...

    def metrics(self, step, values):
        self.points |= {(k, step): v for k, v in values.items() if not k.startswith(("time/", "memory/", "warmup/"))}

    def should_stop(self):
        return any(name == "grad/norm" and step >= self.stop_after for name, step in self.points)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("warm_starts")


@pytest.fixture
def own(tmp_path):
    """Writes a file and says where."""
    def write(text: str, name: str = "mine.py") -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


@pytest.fixture
def start(tmp_path, home):
    """Runs a variant of SHORT in a folder of its own."""
    def go(listener: Silent | None = None, folder: str = "run", **values) -> Silent:
        listener = listener or Silent()
        run(SHORT.with_values(**values), tmp_path / folder, listener, home)
        return listener

    return go


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_model(folder / "checkpoints/step-000002").model.state_dict()


@pytest.mark.parametrize("separable", [True, False])
def test_objective_file_equal_to_bgpo_gives_the_run_of_bgpo(start, own, tmp_path, separable):
    reward = own(OWN_REWARD, "reward.py")
    built_in = start(folder="built_in", reward_file=reward)
    assert built_in.points["grad/norm", 1] > 0
    mine = start(objective="custom", objective_file=own(OWN_BGPO.format(separable=separable)), reward_file=reward)
    for key, value in built_in.points.items():
        if key[0] == "progress/compute" and not separable:
            assert mine.points[key] >= value  # its values take a pass of their own
        else:
            assert mine.points[key] == pytest.approx(value, rel=1e-4, abs=1e-6), key
    left, right = weights(tmp_path / "built_in"), weights(tmp_path / "run")
    assert all(torch.allclose(left[name], right[name], rtol=0, atol=1e-5) for name in left)


def test_reward_file_takes_the_place_of_the_tasks_reward(start, own):
    assert start(reward_file=own("def reward(*_):\n    return 0.375\n")).points["reward/mean", 1] == 0.375
    prompt_length = start(folder="other", reward_file=own("def reward(prompt, *_):\n    return len(prompt)\n", "b.py"))
    assert prompt_length.points["reward/mean", 1] == 5
    assert prompt_length.points["reward/heldout_greedy", 0] == 5


def test_a_reward_in_parts_keeps_them(start, own):
    class Keeps(Silent):
        def rollouts(self, step, kept):
            self.kept = kept

    parts = '    return {"correct": 0.25, "short": len(completion) / 8}\n'
    listener = start(Keeps(), reward_file=own("def reward(prompt, expected, completion):\n" + parts))
    assert all(r.parts == {"correct": 0.25, "short": len(r.completion) / 8} for r in listener.kept)
    assert all(r.reward == sum(r.parts.values()) for r in listener.kept)
    file = own('def reward(*_):\n    return {"total": 2, "a": 0.5}\n', "total.py")
    total = start(Keeps(), folder="total", reward_file=file)
    assert {(r.reward, str(r.parts), r.solved) for r in total.kept} == {(2.0, "{'a': 0.5}", True)}
    assert total.points["reward/solved", 1] == total.points["reward/pass_at_group", 1] == 1


def test_what_is_paid_for_form_is_not_taken_for_right(start, own):
    class Keeps(Silent):
        def rollouts(self, step, kept):
            self.kept, self.step = kept, step

    form = '    return {"correct": float("7" in completion), "form": 3.0}\n'
    reward = own("def reward(prompt, expected, completion):\n" + form)
    listener = start(Keeps(), reward_file=reward, keep_rollouts=64)
    right = [r.solved for r in listener.kept]
    assert right == ["7" in r.completion for r in listener.kept] and {*right} == {True, False}
    assert listener.points["reward/solved", listener.step] == pytest.approx(sum(right) / len(right))
    assert listener.points["reward/mean", listener.step] > 3


def test_resumed_run_uses_the_copy_that_it_was_begun_with(start, own, tmp_path):
    reward = own(OWN_REWARD, "reward.py")
    files = {"objective": "custom", "objective_file": own(OWN_BGPO.format(separable=True)), "reward_file": reward}
    whole = start(folder="whole", **files)
    first = start(Silent(stop_after=1), **files)
    assert ("grad/norm", 2) not in first.points
    assert {path.name for path in (tmp_path / "run/code").iterdir()} == {"objective.py", "reward.py"}
    own("def reward(*_):\n    return 77.0\n", "reward.py")
    Path(files["objective_file"]).unlink()
    second = start(**files)
    assert first.points | second.points == whole.points
    left, right = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(left[name], right[name]) for name in left)


OBJECTIVE = ("objective_file", "def objective(elbo, old_elbo, advantage):\n")
REWARD = ("reward_file", "def reward(*_):\n")


@pytest.mark.parametrize("kind, body, sentence", [
    (OBJECTIVE, None, r"objective_file = .* cannot be read \(No such file or directory\); give the path"),
    (REWARD, None, r"reward_file = .* cannot be read \(No such file or directory\); give the path"),
    (OBJECTIVE, "    return (\n", "objective_file = .* is not Python: .*; mend the file"),
    (REWARD, "    return (\n", "reward_file = .* is not Python: .*; mend the file"),
    (("objective_file", "x = 1\n"), "", r"defines no function objective\(...\); add one at the top level"),
    (("reward_file", "x = 1\n"), "", r"defines no function reward\(...\); add one at the top level"),
    (OBJECTIVE, "    pass\nimport nowhere_at_all\n", "objective_file failed while it was loaded: ModuleNotFoundError"),
    (OBJECTIVE, "    pass\nobjective = 3\n", r"objective_file defines no function objective\(...\)"),
    (OBJECTIVE, "    return elbo\n", r"gave \(\d+, 3\) for \d+ completions; return one value each, shape \(\d+,\)"),
    (OBJECTIVE, "    return 1.0\n", r"gave float for \d+ completions; return one value each"),
    (OBJECTIVE, "    return elbo @ 3\n", r"objective\(...\) in objective_file failed: TypeError"),
    (OBJECTIVE, "    return elbo.detach().mean(-1)\n", r"has no gradient in elbo; use elbo without detach\(\)"),
    (OBJECTIVE, "    return elbo.mean(-1) * float('nan')\n", "gradient norm became nan at step 1"),
    (REWARD, "    raise KeyError('x')\n", r"reward\(...\) in reward_file failed on '.*': KeyError"),
    (REWARD, "    return {'a': float('inf')}\n", r"reward\(...\) in reward_file gave inf for '.*'; return a finite"),
    (REWARD, "    return {'a': 'b'}\n", r"reward\(...\) in reward_file failed on '.*': ValueError"),
    (REWARD, "    return 'much'\n", r"reward\(...\) in reward_file failed on '.*': ValueError"),
    (REWARD, "    return float('nan')\n", r"reward\(...\) in reward_file gave nan for '.*'; return a finite number"),
    (REWARD, "    return 10.0 ** 400\n", r"reward\(...\) in reward_file failed on '.*': OverflowError"),
])
def test_what_a_file_gets_wrong_is_said_in_a_sentence(start, own, tmp_path, kind, body, sentence):
    knob, head = kind
    given = str(tmp_path / "nothing.py") if body is None else own(head + body)
    values = {knob: given} | ({"objective": "custom", "reward_file": own(OWN_REWARD, "r.py")}
                              if knob == "objective_file" else {})
    with pytest.raises((ValueError, ArithmeticError), match=sentence) as raised:
        start(**values)
    assert str(raised.value).endswith(".")
