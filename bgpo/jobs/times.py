"""Times that people write: "22:30", "tomorrow 7:00", "2026-11-26 02:00", "in 2 h"; the clock is this machine's."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta

from storage.runs import LATEST

HINT = "write 22:30, tomorrow 7:00, 2026-11-26 02:00 or in 90 min"
_YEAR = 31_556_952  # seconds
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def parse_time(text: str, now: float) -> float | None:
    """The epoch seconds that `text` means, None for an empty one or "now". `now` in epoch seconds.

    A bare time of day is the next one. Raises ValueError with a sentence.
    """
    text = " ".join(text.lower().split())
    if text in ("", "now"):
        return None
    at = _read(text, now)
    if not plannable(at):
        raise ValueError(f"{text[:40]!r} is not between 1970 and 2100; {HINT}.")
    return at


def plannable(at: float) -> bool:
    """Whether a start can be planned for these epoch seconds."""
    return 0 <= at <= LATEST  # false for nan, too


def time_words(at: float, now: float) -> str:
    """"22:30", with the date where it is not today."""
    try:
        then, today = datetime.fromtimestamp(at), datetime.fromtimestamp(now).date()
    except (ValueError, OverflowError, OSError):  # a list shows a row all the same, whatever has written it
        return f"the year {1970 + at / _YEAR:.0f}"
    if then.date() == today:
        return f"{then:%H:%M}"
    return f"tomorrow {then:%H:%M}" if then.date() == today + timedelta(days=1) else f"{then:%Y-%m-%d %H:%M}"


def _read(text: str, now: float) -> float:
    """The epoch seconds of any year, infinity where no number says them. Raises ValueError with a sentence."""
    if match := re.fullmatch(r"in (\d{1,7}(?:\.\d+)?) ?(s|min|m|h|d)", text):
        return now + float(match[1]) * _UNITS[match[2]]
    here = datetime.fromtimestamp(now).astimezone()
    if match := re.fullmatch(r"(today |tomorrow )?(\d{1,2})[:.](\d{2})", text):
        return _time_of_day(here, match[1], int(match[2]), int(match[3])).timestamp()
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no time; {HINT}.") from None
    try:
        return given.timestamp()  # without a zone it is this machine's
    except (ValueError, OverflowError, OSError):  # at the ends of the calendar
        return math.inf


def _time_of_day(here: datetime, day: str | None, hour: int, minute: int) -> datetime:
    if hour > 23 or minute > 59:
        raise ValueError(f"{hour}:{minute:02d} is no time of day; {HINT}.")
    then = here.replace(hour=hour, minute=minute, second=0, microsecond=0, tzinfo=None)
    late = day == "tomorrow " or (day is None and then.astimezone() <= here)
    # the wall clock's day, not 24 hours: they differ twice a year
    return (then + timedelta(days=1) if late else then).astimezone()
