"""The bars of the pages are measured end to end: the real app, the writer's process, Chromium. On little data, so this
is about whether the measurements work and not about how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from benchmarks import pages
from benchmarks.page_bars.table import BARS
from tests.chromium import HOW, find_chromium

# what does not depend on how fast the machine is
ALWAYS = {"10", "12", "23"}


@pytest.fixture
def report():
    """The object that `--json` prints last, for these arguments."""
    if find_chromium() is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(HOW)

    def run(*arguments: str) -> dict[str, dict]:
        # a process of its own: another browser may be open in this one
        command = [sys.executable, "-m", "benchmarks.pages", "--small", "--json", *arguments]
        lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
        found = json.loads(lines[-1])
        assert sum(line.startswith("| ") for line in lines) == 1 + len(found)
        assert all(item.keys() >= {"target", "value", "holds"} for item in found.values())
        return found

    return run


@pytest.mark.slow
def test_bytes_of_a_tick_and_a_replay_are_measured(report):
    found = report("--bars", "5,20")
    assert [item["reason"] for item in found.values()] == ["", ""]
    assert 0 < found["5"]["value"]["idle_bytes"] <= 200 < found["5"]["value"]["p95_bytes"]
    assert found["20"]["value"]["tokens"] == 512 and found["20"]["value"]["frames"] == 128


@pytest.mark.slow
def test_what_takes_long_says_so_and_an_unknown_bar_is_refused(report, capsys):
    assert report("--bars", "9,22")["9"] == {
        "target": BARS[9].target, "value": None, "holds": None, "took_s": 0.0,
        "reason": "takes an hour: --long, or a shorter one with --long --soak-minutes N",
    }
    with pytest.raises(SystemExit):
        pages.main(["--bars", "26"])
    assert "there is no bar 26; there are 1 to 25" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_bar_is_measured(report):
    found = report("--long", "--soak-minutes", "0.2")
    assert {number for number, item in found.items() if item["value"] is None} == set()
    assert {number for number in ALWAYS if not found[number]["holds"]} == set()
