"""The sampler's promises, on the tiny model with random weights: what is fixed, when, and whatever the batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpo.models.decoding import CACHES, ORDERS, SCHEDULES, SamplerSettings
from bgpo.models.noise import Noise
from bgpo.models.sampler import Resume, Watch, complete, denoise
from bgpo.models.tiny import build_tiny

CACHED = [name for name in CACHES if name != "block_causal"]
ROW = torch.tensor([0])


@pytest.fixture(scope="module")
def model():
    """Weights large enough that confidence and entropy differ between positions."""
    model = build_tiny(torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return model


def prompts(model, B: int = 5) -> torch.Tensor:
    return model.encode_prompts([f"{10 + i}+48"[: 5 - i % 2] for i in range(B)], 7)  # of two lengths, both padded


def sampler(order="max_prob", schedule="quota", cache="none", temperature=1.0, **more) -> SamplerSettings:
    given = {"completion_length": 12, "denoising_steps": 6, "block_length": 4, "confidence_threshold": 0.1} | more
    return SamplerSettings(temperature=temperature, remasking=order, schedule=schedule, cache=cache, **given)


@pytest.mark.parametrize("cache", CACHED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_position_is_committed_once_and_within_its_block(model, order, schedule, cache):
    locked = torch.full((5, 12), model.mask_id)
    locked[1, [0, 5, 11]] = 7
    events = list(denoise(model, prompts(model), sampler(order, schedule, cache), Noise(0), locked=locked))
    assert [event.step for event in events] == list(range(1, len(events) + 1))
    times = sum(event.committed.int() for event in events)
    assert torch.equal(times == 1, locked == model.mask_id) and times.max() == 1
    standing = locked
    for event in events:
        start = int((standing == model.mask_id).any(0).int().argmax()) // 4 * 4  # the first block that is not done
        assert event.committed[:, start : start + 4].sum() == event.committed.sum() > 0
        rows = (standing[:, start : start + 4] == model.mask_id).any(1)
        assert torch.equal(event.committed.any(1), rows), "a row that has masks left in the block commits some"
        assert torch.equal(event.ids[~event.committed], standing[~event.committed])
        standing = event.ids
    assert not torch.isin(standing, torch.tensor([model.mask_id, model.pad_id])).any()


@pytest.mark.parametrize("length, steps, block", [(8, 8, 8), (8, 4, 4), (12, 6, 4), (10, 3, 10), (6, 2, 3)])
def test_a_quota_spends_its_steps_evenly(model, length, steps, block):
    s = sampler(completion_length=length, denoising_steps=steps, block_length=block)
    counts = [event.committed.sum(1) for event in denoise(model, prompts(model), s, Noise(0))]
    assert len(counts) == steps and all(count.unique().numel() == 1 for count in counts)
    for b in range(length // block):
        here = [int(count[0]) for count in counts[b * s.steps_per_block : (b + 1) * s.steps_per_block]]
        assert sum(here) == block and here == sorted(here, reverse=True) and max(here) - min(here) <= 1


@given(length=st.integers(1, 12), block=st.integers(1, 12), steps=st.integers(1, 14), schedule=st.sampled_from(
    list(SCHEDULES)))
@settings(max_examples=200)
def test_settings_that_do_not_divide_are_refused_in_a_sentence(length, block, steps, schedule):
    problem = SamplerSettings(length, steps, block, 1.0, "random", schedule).problem()
    divides = length % block == 0 and steps <= length and steps % (length // block) == 0
    if divides or (length % block == 0 and schedule not in ("quota", "dream")):
        assert problem is None
    else:
        assert problem[0] in problem[1] and "divide" in problem[1] and problem[1].endswith(".")


@pytest.mark.parametrize(
    "schedule, cache",
    # a cache with a schedule of its own is slow: what each does to a batch is seen with the other's usual value
    [("quota", cache) for cache in CACHED] + [
        pytest.param("threshold", cache, marks=() if cache == "none" else pytest.mark.slow) for cache in CACHED
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_a_sample_does_not_depend_on_its_batch(model, order, schedule, cache):
    """Batch size, order of rows, rows that finish earlier, padding of the batch: none changes a row."""
    s = sampler(order, schedule, cache, stop_at_eos=True)
    prompt = prompts(model, 6)
    together = complete(model, prompt, s, Noise(3))
    turned = torch.tensor([4, 2, 0, 5, 1, 3])
    again = complete(model, prompt[turned], s, Noise(3, rows=turned))
    assert torch.equal(again.ids, together.ids[turned])
    assert torch.equal(again.commit_step, together.commit_step[turned])
    for row in range(6):
        alone = complete(model, prompt[row : row + 1], s, Noise(3, rows=torch.tensor([row])))
        assert torch.equal(alone.ids[0], together.ids[row]) and alone.nfe[0] == together.nfe[row]
        assert torch.equal(alone.commit_step[0], together.commit_step[row])
        torch.testing.assert_close(alone.logprob[0], together.logprob[row])


@pytest.mark.parametrize("order", ORDERS)
def test_same_seed_same_answer(model, order):
    first, second, other = (complete(model, prompts(model), sampler(order), Noise(seed)).ids for seed in (3, 3, 4))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_common_noise_tells_rows_and_steps_apart_by_their_logits_alone(model):
    """Two rows with one prompt are one row, and a threshold that takes one step or four draws the same tokens."""
    prompt = prompts(model, 1).expand(2, -1)
    one = complete(model, prompt, sampler("left_to_right"), Noise(1, common=True)).ids
    assert torch.equal(one[0], one[1])
    apart = complete(model, prompt, sampler("left_to_right"), Noise(1)).ids
    assert not torch.equal(apart[0], apart[1])


def test_greedy_is_the_same_for_both_confidence_orders_and_any_seed(model):
    runs = [
        complete(model, prompts(model), sampler(order, temperature=0.0), Noise(seed)).ids
        for order in ("max_prob", "low_confidence") for seed in (0, 1)
    ]
    assert all(torch.equal(runs[0], run) for run in runs[1:])


@pytest.mark.parametrize("cache", CACHED)
def test_one_first_pass_for_equal_prompts_changes_nothing(model, cache):
    """The first pass of a group is one row, and its rows are what they are alone."""
    shapes = []
    spy = _Spied(model, lambda ids: shapes.append(tuple(ids.shape)))
    prompt = prompts(model, 2).repeat_interleave(4, 0)
    done = complete(spy, prompt, sampler(cache=cache), Noise(0))
    assert shapes[0][0] == 2 and shapes[1][0] == 8
    s = sampler(cache=cache)
    alone = torch.cat([complete(model, prompt[i : i + 1], s, Noise(0, ROW + i)).ids for i in range(8)])
    assert torch.equal(done.ids, alone)


def test_caches_read_less(model):
    """Columns of each pass: everything, block and what follows, the block alone."""
    widths = {}
    for cache in CACHED:
        seen = widths[cache] = []
        spy = _Spied(model, lambda ids, seen=seen: seen.append(ids.shape[1]))
        complete(spy, prompts(model, 1), sampler(cache=cache, denoising_steps=12), Noise(0))
    T = 12 + 5
    assert widths == {
        "none": [T] * 12, "prefix": [T, 12, 12, 12, T, 8, 8, 8, T, 4, 4, 4], "dual": [T, 4, 4, 4] * 3,
    }


def test_a_row_that_is_done_costs_nothing(model):
    """Locked rows, rows that finish their block early and rows that have ended leave the batch."""
    batches = []
    spy = _Spied(model, lambda ids: batches.append(len(ids)))
    locked = torch.full((3, 12), model.mask_id)
    locked[0, 4:] = 9
    locked[1] = 9
    done = complete(spy, prompts(model, 3), sampler(denoising_steps=12), Noise(0), locked=locked)
    assert done.nfe.tolist() == [4, 0, 12] and batches == [2] * 4 + [1] * 8 and done.passes == 12


def test_a_completion_that_has_ended_is_filled_with_end_tokens_and_says_so(model):
    prompt = prompts(model)
    full = complete(model, prompt, sampler(), Noise(0))
    locked = torch.full((5, 12), model.mask_id)
    locked[0, 2], locked[3, 5], locked[3, 10] = model.eos_id, model.eos_id, 9
    done = complete(model, prompt, sampler(stop_at_eos=True), Noise(0), locked=locked)
    free = complete(model, prompt, sampler(), Noise(0), locked=locked)
    assert done.filled[0].tolist() == [False] * 4 + [True] * 8
    assert done.filled[3].tolist() == [False] * 8 + [True, True, False, True], "what the caller fixed stays"
    assert (done.ids[done.filled] == model.eos_id).all() and (done.commit_step[done.filled] == 0).all()
    assert torch.equal(done.ids[:, :4], free.ids[:, :4]), "exact up to the end"
    assert (done.nfe[0], done.nfe[3]) == (2, 4) and not free.filled.any() and not full.filled.any()
    events = list(denoise(model, prompt, sampler(stop_at_eos=True), Noise(0), locked=locked))
    assert torch.equal(sum(event.filled.int() for event in events).bool(), done.filled)
    assert torch.equal(events[-1].ids, done.ids)


@pytest.mark.parametrize("cache", CACHED)
@pytest.mark.parametrize("schedule", ["quota", "threshold"])
def test_going_on_from_a_step_makes_the_rest_again(model, schedule, cache):
    s = sampler(schedule=schedule, cache=cache, denoising_steps=9)
    locked = torch.full((3, 12), model.mask_id)
    locked[2, 6] = 9
    whole = list(denoise(model, prompts(model, 3), s, Noise(5), locked=locked))
    done = complete(model, prompts(model, 3), s, Noise(5), locked=locked)
    for step in range(int(done.nfe.max())):
        at = Resume(done.ids, done.commit_step, done.nfe.clamp(max=step))
        rest = list(denoise(model, prompts(model, 3), s, Noise(5), locked=locked, resume=at))
        assert torch.equal(rest[-1].ids, whole[-1].ids), step
    # other noise: what stood at the step stays, the rest may change
    at = Resume(done.ids, done.commit_step, torch.full((3,), 2))
    other = list(denoise(model, prompts(model, 3), s, Noise(6), locked=locked, resume=at))[-1].ids
    standing = (done.commit_step > 0) & (done.commit_step <= 2)
    assert torch.equal(other[standing], done.ids[standing]) and not torch.equal(other, done.ids)


def test_what_is_watched_changes_nothing_and_is_the_models(model):
    s = sampler("random")
    plain = list(denoise(model, prompts(model), s, Noise(0)))
    watched = list(denoise(model, prompts(model), s, Noise(0), watch=Watch(guesses=True, entropy=True, runners_up=4)))
    assert torch.equal(plain[-1].ids, watched[-1].ids)
    assert plain[0].guess_ids is plain[0].entropy is plain[0].runner_up_ids is None
    canvas = torch.full((5, 12), model.mask_id)
    for event in watched:
        law = law_of(model, canvas)
        masked = event.guess_confidence > 0
        start = int((canvas == model.mask_id).any(0).int().argmax()) // 4 * 4
        inside = torch.zeros_like(masked)
        inside[:, start : start + 4] = True
        assert torch.equal(masked, (canvas == model.mask_id) & inside)
        torch.testing.assert_close(event.guess_confidence[masked], law.max(-1).values[masked])
        torch.testing.assert_close(event.entropy[masked], -torch.xlogy(law, law).sum(-1)[masked])
        at = event.committed
        torch.testing.assert_close(law.gather(-1, event.runner_up_ids)[at], event.runner_up_confidence[at])
        assert not (event.runner_up_ids == event.ids[..., None])[at].any()
        best = law.scatter(-1, event.ids[..., None], 0).topk(4).values
        torch.testing.assert_close(event.runner_up_confidence[at], best[at])
        canvas = event.ids


@pytest.mark.parametrize("cache", CACHED)
def test_no_guidance_is_guidance_of_weight_zero_and_guidance_is_llada_s(model, cache):
    s = sampler(cache=cache, temperature=0.0)
    canvas = torch.full((5, 12), model.mask_id)
    with torch.no_grad():
        given = model.logits(model.hidden(torch.cat([prompts(model), canvas], 1))[:, 7:11])
        hidden = prompts(model).masked_fill(prompts(model) != model.pad_id, model.mask_id)
        bare = model.logits(model.hidden(torch.cat([hidden, canvas], 1))[:, 7:11])
    logits = bare + 2.5 * (given - bare)
    logits[..., model.banned_ids] = -torch.inf
    first = next(denoise(model, prompts(model), replace(s, cfg_scale=1.5), Noise(0), watch=Watch(guesses=True)))
    assert torch.equal(first.guess_ids[:, :4], logits.argmax(-1))
    torch.testing.assert_close(first.guess_confidence[:, :4], logits.softmax(-1).amax(-1))
    assert not torch.equal(complete(model, prompts(model), replace(s, cfg_scale=1.5), Noise(0)).ids,
                           complete(model, prompts(model), s, Noise(0)).ids)


def test_the_head_on_the_whole_block_gives_the_same(model):
    s = sampler("max_prob", temperature=0.7)
    whole = complete(model, prompts(model), replace(s, masked_rows_only=False), Noise(0))
    assert torch.equal(whole.ids, complete(model, prompts(model), s, Noise(0)).ids)


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "low_confidence"])
@pytest.mark.parametrize("schedule", ["quota", "threshold", "factor", "entropy_bound"])
def test_recorded_logprobs_are_those_of_a_replay(model, order, schedule):
    """State by state: softmax(logits / T) of the token, and its probability at temperature 1."""
    s = sampler(order, schedule, temperature=0.5)
    done = complete(model, prompts(model), s, Noise(0))
    for step in range(1, int(done.nfe.max()) + 1):
        at = done.commit_step == step
        canvas = done.ids.masked_fill(done.commit_step >= step, model.mask_id)
        law = law_of(model, canvas)
        logprob = (law.log() / 0.5).log_softmax(-1).gather(-1, done.ids[..., None])[..., 0]
        torch.testing.assert_close(done.logprob[at], logprob[at], rtol=0, atol=1e-5)
        torch.testing.assert_close(done.confidence[at], law.gather(-1, done.ids[..., None])[..., 0][at])


def test_a_threshold_commits_all_that_are_sure_and_a_bound_all_that_fit(model):
    """The rules of Fast-dLLM and EB, on what each step could see."""
    rules = {
        "threshold": lambda p, h, taken: all(q >= 0.1 for q in taken[1:]),
        "factor": lambda p, h, taken: all(q >= 1 - 1.5 / (r + 1) for r, q in enumerate(taken, 1) if r > 1),
    }
    for schedule, rule in rules.items():
        s = sampler("max_prob", schedule, temperature=0.0, factor=1.5)
        for event in denoise(model, prompts(model), s, Noise(0)):
            for row in event.confidence:
                assert rule(None, None, sorted(row[row > 0].tolist(), reverse=True))
    s = sampler("entropy", "entropy_bound", entropy_bound=3.0)
    for event in denoise(model, prompts(model), s, Noise(0), watch=Watch(entropy=True)):
        for row, at in zip(event.entropy, event.committed):
            spent = row[at]
            assert not len(spent) or spent.sum() - spent.max() <= 3.0 + 1e-5


def test_complete_asks_between_steps(model):
    asked = []
    complete(model, prompts(model), sampler(), Noise(0), lambda: asked.append(1))
    assert len(asked) == 6


def test_block_causal_keys_need_a_block_causal_model(model):
    with pytest.raises(ValueError, match="block-causal model"):
        complete(model, prompts(model), sampler(cache="block_causal"), Noise(0))


def law_of(model, canvas: torch.Tensor) -> torch.Tensor:
    """(B, L, V) probabilities at temperature 1 of what may be written on a canvas of 12."""
    with torch.no_grad():
        logits = model.logits(model.hidden(torch.cat([prompts(model, len(canvas)), canvas], 1))[:, 7:])
    logits[..., model.banned_ids] = -torch.inf
    return logits.softmax(-1)


class _Spied:
    """The model, telling of each pass's ids."""

    def __init__(self, model, tell):
        self._model, self._tell = model, tell

    def __getattr__(self, name):
        return getattr(self._model, name)

    def states_at(self, ids, *more):
        self._tell(ids)
        return self._model.states_at(ids, *more)
