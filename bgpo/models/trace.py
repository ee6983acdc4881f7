"""A completion's denoising, small enough to keep for every rollout: a header in JSON, then a few bytes per commit.

    "BGPO trace 1\\n"  header as one line of JSON, "\\n"  one record per step

A record is, with every number a varint (7 bits a byte, lowest first) unless said otherwise:

    n, then n commits in order of position:
        position - previous position - 1, token, probability (1 byte)
        if the header lists "logprob":     log-probability the token was drawn with (4 bytes, float32, little endian)
        if it lists "runners_up":          r, then r times: token, probability (1 byte)
    if it lists "guesses": m, then m guesses that are new or have changed, in order of position:
        position - previous position - 1, token, probability (1 byte)
        if it lists "entropy":             nats (1 byte)

A probability p is the byte round(255 sqrt(p)), an entropy h is min(255, round(16 h)). A guess is written again when its
token changes or one of its bytes moves by GUESS_STEP or more. Positions count from the start of the completion.
Torch-free, so that pages can read traces.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bgpo.models.sampler import Denoised, StepEvent

MAGIC = b"BGPO trace 1\n"
STREAMS = ("logprob", "runners_up", "guesses", "entropy")
GUESS_STEP = 8
_LONGEST = 1 << 20  # positions, steps or bytes of header: a damaged file must not ask for more memory than this


class TraceError(ValueError):
    """Bytes that are no trace, in a sentence."""


@dataclass(frozen=True)
class Commit:
    """A position fixed in a step. `runners_up` are (token, probability) of the likeliest others."""

    position: int
    token: int
    probability: float
    logprob: float | None = None
    runners_up: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Guess:
    """What a step would have written at a masked position of its block."""

    token: int
    probability: float
    entropy: float | None = None


@dataclass(frozen=True)
class Step:
    """One forward pass; `guesses` by position, of positions that were masked before it."""

    commits: tuple[Commit, ...]
    guesses: Mapping[int, Guess] = field(default_factory=dict)


@dataclass(frozen=True)
class Trace:
    """One completion.

    Attributes:
        length: positions; mask_id, eos_id: token ids; prompt_ids: without padding.
        locked: token by position, of those that stood from the start.
        ended_at: the step after which an ended completion was filled up with `eos_id`; None: never.
        settings: the sampler's, as plain values; seed: of its noise; more: whatever else the writer knows.
    """

    length: int
    mask_id: int
    eos_id: int
    steps: tuple[Step, ...]
    prompt_ids: tuple[int, ...] = ()
    locked: Mapping[int, int] = field(default_factory=dict)
    ended_at: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    more: Mapping[str, Any] = field(default_factory=dict)

    def canvas(self, step: int) -> list[int]:
        """The token ids after `step` steps; 0 is the start."""
        ids = [self.locked.get(position, self.mask_id) for position in range(self.length)]
        for made in self.steps[:step]:
            for commit in made.commits:
                ids[commit.position] = commit.token
        if self.ended_at is not None and step >= self.ended_at:
            ids = [self.eos_id if token == self.mask_id else token for token in ids]
        return ids

    def commit_step(self) -> list[int]:
        """The step, from 1, of each position; 0 where none wrote it."""
        steps = [0] * self.length
        for number, made in enumerate(self.steps, 1):
            for commit in made.commits:
                steps[commit.position] = number
        return steps


class Recorder:
    """Turns a row's StepEvents into steps, one after the other."""

    def __init__(self, row: int = 0):
        self.row, self.steps = row, []
        self.ended_at: int | None = None

    def add(self, event: StepEvent) -> None:
        """Steps in which the row had nothing left to do in the block are not steps of the row."""
        row = self.row
        committed = event.committed[row].nonzero()[:, 0].tolist()
        if committed:
            self.steps.append(Step(tuple(self._commit(event, i) for i in committed), self._guesses(event)))
        if bool(event.filled[row].any()):
            self.ended_at = len(self.steps)

    def _commit(self, event: StepEvent, i: int) -> Commit:
        row = self.row
        runners_up: tuple[tuple[int, float], ...] = ()
        if event.runner_up_ids is not None:
            runners_up = tuple(
                zip(event.runner_up_ids[row, i].tolist(), event.runner_up_confidence[row, i].tolist())
            )
        return Commit(
            i, event.ids[row, i].item(), event.confidence[row, i].item(), event.logprob[row, i].item(), runners_up
        )

    def _guesses(self, event: StepEvent) -> dict[int, Guess]:
        if event.guess_ids is None:
            return {}
        row = self.row
        places = event.guess_confidence[row].nonzero()[:, 0]
        entropy = [None] * len(places) if event.entropy is None else event.entropy[row, places].tolist()
        columns = places.tolist(), event.guess_ids[row, places].tolist(), event.guess_confidence[row, places].tolist()
        return {i: Guess(token, chance, nats) for i, token, chance, nats in zip(*columns, entropy)}


def steps_of(done: Denoised, row: int) -> tuple[tuple[Step, ...], int | None]:
    """The steps of a finished row, and the one after which it was filled up, if it was."""
    columns = (values[row].tolist() for values in (done.commit_step, done.ids, done.confidence, done.logprob))
    made: dict[int, list[Commit]] = {step: [] for step in range(1, int(done.nfe[row]) + 1)}
    for position, (step, token, probability, logprob) in enumerate(zip(*columns)):
        if step:
            made[step].append(Commit(position, token, probability, logprob))
    ended_at = int(done.nfe[row]) if bool(done.filled[row].any()) else None
    return tuple(Step(tuple(commits)) for commits in made.values()), ended_at


def encode(trace: Trace, streams: Iterable[str] = ()) -> bytes:
    """The bytes of a trace with some of STREAMS."""
    kept = [name for name in STREAMS if name in set(streams)]
    header = {
        "length": trace.length, "mask_id": trace.mask_id, "eos_id": trace.eos_id, "steps": len(trace.steps),
        "streams": kept, "prompt_ids": list(trace.prompt_ids), "seed": trace.seed, "ended_at": trace.ended_at,
        "locked": {str(position): token for position, token in trace.locked.items()},
        "settings": dict(trace.settings), "more": dict(trace.more),
    }
    out = bytearray(MAGIC + json.dumps(header, separators=(",", ":")).encode() + b"\n")
    shown: dict[int, tuple[int, int, int]] = {}
    for step in trace.steps:
        _put_commits(out, step.commits, kept)
        if "guesses" in kept:
            _put_guesses(out, step.guesses, shown, "entropy" in kept)
    return bytes(out)


def decode(data: bytes) -> Trace:
    """The inverse of `encode`, probabilities and entropies rounded; raises TraceError for anything else."""
    try:
        header, body = _header(data)
        reader, kept = _Reader(body), header["streams"]
        shown: dict[int, Guess] = {}
        steps = []
        for _ in range(header["steps"]):
            commits = tuple(_take_commits(reader, kept, header["length"]))
            if "guesses" in kept:
                _take_guesses(reader, shown, "entropy" in kept, header["length"])
            steps.append(Step(commits, dict(shown)))
            for commit in commits:
                shown.pop(commit.position, None)
        return Trace(
            header["length"], header["mask_id"], header["eos_id"], tuple(steps), tuple(header["prompt_ids"]),
            {int(position): token for position, token in header["locked"].items()}, header["ended_at"],
            header["settings"], header["seed"], header["more"],
        )
    except (IndexError, KeyError, TypeError, ValueError, AttributeError, struct.error) as error:
        raise TraceError("These bytes are not a whole trace; export it again.") from error


def _header(data: bytes) -> tuple[dict[str, Any], bytes]:
    if not data.startswith(MAGIC):
        raise TraceError("no trace")
    line, newline, body = data[len(MAGIC) :].partition(b"\n")
    header = json.loads(line) if newline and len(line) <= _LONGEST else {}
    sizes = (header["length"], header["steps"])
    if not all(type(size) is int and 0 <= size <= _LONGEST for size in sizes):
        raise TraceError("no sizes")
    return header, body


def _put_commits(out: bytearray, commits: Sequence[Commit], kept: Sequence[str]) -> None:
    _put(out, len(commits))
    before = -1
    for commit in sorted(commits, key=lambda commit: commit.position):
        _put(out, commit.position - before - 1)
        before = commit.position
        _put(out, commit.token)
        out.append(_probability(commit.probability))
        if "logprob" in kept:
            out += struct.pack("<f", commit.logprob or 0.0)
        if "runners_up" in kept:
            _put(out, len(commit.runners_up))
            for token, probability in commit.runners_up:
                _put(out, token)
                out.append(_probability(probability))


def _take_commits(reader: _Reader, kept: Sequence[str], length: int) -> Iterator[Commit]:
    position = -1
    for _ in range(reader.count(length)):
        position += reader.number() + 1
        if position >= length:
            raise TraceError("a position beyond the end")
        token, probability = reader.number(), _of_probability(reader.byte())
        logprob = struct.unpack("<f", reader.take(4))[0] if "logprob" in kept else None
        others: tuple[tuple[int, float], ...] = ()
        if "runners_up" in kept:
            others = tuple(
                (reader.number(), _of_probability(reader.byte())) for _ in range(reader.count(length))
            )
        yield Commit(position, token, probability, logprob, others)


def _put_guesses(
    out: bytearray, guesses: Mapping[int, Guess], shown: dict[int, tuple[int, int, int]], entropy: bool
) -> None:
    """What differs from `shown`, which becomes what a reader then shows."""
    new = {}
    for position in sorted(guesses):
        guess = guesses[position]
        now = guess.token, _probability(guess.probability), _entropy(guess.entropy) if entropy else 0
        last = shown.get(position)
        if last is None or now[0] != last[0] or max(abs(a - b) for a, b in zip(now[1:], last[1:])) >= GUESS_STEP:
            new[position] = now
    _put(out, len(new))
    before = -1
    for position, (token, probability, nats) in new.items():
        _put(out, position - before - 1)
        before = position
        _put(out, token)
        out.append(probability)
        if entropy:
            out.append(nats)
    shown |= new


def _take_guesses(reader: _Reader, shown: dict[int, Guess], entropy: bool, length: int) -> None:
    position = -1
    for _ in range(reader.count(length)):
        position += reader.number() + 1
        if position >= length:
            raise TraceError("a position beyond the end")
        token, probability = reader.number(), _of_probability(reader.byte())
        shown[position] = Guess(token, probability, reader.byte() / 16 if entropy else None)


class _Reader:
    """Varints and bytes from the front."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def take(self, count: int) -> bytes:
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 35:
                raise TraceError("a number that does not end")

    def count(self, most: int) -> int:
        count = self.number()
        if count > most:
            raise TraceError("more entries than positions")
        return count


def _put(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _probability(p: float) -> int:
    return round(255 * min(1.0, max(0.0, p)) ** 0.5)


def _of_probability(byte: int) -> float:
    return (byte / 255) ** 2


def _entropy(nats: float | None) -> int:
    return min(255, round(16 * (nats or 0.0)))
