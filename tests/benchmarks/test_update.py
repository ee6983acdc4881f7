"""The update benchmark on a small model: that it runs, what it prints, and what does not depend on speed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform != "linux", reason="it reads the resident peak from /proc")
def test_last_line_has_the_figures_that_are_promised():
    command = [sys.executable, "-m", "benchmarks.update", "--quick", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["over_floor"]) == set(found["cheaper_than_literal"]) == {"1", "4", "16"}
    assert all(set(ratios) == {"first", "later"} for ratios in found["over_floor"].values())
    assert found["memory_ratio_64"] == pytest.approx(1, abs=0.2)  # a small model: more shows than activations
    assert len(found["savings"]) == 11 and all(ratio > 0 for ratio in found["savings"].values())
    assert max(found["gradient_error"].values()) < 1e-4, "the literal algorithm has the same gradient"
