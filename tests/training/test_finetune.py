"""Supervised fine-tuning: it learns, resumes exactly, and says what is wrong with its examples."""

from __future__ import annotations

import json
import math

import pytest
import torch

from bgpo.algorithm.elbo import estimate_elbo
from bgpo.config import ConfigError, TrainConfig
from bgpo.models.checkpoints import load_model
from bgpo.models.tiny import build_tiny
from bgpo.presets import PRESETS
from bgpo.tasks.base import split_of
from bgpo.tasks.registry import TASKS
from bgpo.training import trainer
from bgpo.training.examples import ExamplesError, examples_problems, read_examples
from bgpo.training.finetune import batch_at, encoded, pairs_of, run, split
from bgpo.training.metrics import METRICS
from tests.training.test_low_memory import StopsAtStep, assert_same_files
from tests.training.test_trainer import Recorder

SHORT = PRESETS["finetune_adder"].config().with_values(
    train_steps=30, eval_every=10, lr_warmup_steps=5, threads=1, token_budget=200
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    home = tmp_path_factory.mktemp("finetune")
    recorder = Recorder()
    assert run(SHORT, home / "run", recorder, home / "cache").status == "finished"
    return home, recorder


def written(folder, *rows, **values) -> TrainConfig:
    """A config whose examples are these rows; text is written as it is, the rest as JSON."""
    file = folder / "rows.jsonl"
    file.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return SHORT.with_values(examples=str(file), **values)


def test_it_learns_and_reports_what_a_page_shows(finished):
    _, recorder = finished
    names = {name for name, _ in recorder.points}
    assert names <= set(METRICS) and {"finetune/loss", "lr", "grad/norm", "memory/saved_mb"} <= names
    losses = [recorder.points["finetune/validation_loss", step] for step in (0, 10, 20, 30)]
    assert losses == sorted(losses, reverse=True) and losses[0] > math.log(50) > losses[-1]
    assert [(step, kind, reward) for step, kind, _, reward in recorder.saved] == [
        (0, "evaluation", None), (10, "evaluation", None), (20, "evaluation", None), (30, "final", None),
    ]


@pytest.mark.parametrize("values, stop", [
    ({}, 13), ({"adapter": "lora", "lora_dropout": 0.3, "precision": "bf16", "train_steps": 8, "eval_every": 4}, 3),
])
def test_stopped_and_resumed_equals_uninterrupted(finished, tmp_path, values, stop):
    home, whole = finished
    config = SHORT.with_values(**values)
    if values:
        whole, home = Recorder(), tmp_path
        run(config, home / "run", whole, tmp_path)
    first, second = StopsAtStep(stop), Recorder()
    first.should_stop = lambda: ("finetune/loss", stop) in first.points
    assert run(config, tmp_path / "again", first, tmp_path).step == stop
    assert run(config, tmp_path / "again", second, tmp_path).status == "finished"
    last = f"checkpoints/step-{config.train_steps:06d}"
    assert_same_files(tmp_path / "again" / last, home / "run" / last)
    assert first.reproducible | second.reproducible == whole.reproducible


def test_the_gradient_is_that_of_the_mean_negative_elbo_per_token():
    """Whatever the passes; end tokens after an answer are learned like the answer."""
    from bgpo.algorithm.elbo import Head
    from bgpo.training.finetune import _Finetune
    from bgpo.training.likelihood import Passes

    model = build_tiny(torch.Generator().manual_seed(0))
    examples = encoded(model, read_examples(SHORT)[:7], SHORT)
    assert all(example.completion[3:] == [model.eos_id] * 5 for example in examples)
    pairs, weight = pairs_of(model, examples, torch.Generator().manual_seed(1))
    elbo = estimate_elbo(model, pairs.prompt_ids, pairs.completion_ids, pairs.masked, weight)
    (-elbo.mean() / 8).backward()
    expected = [p.grad.clone() for p in model.model.parameters()]
    for budget in (13, 40, 10_000):
        model.model.zero_grad()
        job = _Finetune.__new__(_Finetune)
        job.model, job.head = model, Head()
        job._backward(pairs, weight, Passes(budget))
        for p, wanted in zip(model.model.parameters(), expected):
            torch.testing.assert_close(p.grad, wanted, rtol=1e-4, atol=1e-6)


def test_every_epoch_goes_through_all_examples_once():
    examples, _ = split(encoded(build_tiny(torch.Generator()), read_examples(SHORT)[:50], SHORT), SHORT)
    config = SHORT.with_values(examples_per_step=32)
    seen = [id(example) for step in range(6) for example in batch_at(examples, config, step)]
    N = len(examples)
    assert len(seen) == 192 and N == 48
    for epoch in range(4):
        assert len(set(seen[epoch * N : (epoch + 1) * N])) == N
    assert seen[:N] != seen[N : 2 * N]


def test_training_and_validation_share_nothing():
    training, validation = split(encoded(build_tiny(torch.Generator()), read_examples(SHORT), SHORT), SHORT)
    assert len(validation) == 100 and not {tuple(e.prompt) for e in training} & {tuple(e.prompt) for e in validation}


def test_the_shipped_examples_are_right_and_none_is_held_out():
    task = TASKS["adder"]
    for example in read_examples(SHORT):
        assert task.problem_from(example.prompt).expected == example.answer and split_of(example.prompt) == "train"


def test_rl_starts_from_what_fine_tuning_has_made(finished, tmp_path):
    home, _ = finished
    last = home / "run/checkpoints/step-000030"
    config = TrainConfig(
        start_from=str(last), train_steps=1, prompts_per_step=2, group_size=2, eval_problems=8, threads=1
    )
    recorder = Recorder()
    assert trainer.run(config, tmp_path / "rl", recorder, tmp_path).status == "finished"
    left, right = (load_model(f).model.state_dict() for f in (last, tmp_path / "rl/checkpoints/step-000000"))
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_changed_examples_stop_a_resume_in_a_sentence(tmp_path):
    rows = [{"prompt": f"{a}+11", "answer": "7"} for a in range(10, 20)]
    config = written(tmp_path, *rows, train_steps=2)
    stopped = StopsAtStep(1)
    run(config, tmp_path / "run", stopped, tmp_path)
    written(tmp_path, *rows[1:])
    with pytest.raises(ExamplesError, match="has changed since this run began"):
        run(config, tmp_path / "run", Recorder(), tmp_path)


GOOD = {"prompt": "1+1", "answer": "2"}


@pytest.mark.parametrize("rows, words", [
    ([GOOD, "not json"], "line 2: not JSON"),
    ([GOOD, "[" * 100_000], "line 2: not JSON"),
    ([GOOD, '{"prompt": "1+1", "answer": NaN'], "line 2: not JSON"),
    ([GOOD, [1, 2]], "line 2: no column 'prompt' (it has a list)"),
    ([GOOD, {"prompt": "1+1", "solution": "2"}], "line 2: no column 'answer' (it has prompt, solution)"),
    ([GOOD, {"prompt": "1+1", "answer": ["2"]}], "line 2: answer is no text"),
    ([GOOD, {"prompt": "1+1", "answer": None}], "line 2: answer is no text but null"),
    ([GOOD, {"prompt": " ", "answer": "2"}], "line 2: the prompt is empty"),
    ([GOOD], "has 1 rows; give 2 or more"),
    ([], "has 0 rows"),
])
def test_rows_that_are_no_examples_are_named_by_their_line(tmp_path, rows, words):
    config = written(tmp_path, *rows)
    with pytest.raises(ExamplesError) as refused:
        read_examples(config)
    assert words in str(refused.value)
    if "line" in words:  # the form knows before the start
        assert words in examples_problems(config)["examples"]


@pytest.mark.parametrize("answer, prompt, words", [
    ("123456789", "1+1", r"line 2: the answer has 9 tokens, and there is room for 8; raise completion_length"),
    ("1", "1+" * 300, r"line 2: the prompt has 600 tokens, and there is room for 504; lower completion_length"),
    ("\u00e9", "1+1", r"line 2: The completion holds '\u00e9'"),
])
def test_examples_that_do_not_fit_are_refused_or_skipped(tmp_path, answer, prompt, words):
    model = build_tiny(torch.Generator())
    config = written(tmp_path, GOOD, {"prompt": prompt, "answer": answer}, GOOD)
    with pytest.raises(ExamplesError, match=words):
        encoded(model, read_examples(config), config)
    if "room" in words:
        skipping = config.with_values(long_examples="skip")
        assert len(encoded(model, read_examples(skipping), skipping)) == 2


def test_columns_may_have_other_names(tmp_path):
    config = written(tmp_path, {"q": 1, "a": 2.5}, {"q": "3", "a": "4"}, prompt_column="q", answer_column="a")
    assert [(e.prompt, e.answer) for e in read_examples(config)] == [("1", "2.5"), ("3", "4")]


@pytest.mark.parametrize("name", ["nowhere.jsonl", "../../etc/nothing here", "a/b/c"])
def test_a_name_that_is_neither_file_nor_hub_id_is_a_sentence(name):
    with pytest.raises(ExamplesError, match="is no file here"):
        read_examples(SHORT.with_values(examples=name))


def test_a_hub_that_cannot_be_reached_is_a_sentence(monkeypatch):
    import datasets

    def refuse(*_, **__):
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(ExamplesError, match=r"could not be read from the hub \(ConnectionError: no route to the hub\)"):
        read_examples(SHORT.with_values(examples="openai/gsm8k"))


def test_a_hub_data_set_is_read_by_rows(monkeypatch):
    import datasets

    rows = datasets.Dataset.from_list([GOOD, {"prompt": "2+2", "answer": "4"}])
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: rows)
    assert [e.where for e in read_examples(SHORT.with_values(examples="owner/name"))] == ["row 1", "row 2"]


@pytest.mark.parametrize("values", [{"job": "finetune"}, {"job": "train", "examples": "x.jsonl"}])
def test_examples_belong_to_fine_tuning(values):
    with pytest.raises(ConfigError) as refused:
        TrainConfig.parse(values)
    assert refused.value.problems.keys() == {"examples"}
