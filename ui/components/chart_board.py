"""The charts: what each one shows, as data. The drawing is `chart_board.js`, one Plotly figure per chart.

Names, units and explanations come from METRICS, so a chart cannot say something else than the glossary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from bgpo.training.metrics import METRICS
from ui.components.module import module


@dataclass(frozen=True)
class Series:
    """One curve of a chart.

    Attributes:
        metric: name in METRICS.
        label: shorter than the metric's own, where the chart's title already says the rest.
        band: metric that holds one standard error of this one, drawn as a band.
        dash: Plotly's line style.
        dots: mark each point; for curves with few of them.
        faint: drawn thinner, behind the others.
        alone: left out when several runs are compared, to keep the chart readable.
    """

    metric: str
    label: str = ""
    band: str = ""
    dash: str = "solid"
    dots: bool = False
    faint: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        axis: what a step is here; the warm start counts its own.
        floor, ceiling: fixed ends of the value axis, None for automatic.
        reference: metric whose first value is drawn as a dashed level, with `reference_label`.
        stacked: areas on top of each other.
        note: a sentence under the title.
        empty: what to say while there is nothing to draw; `empty_after` once the warm start is over.
    """

    title: str
    series: tuple[Series, ...]
    unit: str = ""
    axis: str = "step"
    floor: float | None = None
    ceiling: float | None = None
    reference: str = ""
    reference_label: str = ""
    stacked: bool = False
    note: str = ""
    empty: str = "The first point comes with the first training step."
    empty_after: str = ""


CHARTS: dict[str, Chart] = {
    "reward": Chart(
        "Reward", (
            Series("reward/heldout_greedy", "Held-out, greedy", band="reward/heldout_greedy_se", dots=True),
            Series(
                "reward/heldout_sampled", "Held-out, T = 1", band="reward/heldout_sampled_se", dots=True, dash="dot",
            ),
            Series("reward/mean", "Train", faint=True, alone=True),
        ),
        floor=0, ceiling=1, reference="reward/heldout_greedy", reference_label="warm start",
        note="Bands are one standard error over the held-out problems.",
        empty="The first held-out check comes right after the warm start.",
    ),
    "warmup": Chart(
        "Warm-up loss", (Series("warmup/loss", "Loss"),), unit="nats/token", axis="warm-up step",
        empty="The first point comes some seconds after the start.",
        empty_after="Nothing to warm up: an equal warm start was in the cache.",
    ),
    "bound": Chart(
        "Bound and objective", (
            Series("bound/elbo_objective_after", "ELBO objective"),
            Series("bound/value_after", "BGPO bound", dash="dash"),
        ),
        unit="reward",
        note="Both are measured again on the same masks once the weights have moved; at the update they are equal.",
    ),
    "gap": Chart(
        "Gap", (
            Series("bound/gap_after", "After the update"),
            Series("bound/gap", "At the update", dash="dash"),
        ),
        unit="reward", note="At the update of an on-policy run the gap is zero: a live check of the trainer.",
    ),
    "memory": Chart(
        "Memory", (
            Series("memory/saved_mb", "Held for backward"),
            Series("memory/rss_mb", "Process", dash="dash", alone=True),
            Series("memory/cuda_peak_mb", "GPU peak", dash="dot"),
        ),
        unit="MB", floor=0,
    ),
    "spread": Chart(
        "Noise of the ELBO estimate", (
            Series("elbo/spread", "Spread over mask draws"),
            Series("elbo/standard_error", "Standard error of the mean", dash="dash"),
        ),
        unit="nats", floor=0,
    ),
    "groups": Chart(
        "Learning signal", (
            Series("groups/live_fraction", "Live groups"),
            Series("groups/distinct_fraction", "Distinct completions", dash="dash"),
        ),
        unit="share", floor=0, ceiling=1,
    ),
    "time": Chart(
        "Time of a step", (
            Series("time/rollout_s", "Rollout"),
            Series("time/likelihood_s", "Likelihood"),
            Series("time/evaluation_s", "Evaluation"),
        ),
        unit="s", floor=0, stacked=True,
    ),
}


def described(name: str) -> dict[str, Any]:
    """A chart as the browser gets it, with the glossary's sentence for each curve."""
    chart = CHARTS[name]
    series = [
        asdict(item) | {"label": item.label or METRICS[item.metric].label, "help": METRICS[item.metric].help}
        for item in chart.series
    ]
    return asdict(chart) | {"id": name, "series": series}


def chart_board(names: tuple[str, ...], names_runs: bool = False) -> gr.HTML:
    """The named charts side by side, as many as fit. The board that `names_runs` has the legend of compared runs."""
    return module("chart_board", charts=[described(name) for name in names], names_runs=names_runs)
