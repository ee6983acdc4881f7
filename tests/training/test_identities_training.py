"""Identities 28 to 31 on a real model in float64: masks, head, chunks, packing. Number 38 is in test_trainer.py."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import pytest
import torch

from bgpo.algorithm.elbo import Head, Pairs, backward_in_chunks, dense, read_head, token_logprob
from bgpo.algorithm.masking import DrawShape, coupled, draw_masks, full, one_ratio, trace_steps
from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.models.noise import Noise
from bgpo.models.sampler import complete
from bgpo.tasks.base import Reward
from bgpo.tasks.registry import TASKS
from bgpo.training.draws import batch_maker, draws_of
from bgpo.training.likelihood import Passes, score
from bgpo.training.rollouts import collect, rollout_settings
from tests.training.steps import STEP, rollouts_of, tiny, updater_of

ALL = Passes(10**6)
L = STEP.completion_length


@pytest.fixture(scope="module")
def rollouts():
    return rollouts_of(STEP)


# ---- 28. same seed, same masks


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_draws_depend_on_seed_and_step_alone(rollouts, objective):
    """28. Two calls agree to the bit; what cuts or drops completions moves no mask; another seed or step does."""
    config = STEP.with_values(objective=objective)

    def drawn(step: int = 0, update: int = 0, **values):
        return draws_of(config.with_values(**values), OBJECTIVES[objective], rollouts, step, update)

    first = drawn()
    for other in (
        drawn(), drawn(token_budget=19), drawn(packed=False), drawn(masked_head=False), drawn(skip_old_pass=False),
        drawn(drop_zero_advantage=False), drawn(kl_coefficient=1.0),
    ):
        assert torch.equal(first.masked, other.masked) and torch.equal(first.scored, other.scored)
        assert torch.equal(first.weight, other.weight)
    if OBJECTIVES[objective].draws not in ("full", "trace_slices"):  # these leave nothing to chance
        assert not torch.equal(first.scored, drawn(seed=1).scored)
        assert not torch.equal(first.scored, drawn(step=1).scored)


@pytest.mark.parametrize("objective", ["bgpo", "elbo_two_pass", "coupled_grpo"])
def test_old_new_and_reference_see_the_same_masks_however_they_are_cut(rollouts, objective):
    """28. The noised completions that reach the model and the reference, counted, under several budgets."""
    def seen(**values) -> tuple[Counter, Counter]:
        config = STEP.with_values(
            objective=objective, updates_per_rollout=1, skip_old_pass=False, bound_probe=0, kl_coefficient=0.1,
            length_normalization="completion", kl_estimator="k2", **values,
        )
        model = tiny()
        updater = updater_of(config, model)
        found = []
        for denoiser in (model, updater.reference):
            rows = Counter()

            def record(module, nothing, given, rows=rows):
                rows.update(tuple(row) for row in given["input_ids"][:, -L:].tolist())

            denoiser.model.model.register_forward_pre_hook(record, with_kwargs=True)
            found.append(rows)
        updater.update(rollouts, 0, lambda: None)
        return tuple(found)

    policy, reference = seen()
    passes = policy.total() // reference.total()  # old, new, and values before gradients where these are two passes
    assert passes >= 2 and policy == Counter({row: n * passes for row, n in reference.items()})
    for values in ({"token_budget": 19}, {"token_budget": 10_000}, {"packed": False}):
        assert seen(**values) == (policy, reference)


def test_fresh_masks_differ_between_updates_and_kept_ones_do_not(rollouts):
    for choice, same in (("each_update", False), ("each_rollout", True)):
        config = STEP.with_values(fresh_masks=choice)
        first, second = (draws_of(config, OBJECTIVES["bgpo"], rollouts, 0, update) for update in (0, 1))
        assert torch.equal(first.masked, second.masked) == same


# ---- 29 and 30. the head


def random_pairs(N: int = 5) -> Pairs:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 50, (N, 11), generator=generator)
    masked = draw_masks(N, 1, 8, generator).masked[:, 0]
    return Pairs(ids[:, :3], ids[:, 3:], masked, masked)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.model.named_parameters()}


def test_head_on_masked_rows_is_the_head_on_all_rows_gathered_afterwards():
    """29. Value and gradients, trunk and head alike, written out without any code of the estimator."""
    model, pairs = tiny(), random_pairs()
    got = token_logprob(model, pairs)
    got.sum().backward()
    found = gradients(model)

    model.model.zero_grad()
    noised = torch.cat([pairs.prompt_ids, pairs.completion_ids.masked_fill(pairs.masked, model.mask_id)], 1)
    logits = model.model(input_ids=noised).logits[:, 3:].log_softmax(-1)
    expected = logits.gather(-1, pairs.completion_ids[..., None])[..., 0][pairs.masked]
    expected.sum().backward()
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(token_logprob(model, pairs, Head(scored_rows_only=False)), expected, rtol=0, atol=1e-12)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


@dataclass(frozen=True)
class Chunks(Head):
    """A head that holds the logits of this many rows."""

    most: int = 1

    def chunk_rows(self, vocabulary: int, width: int) -> int:
        return self.most


class Linear:
    """A head alone: rows of its own, logits as large as asked for."""

    mask_id = -1

    def __init__(self, scale: float, V: int = 9, D: int = 4):
        generator = torch.Generator().manual_seed(0)
        self.weight = torch.randn(D, V, generator=generator, dtype=torch.float64).requires_grad_()
        self.rows = torch.randn(10, D, generator=generator, dtype=torch.float64)
        with torch.no_grad():  # the largest logit has the size asked for
            self.rows *= scale / (self.rows @ self.weight).abs().amax(-1, keepdim=True)
        self.rows.requires_grad_()

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight


@pytest.mark.parametrize("chunk", [1, 7, 10])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_chunked_cross_entropy_is_the_unchunked_one(chunk, scale):
    """30. Chunks of 1, 7 and all rows; labels in the last vocabulary column; logits of +-1e4."""
    head = Linear(scale)
    targets = torch.tensor([8, 0, 8, 3, 7, 8, 1, 2, 8, 5])
    pair_rows = torch.tensor([2, 1, 3, 1, 3])
    weight = torch.linspace(-1, 1, 10, dtype=torch.float64)
    expected = (head.rows @ head.weight).log_softmax(-1)[torch.arange(10), targets]
    (-(weight * expected).sum()).backward()
    by_row, by_weight = head.rows.grad.clone(), head.weight.grad.clone()
    assert torch.isfinite(by_weight).all() and expected.min() < -scale / 2

    head.rows.grad = head.weight.grad = None
    first_row = pair_rows.cumsum(0) - pair_rows

    def derivative(first: int, last: int, logprob: torch.Tensor) -> torch.Tensor:
        start = int(first_row[first])
        torch.testing.assert_close(logprob, expected[start : start + len(logprob)].detach(), rtol=1e-14, atol=1e-12)
        assert len(logprob) == pair_rows[first:last].sum()
        return weight[start : start + len(logprob)]

    got = backward_in_chunks(head, head.rows * 1, targets, pair_rows, derivative, Chunks(most=chunk))
    torch.testing.assert_close(got, expected.detach(), rtol=1e-14, atol=1e-12)
    torch.testing.assert_close(head.rows.grad, by_row, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(head.weight.grad, by_weight, rtol=1e-12, atol=1e-12 * scale)
    with torch.no_grad():
        torch.testing.assert_close(read_head(head, head.rows, targets, Chunks(most=chunk)), got, rtol=1e-14, atol=1e-12)


# ---- 31. packing and padding


def test_packed_completions_score_as_each_alone(rollouts):
    """31. Prompts of several widths, in one batch and one by one, packed and padded."""
    model = tiny()
    batch = batch_maker(STEP, OBJECTIVES["bgpo"], rollouts)(draws_of(STEP, OBJECTIVES["bgpo"], rollouts, 0, 0))
    assert len(batch.prompt_length.unique()) > 1
    together = score(model, batch, ALL)
    for row in range(len(batch)):
        alone = score(model, batch.select(torch.tensor([row])), ALL)[0]
        torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-12)
    torch.testing.assert_close(score(model, batch, Passes(10**6, packed=False)), together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("left, right", [(3, 0), (0, 4), (2, 5)])
def test_padding_on_either_side_changes_no_state_whatever_it_holds(left, right):
    """31. Neither its length nor its content, here the embedding of the padding token, reaches a token."""
    model = tiny()
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(2))
    padded = torch.nn.functional.pad(ids, (left, right), value=model.pad_id)
    # on the right it has to be named: a family may pad with the end token, which there is part of the answer
    valid = torch.nn.functional.pad(torch.ones(2, 9, dtype=torch.bool), (left, right)) if right else None
    with torch.no_grad():
        expected = model.hidden(ids)
        torch.testing.assert_close(model.hidden(padded, valid=valid)[:, left : left + 9], expected, rtol=0, atol=1e-12)
        model.model.model.embed_tokens.weight[model.pad_id] = 1e3
        torch.testing.assert_close(model.hidden(padded, valid=valid)[:, left : left + 9], expected, rtol=0, atol=1e-12)


def test_masked_prompt_tokens_leave_padding_alone(rollouts):
    """d1's and SPG's hidden prompt tokens: padding is not shown as a mask, so packing changes nothing."""
    model, config = tiny(), STEP.with_values(objective="diffu_grpo")
    objective = OBJECTIVES["diffu_grpo"]
    draws = draws_of(config, objective, rollouts, 0, 0)
    assert draws.prompt_masked.any()
    batch = batch_maker(config, objective, rollouts)(draws)
    plain = replace(batch, draws=replace(batch.draws, prompt_masked=None))
    packed, padded = (score(model, batch, Passes(10**6, packed=choice)) for choice in (True, False))
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-12)
    assert (packed - score(model, plain, ALL)).abs().max() > 1e-3


# ---- what the sampler drew with


@pytest.mark.parametrize("remasking", ["random", "max_prob"])
@pytest.mark.parametrize("steps", [4, 8])
def test_steps_of_the_path_score_tokens_with_what_the_sampler_drew_them_with(remasking, steps):
    """AGRPO: at its step, temperature and banned tokens a token has the log-probability it was drawn with."""
    config = STEP.with_values(objective="agrpo", remasking=remasking, denoising_steps=steps)
    model = tiny()
    rollouts = collect(model, TASKS[config.task], config, 0, judge=lambda problem, text: Reward(0.0, ""))
    rollouts = replace(rollouts, advantage=torch.ones(len(rollouts.advantage), dtype=torch.float64))
    objective = OBJECTIVES["agrpo"]
    batch = batch_maker(config, objective, rollouts)(draws_of(config, objective, rollouts, 0, 0))
    got = score(model, batch, updater_of(config, model)._as_drawn(ALL))
    drawn = batch.drawn_logprob[:, None] * batch.draws.scored
    torch.testing.assert_close(got, drawn.double(), rtol=0, atol=1e-5)  # the sampler's are float32
    assert (score(model, batch, ALL) - got).abs().max() > 1e-2, "temperature and bans matter here"


def test_all_path_steps_add_up_to_the_likelihood_of_the_path():
    """TraceRL: the slices' log-probabilities are those that the whole rollout was drawn with, at temperature 1."""
    config = STEP.with_values(objective="tracerl", temperature=1.0, denoising_steps=8)
    model = tiny()
    prompts = model.encode_prompts(["b*c-d*b", "a+b*c"], 11)
    done = complete(model, prompts, rollout_settings(config), Noise(0))
    rollouts = replace(
        rollouts_of(config), prompt_ids=prompts, completion_ids=done.ids, commit_step=done.commit_step,
        logprob=done.logprob, prompt_length=(prompts != model.pad_id).sum(1), reward=torch.zeros(1, 2),
        advantage=torch.ones(2, dtype=torch.float64),
    )
    objective = OBJECTIVES["tracerl"]
    batch = batch_maker(config, objective, rollouts)(draws_of(config, objective, rollouts, 0, 0))
    free = Head(banned_ids=tuple(model.banned_ids))
    got = score(model, batch, replace(ALL, head=free)).sum(1)
    torch.testing.assert_close(got, done.logprob.double(), rtol=0, atol=1e-5)
    assert dense(done.logprob.flatten(), torch.ones(2, L, dtype=torch.bool)).equal(done.logprob)


@pytest.mark.parametrize("scheme", [full, coupled, lambda s, g: one_ratio(s, g, 0, 1)])
def test_other_draws_repeat_with_their_seed(scheme):
    """28, for the draws that are no estimate of an ELBO."""
    first, second = (scheme(DrawShape(5, 3, 8, 8), torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.masked, second.masked) and torch.equal(first.weight, second.weight)


def test_path_steps_repeat_with_their_seed(rollouts):
    first, second = (
        trace_steps(rollouts.commit_step, rollouts.written, 3, torch.Generator().manual_seed(5)) for _ in range(2)
    )
    assert torch.equal(first.masked, second.masked) and torch.equal(first.scored, second.scored)
