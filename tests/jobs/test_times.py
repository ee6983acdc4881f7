"""Times as people write them, over midnight and both changes of the clock."""

from __future__ import annotations

import math
import time
from datetime import datetime

import pytest

from bgpo.jobs.times import parse_time, time_words


@pytest.fixture(autouse=True)
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


NOON = "2026-11-25 12:00"


@pytest.mark.parametrize("text, now, then", [
    ("22:30", NOON, "2026-11-25 22:30"), ("9:15", NOON, "2026-11-26 09:15"), ("12:00", NOON, "2026-11-26 12:00"),
    ("tomorrow 22:30", NOON, "2026-11-26 22:30"), ("today 9:15", NOON, "2026-11-25 09:15"),
    ("2026-12-01 02:00", NOON, "2026-12-01 02:00"), ("in 90 min", NOON, "2026-11-25 13:30"),
    ("in 2h", NOON, "2026-11-25 14:00"), ("2026-12-01T02:00+00:00", NOON, "2026-12-01 03:00"),
    # 25 hours and 23 hours away, but the same time on the wall
    ("12:30", "2026-10-24 12:45", "2026-10-25 12:30"), ("12:30", "2026-03-28 12:45", "2026-03-29 12:30"),
])
def test_a_time_in_words(text, now, then):
    assert parse_time(text, at(now)) == at(then)


@pytest.mark.parametrize("text", ["", "now", "  NOW "])
def test_at_once(text):
    assert parse_time(text, 0.0) is None


@pytest.mark.parametrize("text", ["25:00", "12:60", "soon", "12", "in 3 moons", "2026-13-01 00:00", "9" * 99])
def test_what_is_no_time_gets_a_sentence(text):
    with pytest.raises(ValueError, match="write 22:30"):
        parse_time(text, at(NOON))


@pytest.mark.parametrize("text", [
    "in 9999999 d", "0001-01-01", "9999-12-31 23:59", "9999-12-31T23:59-12:00", "0001-01-01T00:00+12:00", "1969-12-30",
    "2101-01-01",
])
def test_a_time_that_nobody_waits_for_gets_a_sentence(text):
    with pytest.raises(ValueError, match="is not between 1970 and 2100; write 22:30"):
        parse_time(text, at(NOON))


@pytest.mark.parametrize("stored, words", [
    (8.6e11, "the year 29222"), (1e300, "the year "), (math.inf, "the year inf"),
])
def test_a_stored_time_of_no_calendar_still_has_words(stored, words):
    assert time_words(stored, at(NOON)).startswith(words)


def test_words_for_a_time():
    assert time_words(at("2026-11-25 22:30"), at(NOON)) == "22:30"
    assert time_words(at("2026-11-26 02:30"), at(NOON)) == "tomorrow 02:30"
    assert time_words(at("2026-12-24 18:00"), at(NOON)) == "2026-12-24 18:00"
