"""Part 2: all objectives at equal compute, on-policy and off-policy."""

from __future__ import annotations

import numpy as np

from benchmarks.evidence.plan import REGIMES, TWINS
from benchmarks.evidence.results import Curves, Results
from benchmarks.evidence.statistics import Interval, paired, t_interval, verdict
from benchmarks.evidence.text import NOT_YET, Section, difference, listed, table, title


def section(results: Results) -> Section:
    budget = results.scale.objective_budget
    found = Section(
        "2. Every objective, equal compute",
        f"The adder, {budget / 1e6:g} million tokens forwarded, once with one update per rollout and once with "
        f"{REGIMES[1]}. Each objective trains with the mask draws, clip and length normalisation it was published "
        "with, and with 4 draws where its scheme takes a number; methods with fewer passes per step make more "
        "steps. Where fresh masks are drawn for every update of a ratio, the trainer also scores them with the old "
        "policy, and that counts. On-policy, BGPO and the plain ELBO objective are the same run by theory; only "
        "off-policy can the bound "
        "itself matter.",
    )
    for updates in REGIMES:
        by_name = results.objectives(updates)
        if "bgpo" in by_name:
            _regime(found, by_name, updates, budget)
    if not found.parts:
        found.parts.append(NOT_YET)
    return found


def _regime(found: Section, by_name: dict[str, Curves], updates: int, budget: int) -> None:
    same, apart = twins(by_name) if updates == 1 else ([], [])
    found.parts += [
        f"### {'On-policy' if updates == 1 else f'{updates} updates per rollout'}", _table(by_name, budget, same),
    ]
    if updates == 1:
        _twin_claims(found, same, apart)
    else:
        _bound_claims(found, by_name, budget)
    found.claims.append(_ranking(by_name, updates, budget, same))


def twins(by_name: dict[str, Curves]) -> tuple[list[str], list[str]]:
    """Which objectives repeat BGPO's run to the last digit on every seed that both have, and which should but do "
    "not."""
    same, apart = [], []
    for name in TWINS:
        seeds = set(by_name.get(name, {})) & set(by_name["bgpo"])
        if seeds:
            equal = all(_equal(by_name[name][seed], by_name["bgpo"][seed]) for seed in seeds)
            (same if equal else apart).append(name)
    return same, apart


def _equal(left: object, right: object) -> bool:
    return all(np.array_equal(getattr(left, f), getattr(right, f)) for f in ("step", "tokens", "greedy", "sampled"))


def _twin_claims(found: Section, same: list[str], apart: list[str]) -> None:
    if same:
        found.claims.append(
            f"**On-policy, bound and objective are the same run: holds.** {listed(_titles(same))} "
            f"repeat{'s' * (len(same) == 1)} BGPO's curve to the last digit; checked on one seed, so the other seeds "
            "are not run."
        )
    if apart:
        found.claims.append(
            f"**On-policy, bound and objective are the same run: does not hold for {listed(_titles(apart))}**, whose "
            "curves differ from BGPO's on the same seed."
        )


def _bound_claims(found: Section, by_name: dict[str, Curves], budget: int) -> None:
    exact = by_name.get("elbo_two_pass")
    if exact is None:
        return
    steps = min(curve.step[-1] for curves in (exact, by_name["bgpo"]) for curve in curves.values())
    at_tokens = on_the_way(by_name["bgpo"], exact, budget)
    at_steps = on_the_way(by_name["bgpo"], exact, steps, "step")
    found.claims.append(
        "**Off-policy, the bound against the exact objective (two passes, constant memory as well).** "
        + verdict(at_tokens, "At equal compute the bound is better", "At equal compute the bound is *worse*",
                  "At equal compute the difference is open")
        + f" ({_text(at_tokens)}), "
        + verdict(at_steps, "at equal steps it is better", "at equal steps it is *worse*", "at equal steps it is open")
        + f" ({_text(at_steps)} on the way to step {steps:g})."
    )
    for name, reason in (("bgpo_clipped", "A clip on the bound"), ("bgpo_reanchored", "Re-anchoring the bound")):
        if name in by_name:
            gain = on_the_way(by_name[name], by_name["bgpo"], budget)
            found.claims.append(
                f"**{reason}, off-policy:** "
                + verdict(gain, "better than the plain bound", "*worse* than the plain bound", "no clear difference")
                + f" ({_text(gain)})."
            )


def on_the_way(left: Curves, right: Curves, end: float, against: str = "tokens") -> Interval | None:
    return paired(*({seed: c.mean_to(end, against) for seed, c in curves.items()} for curves in (left, right)))


def at_the_end(left: Curves, right: Curves, end: float) -> Interval | None:
    return paired(*({seed: float(c.at([end], "tokens")[0]) for seed, c in curves.items()} for curves in (left, right)))


def _ranking(by_name: dict[str, Curves], updates: int, budget: int, same: list[str]) -> str:
    others = [name for name in by_name if name != "bgpo" and name not in same]
    compared = {name: on_the_way(by_name[name], by_name["bgpo"], budget) for name in others}
    above, below, level = (
        [title(name) for name, interval in compared.items() if interval and interval.sign == sign]
        for sign in (1, -1, 0)
    )
    where = "On-policy" if updates == 1 else f"With {updates} updates per rollout"
    return (
        f"**{where}, against BGPO at equal compute** (reward on the way): higher: {listed(above)}; "
        f"lower: {listed(below)}; open: {listed(level)}."
    )


def _table(by_name: dict[str, Curves], budget: int, same: list[str]) -> str:
    bgpo = by_name["bgpo"]
    ranked = sorted(
        (name for name in by_name if name not in same),
        key=lambda name: -t_interval([c.mean_to(budget, "tokens") for c in by_name[name].values()]).mean,
    )
    rows = [_row(name, by_name[name], bgpo, budget) for name in ranked]
    rows += [[title(name), "1", *["as BGPO"] * 6] for name in same]
    head = ["objective", "seeds", "steps", f"at {budget / 2e6:g} M", f"at {budget / 1e6:g} M", "on the way",
            "on the way, minus BGPO", "at the end, minus BGPO"]
    return table(head, rows)


def _row(name: str, curves: Curves, bgpo: Curves, budget: int) -> list[str]:
    def over(value) -> str:
        return t_interval([float(value(curve)) for curve in curves.values()]).text()

    shown = f"**{title(name)}**" if name == "bgpo" else title(name)
    steps = np.mean([np.interp(budget, c.tokens, c.step) for c in curves.values()])
    beside = ["", ""] if name == "bgpo" else [
        difference(on_the_way(curves, bgpo, budget)), difference(at_the_end(curves, bgpo, budget))
    ]
    return [
        shown, str(len(curves)), f"{steps:.0f}", over(lambda c: c.at([budget / 2], "tokens")[0]),
        over(lambda c: c.at([budget], "tokens")[0]), over(lambda c: c.mean_to(budget, "tokens")), *beside,
    ]


def _titles(names: list[str]) -> list[str]:
    return [title(name) for name in names]


def _text(interval: Interval | None) -> str:
    return "no pairs" if interval is None else interval.text(3, plus=True)
