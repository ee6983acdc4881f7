"""The charts and their sections: what each one shows, as data. `chart_board.js` draws one Plotly figure per chart.

Names, units and explanations come from METRICS, so a chart cannot say something else than the glossary. A metric
that no chart names gets one of its own, in the section of its prefix: a new metric is on the page once it is logged.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from bgpo.training.metrics import METRICS, Metric
from ui.components.module import module


@dataclass(frozen=True)
class Series:
    """One curve of a chart.

    Attributes:
        metric: name in METRICS.
        label: shorter than the metric's own, where the chart's title already says the rest.
        band: metric that holds one standard error of this one, drawn as a band.
        low, high: metrics that hold the ends of its interval, drawn as a band.
        lengths: one curve for each completion length at which the metric was logged, such as eval/pass_1/256.
        dash: Plotly's line style.
        dots: mark each point; for curves with few of them.
        faint: drawn thinner, behind the others.
        alone: left out when several runs are compared, to keep the chart readable.
    """

    metric: str
    label: str = ""
    band: str = ""
    low: str = ""
    high: str = ""
    lengths: bool = False
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
        waits: whether it is shown without a point: "" no, "early" until RL begins, "train" and "finetune" while a
            run of that job is shown.
        empty: what to say then.
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
    waits: str = ""
    empty: str = ""


@dataclass(frozen=True)
class Section:
    """Charts under one heading, which folds them away. Metrics that no chart names join by their `prefixes`."""

    title: str
    prefixes: tuple[str, ...]
    charts: tuple[str, ...]


CHARTS: dict[str, Chart] = {
    "reward": Chart(
        "Reward", (
            Series("reward/heldout_greedy", "Held-out, greedy", band="reward/heldout_greedy_se", dots=True),
            Series(
                "reward/heldout_sampled", "Held-out, T = 1", band="reward/heldout_sampled_se", dots=True, dash="dot",
            ),
            Series("reward/mean", "Train", faint=True, alone=True),
            Series("reward/validation_greedy", "Validation, greedy", band="reward/validation_greedy_se", faint=True,
                   dash="dash", alone=True),
        ),
        floor=0, ceiling=1, reference="reward/heldout_greedy", reference_label="warm start",
        note="Bands are one standard error over the held-out problems.", waits="train",
        empty="The first held-out check comes right after the warm start.",
    ),
    "pass_1": Chart(
        "pass@1 on held-out problems", (
            Series("eval/pass_1", "pass@1", low="eval/pass_1_low", high="eval/pass_1_high", lengths=True, dots=True),
            Series("eval/pass_k", "pass@k", lengths=True, dots=True, dash="dot", alone=True),
        ),
        floor=0, ceiling=1,
        note="The share of right answers at each completion length of eval_lengths. Bands are 95 % intervals over the "
             "held-out problems.",
    ),
    "finetune": Chart(
        "Loss on examples", (
            Series("finetune/validation_loss", "Kept back", band="finetune/validation_loss_se", dots=True),
            Series("finetune/loss", "Learned from", faint=True, alone=True),
        ),
        unit="nats/token", floor=0, waits="finetune", empty="The first measurement comes before the first step.",
        note="Where the loss on examples kept back rises while the other falls, the model learns by heart.",
    ),
    "warmup": Chart(
        "Warm-up loss", (Series("warmup/loss", "Loss"),), unit="nats/token", axis="warm-up step",
        waits="early", empty="The first point comes some seconds after the start.",
    ),
    "bound": Chart(
        "Bound and objective, after the update", (
            Series("bound/elbo_objective_after", "ELBO objective"),
            Series("bound/value_after", "BGPO bound", dash="dash"),
        ),
        unit="reward",
        note="Both are measured again on the same masks once the weights have moved; at the update they are equal.",
    ),
    "gap": Chart(
        "Gap", (
            Series("bound/gap_after", "After the update", band="bound/gap_after_se"),
            Series("bound/gap", "At the update", dash="dash", band="bound/gap_se"),
        ),
        unit="reward",
        note="At the update of an on-policy run the gap is zero: a live check of the trainer. Bands are one standard "
             "error over the mask draws. The tab Bound splits it by the sign of the advantage.",
    ),
    "monitor_gap": Chart(
        "Gap after the update", (Series("bound/gap_after", "Objective minus bound", band="bound/gap_after_se"),),
        unit="reward", note="Never below zero. Bands are one Monte Carlo standard error over the mask draws.",
    ),
    "monitor_split": Chart(
        "Gap by the sign of the advantage", (
            Series("bound/gap_positive_after", "Good completions, A > 0", band="bound/gap_positive_after_se"),
            Series("bound/gap_negative_after", "Bad completions, A < 0", dash="dash",
                   band="bound/gap_negative_after_se"),
        ),
        unit="reward",
        note="Where A > 0 the gap grows with the square of the policy's movement, where A < 0 with the spread of the "
             "log ratios over the draws. Bands are one Monte Carlo standard error.",
    ),
    "monitor_bound": Chart(
        "Objective and bound after the update", (
            Series("bound/elbo_objective_after", "ELBO objective", band="bound/elbo_objective_after_se"),
            Series("bound/value_after", "BGPO bound", band="bound/value_after_se", dash="dash"),
        ),
        unit="reward", note="Measured again on the same masks once the weights have moved: what the step has gained.",
    ),
    "monitor_check": Chart(
        "Gap at the update", (
            Series("bound/gap", "Objective minus bound", band="bound/gap_se"),
            Series("bound/gap_positive", "From A > 0", dash="dot", alone=True),
            Series("bound/gap_negative", "From A < 0", dash="dash", alone=True),
        ),
        unit="reward",
        note="At the last update of each step. On-policy it is zero, whatever the masks; off-policy it is what the "
             "bound gives away on stale rollouts.",
    ),
    "monitor_objective": Chart(
        "Objective and bound at the update", (
            Series("bound/elbo_objective", "ELBO objective"),
            Series("bound/value", "BGPO bound", dash="dash"),
        ),
        unit="reward", note="On-policy both are the mean advantage; only later updates of a batch differ.",
    ),
    "monitor_ratio": Chart(
        "Log ratios of the draws", (
            Series("log_ratio/p95_after", "95th percentile"),
            Series("log_ratio/mean_abs_after", "Mean absolute", dash="dash"),
            Series("log_ratio/p05_after", "5th percentile", dash="dot"),
        ),
        unit="nats",
    ),
    "spread": Chart(
        "Noise of the ELBO estimate", (
            Series("elbo/spread", "Spread over mask draws"),
            Series("elbo/standard_error", "Standard error of the mean", dash="dash"),
        ),
        unit="nats", floor=0,
    ),
    "elbo": Chart("ELBO", (Series("elbo/mean", "Mean"),), unit="nats"),
    "log_ratio": Chart(
        "Policy movement", (
            Series("log_ratio/mean_abs_after", "Mean absolute log ratio"),
            Series("log_ratio/p95_after", "95th percentile", dash="dash"),
            Series("log_ratio/p05_after", "5th percentile", dash="dot"),
        ),
        unit="nats",
    ),
    "ratio": Chart(
        "Importance ratios", (
            Series("ratio/ess_after", "Effective sample size"),
            Series("ratio/clipped_fraction", "Clipped", dash="dash"),
        ),
        unit="share", floor=0, ceiling=1,
    ),
    "kl": Chart("KL to the reference", (Series("kl/reference", "KL"),), unit="nats"),
    "entropy": Chart("Entropy", (Series("policy/entropy", "Entropy"),), unit="nats", floor=0),
    "grad_norm": Chart("Gradient norm", (Series("grad/norm", "Before clipping"),), floor=0),
    "noise": Chart("Gradient noise", (Series("grad/noise_fraction", "Share of noise"),), floor=0),
    "lr": Chart("Learning rate", (Series("lr", "Learning rate"),), floor=0),
    "groups": Chart(
        "Learning signal", (
            Series("groups/live_fraction", "Live groups"),
            Series("groups/distinct_fraction", "Distinct completions", dash="dash"),
            Series("reward/solved", "Right", dash="longdash", alone=True),
            Series("reward/pass_at_group", "Pass at G", dash="dot", alone=True),
            Series("groups/merged_fraction", "Merged", dash="dashdot", alone=True),
        ),
        unit="share", floor=0, ceiling=1,
    ),
    "completion": Chart(
        "Completion length", (
            Series("completion/tokens", "Mean"),
            Series("completion/tokens_max", "Longest", dash="dash"),
            Series("eval/tokens", "Held-out", lengths=True, dots=True, dash="dot", alone=True),
        ),
        unit="tokens", floor=0,
    ),
    "memory": Chart(
        "Memory", (
            Series("memory/saved_mb", "Held for backward"),
            Series("memory/rss_mb", "Process", dash="dash", alone=True),
            Series("memory/cuda_peak_mb", "GPU peak", dash="dot"),
        ),
        unit="MB", floor=0,
    ),
    "probe": Chart(
        "Held at a number of draws", (
            Series("probe/elbo_saved_mb", "Plain objective", dots=True, dash="dash"),
            Series("probe/bgpo_saved_mb", "BGPO", dots=True),
        ),
        unit="MB", axis="mask draw", floor=0,
    ),
    "probe_time": Chart(
        "Time of one update", (
            Series("probe/elbo_s", "Plain objective", dots=True, dash="dash"),
            Series("probe/bgpo_s", "BGPO", dots=True),
        ),
        unit="s", axis="mask draw", floor=0,
    ),
    "time": Chart(
        "Time of a step", (
            Series("time/rollout_s", "Rollout"),
            Series("time/likelihood_s", "Likelihood"),
            Series("time/evaluation_s", "Evaluation"),
        ),
        unit="s", floor=0, stacked=True,
    ),
    "spent": Chart(
        "Spent", (Series("progress/compute", "Compute"), Series("progress/tokens", "Written by rollouts", dash="dash")),
        unit="tokens", floor=0,
    ),
    "nfe": Chart(
        "Forward passes per completion", (
            Series("rollout/nfe", "Rollouts"),
            Series("eval/nfe", "Held-out", lengths=True, dots=True, dash="dot", alone=True),
        ),
        unit="passes", floor=0,
    ),
}

SECTIONS: dict[str, Section] = {
    "reward": Section("Reward", ("reward", "warmup", "finetune", "eval"),
                      ("reward", "pass_1", "finetune", "warmup")),
    "bound": Section("Bound", ("bound", "elbo"), ("bound", "gap", "spread", "elbo")),
    "policy": Section("Policy", ("log_ratio", "ratio", "kl", "policy"), ("log_ratio", "ratio", "kl", "entropy")),
    "gradient": Section("Gradient", ("grad", "lr"), ("grad_norm", "noise", "lr")),
    "completions": Section("Completions and groups", ("groups", "completion"), ("groups", "completion")),
    "memory": Section("Memory", ("memory", "probe"), ("memory", "probe", "probe_time")),
    "time": Section("Time and compute", ("time", "rollout", "progress"), ("time", "spent", "nfe")),
    "monitor": Section(
        "The bound, step by step", (), (
            "monitor_check", "monitor_gap", "monitor_split", "monitor_bound", "monitor_objective", "monitor_ratio",
        ),
    ),
    "other": Section("Other", (), ()),  # whatever has none of the prefixes above
}


def charted() -> list[str]:
    """Every metric that some chart draws, bands included."""
    series = [item for chart in CHARTS.values() for item in chart.series]
    return sorted({
        _named(item, name) for item in series for name in (item.metric, item.band, item.low, item.high) if name
    })


def _named(series: Series, metric: str) -> str:
    """A metric as the browser looks for it: with /* behind it where any completion length will do."""
    return f"{metric}/*" if series.lengths else metric


def described(name: str) -> dict[str, Any] | None:
    """A chart as the browser gets it, with the glossary's sentence for each curve; None when it would have none."""
    chart = CHARTS[name]
    series = [
        asdict(item) | {"label": item.label or METRICS[item.metric].label, "help": METRICS[item.metric].help}
        for item in chart.series if item.metric in METRICS
    ]
    return asdict(chart) | {"id": name, "series": series} if series else None


def chart_of_its_own(name: str) -> dict[str, Any]:
    """The chart of a metric that no chart names; of one that METRICS does not explain, only the shape."""
    metric = METRICS.get(name, Metric(name, name, "", ""))
    series = asdict(Series(name, metric.label)) | {"help": metric.help}
    return asdict(Chart(metric.label, (), unit=metric.unit)) | {"id": name, "series": [series]}


def chart_board(names: tuple[str, ...], leads: bool = False) -> gr.HTML:
    """The named sections, each with as many charts side by side as fit.

    The board that `leads` has the legend of compared runs, and the charts that somebody has chosen.
    """
    known = charted()
    specs = {name: found for name in CHARTS if (found := described(name))}
    sections = [
        asdict(SECTIONS[name]) | {"id": name, "charts": [specs[one] for one in SECTIONS[name].charts if one in specs]}
        for name in names
    ]
    return module(
        "chart_board", sections=sections, leads=leads, charted=known, specs=specs if leads else {},
        prefixes=[prefix for section in SECTIONS.values() for prefix in section.prefixes],
        own={name: chart_of_its_own(name) for name in METRICS if leads or name not in known},
        blank=chart_of_its_own(""),
    )


def board_tools(elem_id: str = "bgpo-board-tools") -> gr.HTML:
    """The line above the charts; it knows their titles, so that one can choose among them."""
    def chart(name: str) -> tuple[str, str, list[str]]:
        return name, CHARTS[name].title, [_named(series, series.metric) for series in CHARTS[name].series]

    sections = [{"title": one.title, "charts": [chart(name) for name in one.charts]} for one in SECTIONS.values()]
    bands = sorted({
        _named(series, name)
        for one in CHARTS.values() for series in one.series for name in (series.band, series.low, series.high) if name
    })
    titles = {name: metric.label for name, metric in METRICS.items()}
    return module("board_tools", sections=sections, titles=titles, bands=bands, elem_id=elem_id,
                  elem_classes=["bgpo-sticky-tools"])
