"""Faults of every kind in a random order. Longer, and with other seeds: `python -m tests.jobs.soak --help`."""

import subprocess
import sys

import pytest

from .conftest import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc, signals and mounts")]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whatever_happens_everything_is_right_afterwards(tmp_path, seed):
    words = [sys.executable, "-m", "tests.jobs.soak", "--seed", str(seed), "--seconds", "90", "--folder", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "everything is right" in done.stdout
