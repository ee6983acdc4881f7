"""The evidence: a run of it is measured and reported; with -m slow a tiny version of the whole, picture by picture."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.evidence.cells import cell_file, load, make_missing, measure
from benchmarks.evidence.plan import FULL, QUICK, Cell, plan
from benchmarks.evidence.report import write
from benchmarks.evidence.results import Results
from benchmarks.evidence.statistics import Curve, Interval, jackknife, paired, t_interval, verdict
from bgpo.config import TrainConfig

pytest.importorskip("matplotlib", reason="matplotlib draws the evidence; it is in requirements-test.txt")
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # half a minute on two free cores


@pytest.fixture(scope="module")
def quick(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    command = [sys.executable, "-m", "benchmarks.evidence", "--quick", "--output", str(folder)]
    before = (ROOT / "docs/evidence.md").read_bytes() if (ROOT / "docs/evidence.md").exists() else None
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    after = (ROOT / "docs/evidence.md").read_bytes() if (ROOT / "docs/evidence.md").exists() else None
    assert before == after, "--quick wrote to docs/"
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A warm start and the first of its runs, measured in this process, and the page with what that gives."""
    folder = tmp_path_factory.mktemp("few")
    (folder / "work/cells").mkdir(parents=True)
    for cell in _mc_samples(QUICK)[:2]:
        measure(cell, folder / "work")
    (folder / "docs").mkdir()
    write(Results(QUICK, folder / "work"), folder / "docs", "python -m benchmarks.evidence")
    return folder


def _mc_samples(scale) -> list[Cell]:
    """The first warm start and its runs with few and many draws."""
    cells = [cell for cell in plan(scale) if cell.part in ("warm_start", "mc_samples")]
    return [cells[0], *(cell for cell in cells if cell.needs == (cells[0].name,))]


def test_a_page_of_few_runs_says_what_is_missing(few):
    text = (few / "docs/evidence.md").read_text()
    assert re.findall(r"^## (\d)\.", text, re.M) == ["1", "2", "3", "4", "5"]
    assert "Not measured yet" in text
    assert not re.search(r"\b(nan|inf)\b", text, re.I)


def test_a_finished_cell_is_not_made_again(few):
    said: list[str] = []
    cells = _mc_samples(QUICK)[:2]
    make_missing(cells, few / "work", 1, None, said.append)
    assert said == ["2 cells, 2 done, 0 to go on 1 process(es)"]


def test_compute_counts_rollouts_as_well(few):
    compute_counts_rollouts(few, _mc_samples(QUICK)[1:2])


@pytest.mark.slow
def test_report_has_its_parts_and_pictures(quick):
    text = (quick / "docs/evidence.md").read_text()
    assert re.findall(r"^## (\d)\.", text, re.M) == ["1", "2", "3", "4", "5"]
    assert "Not measured yet" not in text and "Not complete" not in text
    pictures = re.findall(r"\((images/evidence/\S+\.png)\)", text)
    assert len(pictures) == 6
    assert all((quick / "docs" / picture).read_bytes().startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.slow
def test_numbers_are_finite(quick):
    assert not re.search(r"\b(nan|inf)\b", (quick / "docs/evidence.md").read_text(), re.I)
    for path in (quick / "work/cells").glob("*.json"):
        json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in a cell"))


@pytest.mark.slow
def test_compute_of_every_run_counts_rollouts_as_well(quick):
    compute_counts_rollouts(quick, [cell for cell in plan(QUICK) if cell.part == "mc_samples"])


def compute_counts_rollouts(folder: Path, cells: list[Cell]) -> None:
    """All passes of a rollout but the first, which equal canvases share, read every completion."""
    for cell in cells:
        c = TrainConfig.parse(cell.settings["config"])
        rollouts = (c.denoising_steps - 1) * c.prompts_per_step * c.group_size * c.completion_length
        points = load(folder / "work", cell)["result"]["points"]
        assert points[-1]["step"] > 0 and all(point["tokens"] > point["step"] * rollouts for point in points[1:])


@pytest.mark.slow
def test_starting_again_measures_nothing_and_leaves_no_run_behind(quick):
    command = [sys.executable, "-m", "benchmarks.evidence", "--quick", "--output", str(quick)]
    before = (quick / "docs/evidence.md").read_text()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert ", 0 to go" in done.stdout
    assert (quick / "docs/evidence.md").read_text() == before
    assert [path.name for path in (quick / "work/runs").iterdir()] == ["state_0"]


def test_the_plan_is_consistent():
    cells = plan(FULL)
    names = [cell.name for cell in cells]
    assert len(set(names)) == len(names)
    for at, cell in enumerate(cells):
        assert set(cell.needs) <= set(names[:at]), cell.name
        json.dumps(cell.settings)


def test_the_seeds_that_the_comparisons_rest_on():
    for part, seeds in (("mc_samples", 5), ("objectives", 5)):
        configs = [cell.settings["config"] for cell in plan(FULL) if cell.part == part]
        assert {config["seed"] for config in configs} == set(range(seeds))
    assert len({c.settings["config"]["task"] for c in plan(FULL) if c.part == "mc_samples"}) == 2


def test_a_new_knob_leaves_finished_cells_finished_and_a_changed_one_does_not(tmp_path):
    cell = next(cell for cell in plan(FULL) if cell.part == "gradient")
    path = cell_file(tmp_path, cell)
    path.parent.mkdir(parents=True)
    for knob, value, finished in (("weight_decay", 0.0, True), ("weight_decay", 0.5, False), ("gone", 1, False)):
        settings = json.loads(json.dumps(cell.settings))
        settings["config"][knob] = value
        path.write_text(json.dumps({"settings": settings}))
        assert (load(tmp_path, cell) is not None) == finished
    del settings["config"]["gone"], settings["config"]["weight_decay"], settings["rollouts"]["weight_decay"]
    path.write_text(json.dumps({"settings": settings}))
    assert load(tmp_path, cell) is not None


def test_intervals_and_verdicts():
    assert t_interval([1.0, 2.0, 3.0]).half == pytest.approx(4.303 / 3**0.5)
    assert t_interval([1.0]).half is None and t_interval([1.0]).sign == 0
    difference = paired({0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.0, 1: 1.1, 5: 9.0})
    assert difference.count == 2 and difference.mean == pytest.approx(0.95)
    assert [verdict(Interval(m, 1.0, 5), "up", "down", "open") for m in (2, -2, 0.5)] == ["up", "down", "open"]
    values = np.array([1.0, 4.0, 2.0, 8.0])
    estimate, error = jackknife(lambda kept: float(values[kept].mean()), 4)
    assert (estimate, error) == (values.mean(), pytest.approx(values.std(ddof=1) / 2))


def test_curves_are_read_between_evaluations():
    points = [{"step": s, "tokens": 10 * s, "greedy": s / 10, "sampled": 0.0} for s in (0, 2, 4)]
    curve = Curve.of(points)
    assert curve.at([1, 3]).tolist() == pytest.approx([0.1, 0.3])
    assert curve.mean_to(40, "tokens") == pytest.approx(0.2)
