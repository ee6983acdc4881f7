"""Every failure is one plain sentence and one kind; want of memory comes with the advice that fits the objective."""

from __future__ import annotations

import errno

import pytest

from bgpo.config import ConfigError, TrainConfig
from bgpo.jobs.ends import failed, memory_advice, smaller_budget
from bgpo.tasks.registry import TASKS
from storage.runs import FAILURE_KINDS

CONFIG = TrainConfig()


def test_want_of_memory_is_told_apart_with_advice():
    import torch

    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 55)  # more than any address space holds
    on_gpu = torch.OutOfMemoryError("CUDA out of memory.")
    for error, kind in ((MemoryError(), "oom_host"), (caught.value, "oom_host"), (on_gpu, "oom_gpu")):
        end = failed(error, 6, CONFIG)
        assert (end.status, end.kind) == ("failed", kind)
        assert end.reason.startswith("Out of GPU memory" if kind == "oom_gpu" else "Out of memory")
        assert "at step 7" in end.reason and "lower token_budget" in end.reason


def test_a_sentence_about_memory_keeps_its_kind():
    import torch

    try:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        except torch.OutOfMemoryError as cause:
            raise MemoryError("Out of memory with a token budget of 12; make it smaller.") from cause
    except MemoryError as error:
        end = failed(error, 6, CONFIG)
    assert (end.kind, end.reason) == ("oom_gpu", "Out of memory with a token budget of 12; make it smaller.")


def test_only_an_objective_that_keeps_every_pass_is_advised_to_change():
    assert memory_advice(TrainConfig(objective="elbo"), "oom_gpu").startswith("Choose objective bgpo")
    for objective in ("bgpo", "espo"):
        assert "Choose objective" not in memory_advice(TrainConfig(objective=objective), "oom_gpu")


@pytest.mark.parametrize(
    "error, kind, reason",
    [
        (ConfigError({"x": "x = 0 is not allowed."}), "config_invalid", "The config cannot run: x = 0 is not allowed."),
        (KeyError("lr"), "exception", "KeyError: 'lr'."),
        (RuntimeError(), "exception", "RuntimeError: no message."),
        (ValueError("device = cuda is not there; choose cpu."), "config_invalid",
         "device = cuda is not there; choose cpu."),
        (ValueError("math domain error"), "exception", "ValueError: math domain error."),
        (ArithmeticError("The gradient is not finite at step 3."), "nan", "The gradient is not finite at step 3."),
        (ZeroDivisionError("division by zero"), "exception", "ZeroDivisionError: division by zero."),
        (OSError(28, "Full"), "disk_full",
         "The disk that holds the run's folder is full; free some space and press Resume."),
        (FileNotFoundError(2, "No such file", "data.jsonl"), "data_error",
         "FileNotFoundError: [Errno 2] No such file: 'data.jsonl'."),
        (SystemExit(3), "exception", "SystemExit: 3."),
        (RuntimeError("two\nlines"), "exception", "RuntimeError: two lines."),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_every_failure_is_one_plain_sentence_of_a_kind(error, kind, reason):
    end = failed(error, 6, CONFIG)
    assert (end.kind, end.reason) == (kind, reason)
    assert kind in FAILURE_KINDS


def test_a_full_disk_is_told_whoever_says_so():
    from safetensors import SafetensorError

    said = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    for error in (OSError(errno.ENOSPC, "No space left on device"), said, OSError(errno.EDQUOT, "Disk quota exceeded")):
        assert failed(error, 3, CONFIG).kind == "disk_full"
    wrapped = RuntimeError("the save failed")
    wrapped.__cause__ = said
    assert failed(wrapped, 3, CONFIG).reason.startswith("The disk that holds the run's folder is full")


def test_a_damaged_checkpoint_is_a_fault_of_the_data():
    from bgpo.models.checkpoints import CheckpointError

    assert failed(CheckpointError("x is damaged. Choose another one."), 0, CONFIG).kind == "data_error"


def test_half_the_budget_down_to_one_completion():
    least = TASKS[CONFIG.task].prompt_length + CONFIG.completion_length
    assert smaller_budget(CONFIG.with_values(token_budget=least + 1), 0) == least
    assert smaller_budget(CONFIG.with_values(token_budget=4000), 0) == 2000
    assert smaller_budget(CONFIG.with_values(token_budget=4000), 1000) == 500  # it had fallen by itself
    assert smaller_budget(CONFIG.with_values(token_budget=least), 0) is None
    assert smaller_budget(CONFIG, 0) > 1000  # nothing is known: half of the whole step
