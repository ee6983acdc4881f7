"""The pictures, one function each: results in, a PNG out; False when there is nothing to draw yet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from benchmarks.evidence.part_objectives import twins
from benchmarks.evidence.plan import REGIMES
from benchmarks.evidence.results import Curves, Results
from benchmarks.evidence.statistics import t_interval
from benchmarks.evidence.style import (
    BLACK,
    BLUE,
    DRAW_COLOURS,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    YELLOW,
    label_ends,
    save,
)
from benchmarks.evidence.text import title
from bgpo.algorithm.objectives import OBJECTIVES
from bgpo.tasks.registry import TASKS

BOUNDS = ("bgpo", "bgpo_clipped", "bgpo_reanchored", "elbo", "elbo_two_pass")
LIKELIHOODS = ("espo", "gdpo", "spg_eubo", "spg_mixture")
FAMILIES = {
    "BGPO and what it bounds": BOUNDS,
    "Other ELBO methods": LIKELIHOODS,
    "Token- and step-level methods": tuple(name for name in OBJECTIVES if name not in BOUNDS + LIKELIHOODS),
}
FAMILY_COLOURS = dict(zip(FAMILIES, (BLUE, ORANGE, GREY)))
SCHEME_COLOURS = {
    "stratified": BLUE, "antithetic": SKY, "systematic": GREEN, "iid": BLACK, "complementary": ORANGE,
    "gauss": PURPLE, "block": YELLOW, "bernoulli": VERMILION,
}
_LINES = (ORANGE, GREEN, PURPLE, BLACK, VERMILION, SKY, YELLOW)
_MILLIONS = FuncFormatter(lambda value, _: f"{value / 1e6:g}" if value else "0")


def band(axes: Axes, curves: Curves, marks: Sequence[float], against: str, colour: str, **line) -> float:
    """The mean over seeds with its 95 % interval; returns the last mean."""
    rewards = np.stack([curve.at(marks, against) for curve in curves.values()])
    intervals = [t_interval(column) for column in rewards.T]
    mean = [interval.mean for interval in intervals]
    axes.plot(marks, mean, color=colour, **line)
    if intervals[0].half is not None:
        low, high = (np.clip([getattr(i, side) for i in intervals], 0, 1) for side in ("low", "high"))
        axes.fill_between(marks, low, high, color=colour, alpha=0.16 if colour == BLUE else 0.08, linewidth=0)
    return mean[-1]


def mc_samples(results: Results, path: Path) -> bool:
    """Part 1: a row per task, against steps and against tokens forwarded."""
    tasks = [(task, curves) for task in results.scale.tasks if (curves := results.mc_samples(task))]
    if not tasks:
        return False
    figure, grid = plt.subplots(len(tasks), 2, figsize=(10.5, 3.4 * len(tasks)), squeeze=False, sharey=True)
    figure.subplots_adjust(wspace=0.3, hspace=0.42)
    for row, (task, by_draws) in zip(grid, tasks):
        for axes, against in zip(row, ("step", "tokens")):
            ends = []
            for colour, (K, curves) in zip(DRAW_COLOURS, by_draws.items()):
                marks = _marks(curves, against, results.scale.least_steps, results.scale.budgets[task])
                last = band(axes, curves, marks, against, colour)
                ends.append((marks[-1], last, f"{K} draw{'s' * (K > 1)}", colour))
            axes.set_ylim(0, 1)
            axes.set_xlim(0, marks[-1])
            axes.xaxis.set_major_locator(MaxNLocator(integer=against == "step", nbins=6))
            if against == "tokens":
                axes.xaxis.set_major_formatter(_MILLIONS)
            axes.set_xlabel("training steps" if against == "step" else "tokens forwarded in training (millions)")
            axes.set_title(f"{TASKS[task].title}: {'equal steps' if against == 'step' else 'equal compute'}")
            label_ends(axes, ends)
        row[0].set_ylabel("held-out reward, greedy")
    save(figure, path)
    return True


def _marks(curves: Curves, against: str, least_steps: int, budget: int) -> np.ndarray:
    """Where a band is drawn: as far as all runs go."""
    if against == "step":
        some = next(iter(curves.values()))
        return some.step[some.step <= least_steps]
    return np.linspace(0, budget, 41)


def objectives(results: Results, path: Path) -> bool:
    """Part 2: a row per regime, a column per family, BGPO in each of them."""
    found = {updates: curves for updates in REGIMES if "bgpo" in (curves := results.objectives(updates))}
    if not found:
        return False
    figure, grid = plt.subplots(
        len(found), 3, figsize=(13.5, 3.5 * len(found)), squeeze=False, sharex=True, sharey=True
    )
    figure.subplots_adjust(wspace=0.52, hspace=0.3)
    budget = results.scale.objective_budget
    for row, (updates, by_name) in zip(grid, found.items()):
        for axes, (family, names) in zip(row, FAMILIES.items()):
            _family(axes, by_name, names, budget, _repeats(by_name, updates))
            axes.set_title(f"{family}\n{_regime(updates)}", fontsize=9.5)
        row[0].set_ylabel("held-out reward, greedy")
    for axes in grid[-1]:
        axes.set_xlabel("tokens forwarded in training (millions)")
    save(figure, path)
    return True


def _repeats(by_name: dict[str, Curves], updates: int) -> list[str]:
    """Those whose curve is BGPO's own."""
    return twins(by_name)[0] if updates == 1 else []


def _family(
    axes: Axes, by_name: dict[str, Curves], names: Sequence[str], budget: float, repeats: Sequence[str]
) -> None:
    marks = np.linspace(0, budget, 41)
    ends, others = [], iter(_LINES)
    axes.set_xlim(0, budget)
    axes.set_ylim(0, 1)
    axes.xaxis.set_major_formatter(_MILLIONS)
    for name in (*(n for n in names if n != "bgpo"), "bgpo"):
        if name not in by_name or name in repeats:
            continue
        colour = BLUE if name == "bgpo" else next(others)
        width = 2.6 if name == "bgpo" else 1.5
        last = band(axes, by_name[name], marks, "tokens", colour, lw=width)
        ends.append((budget, last, title(name), colour))
    label_ends(axes, ends)
    if equal := "\n".join(title(name) for name in names if name in repeats):
        axes.text(0.97, 0.04, f"the same curve:\n{equal}", transform=axes.transAxes, ha="right", color=GREY, fontsize=8)


def _regime(updates: int) -> str:
    return "on-policy" if updates == 1 else f"{updates} updates per rollout"


def objectives_final(results: Results, path: Path) -> bool:
    """Part 2 at the end of the budget: one dot per objective with its interval, best on top."""
    found = {updates: curves for updates in REGIMES if "bgpo" in (curves := results.objectives(updates))}
    if not found:
        return False
    figure, grid = plt.subplots(1, len(found), figsize=(5.8 * len(found), 4.6), squeeze=False, sharex=True)
    figure.subplots_adjust(wspace=0.55)
    for axes, (updates, by_name) in zip(grid[0], found.items()):
        _dots(axes, by_name, results.scale.objective_budget, _repeats(by_name, updates))
        axes.set_title(f"{_regime(updates).capitalize()}, equal compute")
        axes.set_xlabel("held-out reward, mean over the way to the budget")
    handles = [plt.Line2D([], [], marker="o", ls="", color=c, label=name) for name, c in FAMILY_COLOURS.items()]
    figure.legend(handles=handles, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.08))
    save(figure, path)
    return True


def _dots(axes: Axes, by_name: dict[str, Curves], budget: float, repeats: Sequence[str]) -> None:
    shown = {
        name: t_interval([curve.mean_to(budget, "tokens") for curve in curves.values()])
        for name, curves in by_name.items() if name not in repeats
    }
    colours = {name: FAMILY_COLOURS[family] for family, names in FAMILIES.items() for name in names}
    bgpo = shown["bgpo"]
    axes.axvspan(bgpo.low, bgpo.high, color=BLUE, alpha=0.08, lw=0)
    for y, (name, interval) in enumerate(sorted(shown.items(), key=lambda item: item[1].mean)):
        axes.errorbar(
            interval.mean, y, xerr=interval.half or 0, color=colours[name], marker="o", ms=6 if name == "bgpo" else 4.5,
            lw=2.2 if name == "bgpo" else 1.4,
        )
    names = [title(name) for name, _ in sorted(shown.items(), key=lambda item: item[1].mean)]
    axes.set_yticks(range(len(names)), names)
    axes.grid(axis="y", visible=False)


def gradient_variance(results: Results, path: Path) -> bool:
    """Part 3: gradient noise with own and with shared masks, and the spread of the ELBO's value."""
    own, shared = results.variances(False), results.variances(True)
    if not own:
        return False
    panels = [(own, "relative", "Gradient, own masks"), (shared, "relative", "Gradient, masks shared in a group"),
              (own, "value_sd", "Value of the ELBO")]
    panels = [panel for panel in panels if panel[0]]
    figure, row = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4), squeeze=False)
    figure.subplots_adjust(wspace=0.62)
    for axes, (schemes, what, heading) in zip(row[0], panels):
        _schemes(axes, schemes, what)
        axes.set_title(heading)
        axes.set_ylabel("tr(Cov) / |mean|²" if what == "relative" else "standard deviation (nats)")
    _same_range([axes for axes, panel in zip(row[0], panels) if panel[1] == "relative"])
    for axes, (schemes, what, _) in zip(row[0], panels):
        most = max(K for by_draws in schemes.values() for K in by_draws)
        label_ends(axes, [
            (most, getattr(by_draws[most], what), scheme, SCHEME_COLOURS.get(scheme, GREY))
            for scheme, by_draws in schemes.items()
        ])
    save(figure, path)
    return True


def _schemes(axes: Axes, schemes: dict, what: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for scheme, by_draws in schemes.items():
        draws = list(by_draws)
        values = [getattr(v, what) for v in by_draws.values()]
        errors = [v.relative_error if what == "relative" else 0.0 for v in by_draws.values()]
        axes.errorbar(
            draws, values, yerr=errors, color=SCHEME_COLOURS.get(scheme, GREY), marker="o", ms=3.5, elinewidth=1,
            lw=2.4 if scheme == "stratified" else 1.4, zorder=3 if scheme == "stratified" else 2,
        )
    axes.set_xticks(draws, [str(K) for K in draws])
    axes.set_xlabel("mask draws per completion (passes)")
    _plain_log_ticks(axes)


def _plain_log_ticks(axes: Axes) -> None:
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}"))
    axes.minorticks_off()


def _same_range(group: Sequence[Axes]) -> None:
    low, high = min(a.get_ylim()[0] for a in group), max(a.get_ylim()[1] for a in group)
    for axes in group:
        axes.set_ylim(low, high)


def bound_gap(results: Results, path: Path) -> bool:
    """Part 4: the gap by sign of A beside its asymptote, and their ratio."""
    moves = results.moves()
    if not moves:
        return False
    figure, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4))
    figure.subplots_adjust(wspace=0.3)
    for sign, colour, name in (("good", BLUE, "A > 0"), ("bad", VERMILION, "A < 0")):
        moved = [m for m in moves if m[f"asymptote_{sign}"] > 0 and m[f"gap_{sign}"] > 0]
        for kind, marker in (("line", "o"), ("updates", "D")):
            some = [m for m in moved if m["kind"] == kind]
            delta = [m["delta"] for m in some]
            left.plot(delta, [m[f"gap_{sign}"] for m in some], marker, color=colour, ms=4.5, alpha=0.8,
                      mfc=colour if kind == "line" else "white", label=f"{name}, {_KINDS[kind]}")
            right.plot(delta, [m[f"gap_{sign}"] / m[f"asymptote_{sign}"] for m in some], marker, color=colour, ms=4.5,
                       alpha=0.8, mfc=colour if kind == "line" else "white")
        line = [m for m in moved if m["kind"] == "line"]
        for seed in {m["seed"] for m in line}:
            own = [m for m in line if m["seed"] == seed]
            left.plot([m["delta"] for m in own], [m[f"asymptote_{sign}"] for m in own], "--", color=colour, lw=1,
                      alpha=0.6)
    left.plot([], [], "--", color=GREY, lw=1, label="its asymptote")
    left.set(xscale="log", yscale="log", ylabel="gap, summed over completions (reward)", title="Gap of the bound")
    right.set(xscale="log", ylabel="gap / asymptote", title="Gap over its asymptote")
    right.axhline(1, color=GREY, lw=1)
    if right.get_ylim()[1] > _FAR:
        right.set_yscale("log")
    for axes in (left, right):
        axes.set_xlabel("policy movement: mean |δ| (nats per token)")
    left.legend(loc="upper left", fontsize=8.5)
    save(figure, path)
    return True


_FAR = 5  # a ratio beyond which its axis is logarithmic
_KINDS = {"line": "along one update", "updates": "several updates"}


def memory(results: Results, path: Path) -> bool:
    """Part 5: MB held for backward against the number of draws."""
    found = results.memory()
    if not found:
        return False
    figure, axes = plt.subplots(figsize=(6, 3.8))
    colours = {"bgpo": BLUE, "elbo": VERMILION, "elbo_two_pass": GREEN}
    ends = []
    for objective, by_draws in found.items():
        draws = sorted(by_draws)
        held = [by_draws[K]["saved_mb"] for K in draws]
        style = (0, (3, 2)) if objective == "elbo_two_pass" else "-"
        axes.plot(draws, held, "o", color=colours[objective], ms=5, zorder=3)
        axes.plot(draws, held, color=colours[objective], ls=style, lw=2.4 if objective == "bgpo" else 1.6)
        ends.append((draws[-1], held[-1], title(objective), colours[objective]))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(draws, [str(K) for K in draws])
    _plain_log_ticks(axes)
    axes.set(xlabel="mask draws per completion", ylabel="held for backward (MB)", title="Memory of one update")
    label_ends(axes, ends)
    save(figure, path)
    return True


ALL = {
    "mc-samples": mc_samples, "objectives": objectives, "objectives-final": objectives_final,
    "gradient-variance": gradient_variance, "bound-gap": bound_gap, "memory": memory,
}
