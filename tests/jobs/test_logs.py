"""A log that stays within its size under its writers, and is read as a tail and as a whole."""

from __future__ import annotations

import subprocess
import sys
import time

from bgpo.jobs import logs
from tests.waiting import PATIENCE, wait_until


def test_the_tail_is_the_end_however_long(data):
    assert logs.tail(data) == []
    with open(data / "log.txt", "w") as file:
        file.writelines(f"line {number}\n" for number in range(200_000))
    began = time.thread_time()  # what others take of the processor does not count
    assert logs.tail(data, 3) == ["line 199997", "line 199998", "line 199999"]
    assert time.thread_time() - began < 0.1


def test_a_flood_is_cut_while_its_writer_goes_on(data):
    """A real process that appends, as workers do: no NULs where the file was emptied, and the last line is its last."""
    code = "for i in range(200_000): print('line', i, 'x' * 50, flush=i % 1000 == 0)\nprint('the end')"
    with open(data / "log.txt", "ab") as log:
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=log)
    cuts = 0

    def ended() -> bool:
        nonlocal cuts
        cuts += logs.keep_within(data, most=1_000_000)
        return writer.poll() is not None

    wait_until(ended, "the flood to end")
    assert writer.wait(PATIENCE) == 0
    logs.keep_within(data, most=1_000_000)
    assert cuts > 1
    text = b"".join(logs.whole(data))
    assert len(text) <= 2_000_000 and b"\0" not in text and text.endswith(b"the end\n")
    assert logs.tail(data, 1) == ["the end"]


def test_a_short_log_is_left_alone(data):
    (data / "log.txt").write_text("one\ntwo\n")
    assert not logs.keep_within(data) and not logs.keep_within(data / "nowhere")
    assert b"".join(logs.whole(data)) == b"one\ntwo\n"


def test_the_tail_reaches_back_over_a_cut(data):
    (data / "log.txt").write_text("one\ntwo\n")
    assert logs.keep_within(data, most=4)
    (data / "log.txt").write_text("three\n")
    assert logs.tail(data) == ["two", "three"]
