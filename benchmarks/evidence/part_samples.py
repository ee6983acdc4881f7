"""Part 1: does more than one mask draw per completion pay, at equal steps and at equal compute?"""

from __future__ import annotations

import numpy as np

from benchmarks.evidence.results import Curves, Results
from benchmarks.evidence.statistics import Interval, paired, t_interval, verdict
from benchmarks.evidence.text import NOT_YET, Section, difference, table
from bgpo.tasks.registry import TASKS


def section(results: Results) -> Section:
    found = Section(
        "1. How many mask draws?",
        "The paper: more draws make steadier estimates and better policies. Here BGPO, on-policy, with 1, 2, 4 and 16 "
        "draws. At equal steps additional draws come free; at equal compute they are paid for with fewer steps.",
    )
    for task in results.scale.tasks:
        by_draws = results.mc_samples(task)
        if by_draws:
            _task(results, task, by_draws, found)
    if not found.parts:
        found.parts.append(NOT_YET)
    return found


def _task(results: Results, task: str, by_draws: dict[int, Curves], found: Section) -> None:
    steps, budget, title = results.scale.least_steps, results.scale.budgets[task], TASKS[task].title
    found.parts += [
        f"### {title}", _rewards(by_draws, steps, budget), _differences(by_draws, steps, budget),
    ]
    few, many = min(by_draws), max(by_draws)
    if few == many:
        return
    at_steps, at_tokens = (compare(by_draws, many, few, against, end) for against, end in
                           (("step", steps), ("tokens", budget)))
    found.claims.append(f"**{title}, {many} draws against {few}.** " + " ".join([
        verdict(at_steps, f"At equal steps {many} draws are better",
                f"At equal steps {many} draws are *worse*", "At equal steps the difference is open")
        + f" ({_text(at_steps)} on the way to step {steps});",
        verdict(at_tokens, f"at equal compute {many} draws are better, too",
                f"at equal compute they are *worse*: {few} with more steps learns faster",
                "at equal compute the difference is open")
        + f" ({_text(at_tokens)}).",
        best_of(by_draws, budget),
    ]))


def best_of(by_draws: dict[int, Curves], budget: float) -> str:
    """Which number of draws has the highest mean at equal compute, and whether it beats the others."""
    mean = {K: t_interval([c.mean_to(budget, "tokens") for c in curves.values()]).mean
            for K, curves in by_draws.items()}
    best = max(mean, key=mean.__getitem__)
    beaten = [K for K in by_draws if best != K and _sign(compare(by_draws, best, K, "tokens", budget)) > 0]
    against = f"above {', '.join(map(str, beaten))} with its interval" if beaten else "but above none with its interval"
    return f"The highest mean at equal compute has {best} draw{'s' * (best > 1)} ({mean[best]:.2f}), {against}."


def compare(
    by_draws: dict[int, Curves], left: int, right: int, against: str, end: float, reward: str = "greedy"
) -> Interval | None:
    """Paired difference of the rewards on the way."""
    sides = ({seed: c.mean_to(end, against, reward) for seed, c in by_draws[K].items()} for K in (left, right))
    return paired(*sides)


def _rewards(by_draws: dict[int, Curves], steps: int, budget: int) -> str:
    head = ["draws", "seeds", "warm start", f"step {steps // 2}", f"step {steps}", "on the way, steps",
            f"at {budget / 2e6:.2g} M tokens", f"at {budget / 1e6:.2g} M tokens", "on the way, compute",
            "the same at T = 1", f"steps within {budget / 1e6:.2g} M"]
    rows = []
    for K, curves in by_draws.items():
        def over(value, curves=curves) -> str:
            return t_interval([float(value(curve)) for curve in curves.values()]).text()

        rows.append([
            str(K), str(len(curves)), over(lambda c: c.greedy[0]), over(lambda c: c.at([steps // 2])[0]),
            over(lambda c: c.at([steps])[0]), over(lambda c: c.mean_to(steps)),
            over(lambda c: c.at([budget / 2], "tokens")[0]), over(lambda c: c.at([budget], "tokens")[0]),
            over(lambda c: c.mean_to(budget, "tokens")), over(lambda c: c.mean_to(budget, "tokens", "sampled")),
            f"{_steps_within(curves, budget):.0f}",
        ])
    return table(head, rows)


def _steps_within(curves: Curves, budget: float) -> float:
    return float(np.mean([np.interp(budget, c.tokens, c.step) for c in curves.values()]))


def _differences(by_draws: dict[int, Curves], steps: int, budget: int) -> str:
    draws = list(by_draws)
    pairs = [(draws[-1], K) for K in draws[:-1]] + [(K, draws[0]) for K in draws[1:-1]]
    rows = [
        [f"{left} minus {right}", difference(compare(by_draws, left, right, "step", steps)),
         difference(compare(by_draws, left, right, "tokens", budget)),
         difference(compare(by_draws, left, right, "tokens", budget, "sampled"))]
        for left, right in pairs
    ]
    head = ["draws", "reward on the way, equal steps", "equal compute", "equal compute, T = 1"]
    return "Paired differences of the reward on the way:\n\n" + table(head, rows)


def _text(interval: Interval | None) -> str:
    return "no pairs" if interval is None else interval.text(3, plus=True)


def _sign(interval: Interval | None) -> int:
    return 0 if interval is None else interval.sign
