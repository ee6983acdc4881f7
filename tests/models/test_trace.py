"""Traces: what is written is read again, small, and whatever else is read is a sentence."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bgpo.models.decoding import SamplerSettings
from bgpo.models.noise import Noise
from bgpo.models.sampler import Watch, complete, denoise
from bgpo.models.tiny import build_tiny
from bgpo.models.trace import (
    GUESS_STEP,
    STREAMS,
    Commit,
    Guess,
    Recorder,
    Step,
    Trace,
    TraceError,
    decode,
    encode,
    steps_of,
)


@pytest.fixture(scope="module")
def model():
    return build_tiny(torch.Generator().manual_seed(0))


@pytest.mark.parametrize("streams", [(), ("logprob",), ("guesses",), STREAMS])
def test_a_real_completion_comes_back_canvas_by_canvas(model, streams):
    prompt = model.encode_prompts(["37+48", "1+2"], 5)
    s = SamplerSettings(12, 6, 4, 1.0, "max_prob", stop_at_eos=True)
    locked = torch.full((2, 12), model.mask_id)
    locked[0, 3], locked[1, 2] = 9, model.eos_id
    canvases = {0: [locked[0].tolist()], 1: [locked[1].tolist()]}
    recorders = {row: Recorder(row) for row in canvases}
    for event in denoise(model, prompt, s, Noise(1), locked=locked, watch=Watch(True, True, 4)):
        for row, recorder in recorders.items():
            recorder.add(event)
            if event.committed[row].any():
                canvases[row].append(event.ids[row].tolist())
    for row, recorder in recorders.items():
        fixed = {i: token for i, token in enumerate(locked[row].tolist()) if token != model.mask_id}
        steps = tuple(recorder.steps)
        given = Trace(12, model.mask_id, model.eos_id, steps, (5, 6), fixed, recorder.ended_at, vars(s), 1)
        trace = decode(encode(given, streams))
        assert [trace.canvas(step) for step in range(len(canvases[row]))] == canvases[row]
        assert (trace.locked, trace.prompt_ids, trace.settings) == (fixed, (5, 6), vars(s))
        for made, step in zip(given.steps, trace.steps):
            _assert_close(made, step, streams)
    assert given.ended_at == 2, "the row that had its end token given was filled up after its first block"


def _assert_close(made: Step, read: Step, streams) -> None:
    for a, b in zip(made.commits, read.commits, strict=True):
        assert (a.position, a.token) == (b.position, b.token) and abs(a.probability**0.5 - b.probability**0.5) < 0.003
        assert b.logprob == (pytest.approx(a.logprob, rel=1e-6) if "logprob" in streams else None)
        assert [t for t, _ in b.runners_up] == ([t for t, _ in a.runners_up] if "runners_up" in streams else [])
    assert set(read.guesses) == (set(made.guesses) if "guesses" in streams else set())
    for position, guess in read.guesses.items():
        assert guess.token == made.guesses[position].token
        assert abs(guess.probability**0.5 - made.guesses[position].probability**0.5) < (GUESS_STEP + 1) / 255
        if "entropy" in streams:
            assert abs(guess.entropy - made.guesses[position].entropy) < (GUESS_STEP + 1) / 16


def test_a_finished_batch_has_traces_without_having_been_watched(model):
    s = SamplerSettings(12, 6, 4, 1.0, "entropy", schedule="threshold", confidence_threshold=0.03, stop_at_eos=True)
    prompt = model.encode_prompts(["37+48", "1+2", "9+9"], 5)
    done = complete(model, prompt, s, Noise(1))
    for row in range(3):
        steps, ended_at = steps_of(done, row)
        trace = decode(encode(Trace(12, model.mask_id, model.eos_id, steps, ended_at=ended_at), ("logprob",)))
        assert trace.canvas(len(steps)) == done.ids[row].tolist()
        assert trace.commit_step() == done.commit_step[row].tolist()
        logprob = sum(commit.logprob for step in trace.steps for commit in step.commits)
        assert logprob == pytest.approx(done.logprob[row].sum().item())


def test_a_long_trace_takes_kilobytes():
    """256 tokens of LLaDA's vocabulary in 128 steps: commits alone under 1.7 kB, everything under 12.5 kB."""
    generator = torch.Generator().manual_seed(0)

    def number(most: int) -> int:
        return int(torch.randint(most, (1,), generator=generator))

    steps, guesses = [], {}
    for step in range(128):
        start = step // 16 * 32
        left = [i for i in range(start, start + 32) if step % 16 == 0 or i in guesses]
        guesses = {i: guesses[i] if i in guesses and number(10) >= 3 else Guess(number(126_464), number(100) / 100, 2.0)
                   for i in left}
        chosen = [left.pop(number(len(left))) for _ in range(2)]
        others = tuple((number(126_464), 0.1) for _ in range(4))
        steps.append(Step(tuple(Commit(i, number(126_464), 0.5, -0.7, others) for i in sorted(chosen)), dict(guesses)))
        guesses = {i: guess for i, guess in guesses.items() if i not in chosen}
    trace = Trace(256, 126_336, 126_081, tuple(steps))
    assert len(encode(trace)) < 1700
    assert len(encode(trace, ("guesses",))) < 6000
    assert len(encode(trace, STREAMS)) < 12_500
    assert decode(encode(trace, STREAMS)).canvas(128) == trace.canvas(128)


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
@settings(max_examples=200)
def test_damaged_bytes_are_a_sentence_or_a_trace(junk, at, byte):
    steps = Step((Commit(0, 5, 0.5), Commit(3, 300, 1.0))), Step((Commit(1, 2, 0.1),))
    whole = bytearray(encode(Trace(4, 9, 8, steps)))
    whole[at % len(whole)] = byte
    for data in (junk, bytes(whole), bytes(whole[: at % len(whole)]), b"BGPO trace 1\n" + junk):
        try:
            decode(data).canvas(2)
        except TraceError as error:
            assert str(error).endswith(".")


def test_a_header_cannot_ask_for_more_than_a_trace_holds():
    for size in ("1e9", "99999999999", "-1", "true", "null", '"4"'):
        with pytest.raises(TraceError):
            decode(b'BGPO trace 1\n{"length":' + size.encode() + b',"steps":1}\n')
