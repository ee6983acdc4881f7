"""`docs/evidence.md` from what the cells found. Sentences about results are chosen by their numbers, never typed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.evidence import part_mechanism as mechanism
from benchmarks.evidence import part_objectives, part_samples, part_variance
from benchmarks.evidence.results import Results
from benchmarks.evidence.text import Section, bullets

_UNIT = (
    "**Unit of compute.** Tokens forwarded by the trainer, counted at the model and not timed, so that a busy "
    "machine does not change it: a token in a forward pass counts 1, in a forward and backward pass 3 (a backward "
    "pass is twice a forward pass). Rollouts, passes for values, passes of the old policy and updates count; "
    "held-out evaluations do not, and the diagnostics of the page are off. Completions whose advantage is 0 are "
    "never scored and so cost nothing."
)
_INTERVALS = (
    "**Intervals.** ± is half a 95 % Student t interval over seeds. A seed is everything: the warm start, the "
    "problems, the rollouts, the masks. Differences are paired by seed. \"Higher\" and \"lower\" are said only where "
    "the interval of the paired difference leaves out 0; everything else is called open. Reward is the share of "
    "held-out problems solved (greedy decoding unless it says T = 1); \"on the way\" is its average from the warm "
    "start to the end, which is high when a policy learns early."
)
_LIMITS = (
    "One tiny model, two easy tasks, a few minutes of training: what holds here need not hold at 8 billion "
    "parameters, and what fails here need not fail there. All methods share one learning rate, one advantage (reward "
    "minus group mean), no KL and four mask draws where the method leaves a choice; their papers tune these. Many "
    "comparisons are made: of twenty true ties one is expected to look like a difference."
)


def write(results: Results, docs: Path, command: str) -> Path:
    """Writes evidence.md and its images below `docs`; returns the path of the page."""
    from benchmarks.evidence import plots

    images = docs / "images" / "evidence"
    drawn = {name for name, draw in plots.ALL.items() if draw(results, images / f"{name}.png")}
    sections = [
        part_samples.section(results), part_objectives.section(results), part_variance.section(results),
        mechanism.gap_section(results), mechanism.memory_section(results),
    ]
    page = docs / "evidence.md"
    bodies = map(_body, sections, _images(drawn))
    page.write_text("\n\n".join([_head(results, sections), *bodies, _foot(results, command)]) + "\n")
    return page


def _images(drawn: set[str]) -> list[list[tuple[str, str]]]:
    """(file, alt text) by section."""
    wanted = [
        [("mc-samples", "Held-out reward for 1, 2, 4 and 16 draws, against steps and against compute")],
        [("objectives", "Held-out reward of every objective against compute"),
         ("objectives-final", "Every objective at equal compute, with intervals")],
        [("gradient-variance", "Variance of the gradient and spread of the ELBO against the number of draws")],
        [("bound-gap", "The bound's gap against policy movement, beside its asymptotes")],
        [("memory", "Memory held for backward against the number of draws")],
    ]
    return [[(name, alt) for name, alt in images if name in drawn] for images in wanted]


def _head(results: Results, sections: Sequence[Section]) -> str:
    claims = [claim for section in sections for claim in section.claims]
    done = len(results.cells)
    partial = "" if done == results.planned else (
        f"\n\n**Not complete:** {done} of {results.planned} cells are measured so far; the same command goes on."
    )
    return (
        "# Evidence\n\nWhat of BGPO's claims ([arXiv 2510.11683](https://arxiv.org/abs/2510.11683)) shows on the "
        "built-in tasks, and what does not. Tables, plots and the sentences about them are written by "
        f"`benchmarks/evidence` from the same numbers.{partial}\n\n## In "
        f"short\n\n{bullets(claims)}\n\n{_LIMITS}\n\n## How it is measured\n\n{_UNIT}\n\n{_INTERVALS}"
    )


def _body(section: Section, images: list[tuple[str, str]]) -> str:
    pictures = [f"![{alt}](images/evidence/{name}.png)" for name, alt in images]
    return "\n\n".join([f"## {section.title}", section.question, *pictures, *section.parts])


def _foot(results: Results, command: str) -> str:
    machines = "; ".join(
        f"{m['cores']} CPU cores, {m['system']}, Python {m['python']}, torch {m['torch']}, on the {m['device']}"
        for m in results.machines
    )
    s = results.scale
    seeds = (
        f"Seeds: {_seeds(s.mc_seeds)} for the mask draws, {_seeds(s.objective_seeds)} for the objectives, 0 for the "
        f"gradient, {_seeds(s.gap_seeds)} for the gap; the memory needs none."
    )
    return (
        f"## Make this page again\n\n```sh\n{command}\n```\n\nIt can be interrupted at any time and goes on with what "
        f"is missing; `--report` rewrites the page from what is there.\n\n{seeds}\n\nMeasured with "
        f"{machines or 'nothing yet'}; one thread per process, {results.seconds / 60:.0f} minutes of processor time in "
        f"{len(results.cells)} cells. The configs of all cells are in `benchmarks/evidence/plan.py`: the shipped "
        "presets with the changes named above."
    )


def _seeds(count: int) -> str:
    return f"0 to {count - 1}" if count > 1 else "0"
