"""Running out of memory: the step is done again in smaller passes, with the same gradient, until one pair is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bgpo.training.likelihood import Passes, within_memory
from tests.training.steps import STEP, every_objective, flat, moved, rollouts_of, tiny, updater_of

PAIR = 11 + STEP.completion_length
ONE = STEP.with_values(updates_per_rollout=1, mc_samples=3)


@pytest.fixture(scope="module")
def rollouts():
    return rollouts_of(STEP)


def cramped(tokens: int, only_with_graph: bool = False):
    """A model on a machine that cannot hold passes of more than `tokens`, and how often it failed."""
    model, failures = tiny(), []
    states = model._states  # under both ways through the model

    def allocating(ids, *given):
        if ids.numel() > tokens and (torch.is_grad_enabled() or not only_with_graph):
            failures.append(ids.numel())
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")
        return states(ids, *given)

    model._states = allocating
    return model, failures


@pytest.mark.parametrize("objective", ["bgpo", "elbo", "elbo_two_pass", "agrpo"])
@pytest.mark.parametrize("only_with_graph", [True, False])
def test_a_step_that_runs_out_of_memory_is_the_same_step_in_smaller_passes(rollouts, objective, only_with_graph):
    config = ONE.with_values(objective=objective, token_budget=8 * PAIR)
    model, failures = cramped(3 * PAIR, only_with_graph)
    got = moved(config, rollouts, model)
    assert failures
    torch.testing.assert_close(got, moved(config, rollouts), rtol=0, atol=1e-11)


def test_failing_in_the_middle_of_a_gradient_leaves_none_of_it_behind(rollouts):
    """Some passes have added their gradients when memory runs out."""
    config = STEP.with_values(token_budget=4 * PAIR)
    model = tiny()
    states, calls = model._states, []

    def failing_once(ids, *given):
        calls.append(torch.is_grad_enabled())
        if sum(calls) == 4 and calls[-1]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes.")
        return states(ids, *given)

    model._states = failing_once
    got = moved(config, rollouts, model)
    torch.testing.assert_close(got, moved(config, rollouts), rtol=0, atol=1e-11)


def test_the_smaller_budget_stays(rollouts):
    config = STEP.with_values(token_budget=16 * PAIR)
    model, failures = cramped(5 * PAIR)
    updater = updater_of(config, model)
    updater.update(rollouts, 0, lambda: None)
    assert updater.passes == replace(updater.passes, token_budget=4 * PAIR) and failures
    failures.clear()
    updater.update(rollouts, 1, lambda: None)
    assert not failures


@every_objective
def test_when_one_pair_does_not_fit_a_sentence_says_so_and_nothing_has_moved(rollouts, objective):
    model, _ = cramped(5)
    before = flat(model)
    updater = updater_of(STEP.with_values(objective=objective), model)
    with pytest.raises(MemoryError, match="Lower completion_length, or choose a smaller model"):
        updater.update(rollouts, 0, lambda: None)
    assert torch.equal(flat(model), before)


def test_other_errors_are_not_taken_for_want_of_memory():
    def broken(passes: Passes) -> torch.Tensor:
        raise RuntimeError("shape '[2, 3]' is invalid")

    with pytest.raises(RuntimeError, match="is invalid"):
        within_memory(broken, lambda: None, Passes(1000), 10)


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_every_kind_of_out_of_memory_is_known(error):
    tried, undone = [], []

    def work(passes: Passes) -> torch.Tensor:
        tried.append(passes.token_budget)
        if passes.token_budget > 300:
            raise error
        return torch.ones(1)

    _, passes = within_memory(work, lambda: undone.append(1), Passes(1000), 10)
    assert tried == [1000, 500, 250] and len(undone) == 2 and passes.token_budget == 250
