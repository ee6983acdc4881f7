"""The line that says when a run would begin, and how long one takes: real rows, real leases."""

from __future__ import annotations

import time

import pytest

from bgpo.config import TrainConfig
from bgpo.jobs.devices import Gpu, offer
from bgpo.presets import adder
from storage.queue import claim_next
from storage.runs import create_run, list_runs, transition
from storage.settings import pause_queue
from ui import run_times
from ui.run_times import Span
from ui.start_words import read_queue, start_words

CARD = Gpu("GPU-1", "NVIDIA H100", 80 << 30, 0)
NOW = time.time()


@pytest.fixture
def queued(services):
    """Puts a run into the queue: `queued(priority=1)`."""

    def make(config: TrainConfig | None = None, **columns):
        config = config or adder()
        return create_run(services.db, name="a run", config_json=config.to_json(), train_steps=config.train_steps,
                          runs_folder=services.runs_folder, **columns)

    return make


@pytest.fixture
def words(services):
    def say(config: TrainConfig | None = None, slots: int = 1, gpus=(), **place) -> str:
        queue = read_queue(services.db, list_runs(services.db), slots, gpus, NOW)
        return start_words(config or adder(), place, queue)

    return say


def claim(services, slots: int = 1, gpus=(), **progress) -> int:
    run = claim_next(services.db, offer(slots, list(gpus)))
    transition(services.db, run.id, ("launching",), "running", **progress)
    return run.id


def finish(services, queued, seconds: float, config: TrainConfig | None = None) -> None:
    queued(config)
    id = claim(services)
    transition(services.db, id, ("running",), "finished", seconds=seconds)
    with services.db.write() as connection:
        connection.exec_driver_sql("delete from lease")


def test_an_idle_machine_starts_it_on_what_it_has(words):
    assert words() == "Starts now on the CPU"
    assert words(gpus=[CARD]) == "Starts now on GPU 0 (NVIDIA H100)"
    assert words(adder().with_values(device="cpu"), gpus=[CARD]) == "Starts now on the CPU"
    busy = Gpu("GPU-1", "NVIDIA H100", 80 << 30, 60 << 30, processes=((1, 60 << 30),))
    assert words(gpus=[busy]) == "Waits: other programs hold the memory of every GPU"
    free = Gpu("GPU-2", "NVIDIA L4", 24 << 30, 0)
    assert words(gpus=[busy, free]) == "Starts now on GPU 1 (NVIDIA L4)"


def test_it_waits_for_those_before_it_that_want_the_same_devices(words, services, queued):
    queued()
    claim(services)
    assert words() == "Queued behind 1" and words(slots=2) == "Starts now on the CPU"
    queued()
    assert words() == "Queued behind 2" and words(slots=2) == "Queued behind 1"
    assert words(gpus=[CARD]) == "Queued behind 1", "the one in the queue gets the card"
    assert words(priority=1) == "Queued behind 1"


def test_those_that_may_not_start_yet_are_not_before_it(words, services, queued):
    first = queued(start_at=NOW + 3600)
    queued(after_id=first.id)
    assert words() == "Starts now on the CPU"
    assert words(after_id=first.id) == f"Starts after run {first.id} has ended"
    assert words(start_at=NOW + 60).startswith("Starts at ")
    pause_queue(services.db, True)
    assert words() == "The queue is paused: it will wait"


def test_the_wait_is_told_when_all_before_it_are_known(words, services, queued):
    steps = adder().train_steps
    queued()
    claim(services, step=steps // 2, seconds=1000.0)
    left = 1000 / (steps // 2) * (steps - steps // 2)
    assert words() == f"Queued behind 1, about {run_times.duration(left)}"
    queued()
    assert words() == "Queued behind 2", "nothing is known of the second"


def test_a_range_comes_from_finished_runs_of_the_same_kind(services, queued):
    finish(services, queued, 600)
    finish(services, queued, 1200)
    finish(services, queued, 9000, adder().with_values(mc_samples=64))
    runs = list_runs(services.db)
    span = run_times.expected(adder(), runs)
    assert span == Span(600, 1200, 2, True) and run_times.span_words(span) == "10 to 20 min"
    twice = run_times.expected(adder().with_values(train_steps=2 * adder().train_steps), runs)
    assert (twice.low, twice.high) == (1200, 2400)
    other = run_times.expected(adder().with_values(mc_samples=32), runs)
    assert (other.low, other.high, other.same) == (600, 9000, False)
    assert "another size" in run_times.judged_words(other)
    assert run_times.expected(adder().model_copy(update={"task": "sudoku"}), runs) is None


@pytest.mark.parametrize(("span", "words"), [
    (Span(6000, 6100), "about 1 h 40"), (Span(40, 70), "40 to 70 s"), (Span(80, 600), "80 s to 10 min"),
    (Span(0, 0), "about 1 s"), (Span(7200, 7200), "about 2 h"), (Span(3600, 7200), "60 min to 2 h"),
    (Span(7100, 7199), "about 2 h"), (Span(40_000, 80_000), "11 to 22 h"),
])
def test_times_are_said_as_people_say_them(span, words):
    assert run_times.span_words(span) == words
