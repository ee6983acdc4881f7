"""Parts 4 and 5: the bound's gap against policy movement, and memory against the number of draws."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from benchmarks.evidence.results import Results
from benchmarks.evidence.text import NOT_YET, Section, table, title

_ROUNDING = 1e-12
_SIGNS = (("good", "A > 0"), ("bad", "A < 0"))


def gap_section(results: Results) -> Section:
    s = results.scale
    found = Section(
        "4. The gap of the bound",
        "The trained policy of part 3 (and its like on other seeds) is moved: along one AdamW update of BGPO, "
        "shortened and lengthened, and by several updates on one batch. The gap is the ELBO objective minus the "
        f"bound on the same masks, in float64, {s.gap_draws} draws. For small moves it should be A δ²/2 where A > 0, "
        "whatever the masks do, and |A| e^δ Var(d)/2 where A < 0, from the spread of the log ratios d over the "
        "draws (identity 15). Log ratios are divided by the completion length, as in training.",
    )
    moves = results.moves()
    if not moves:
        found.parts.append(NOT_YET)
        return found
    found.parts.append(_moves_table(moves))
    found.claims += [_never_negative(moves), *_asymptotes(moves), *_cost(moves)]
    return found


def _ratio(move: dict[str, Any], sign: str) -> float | None:
    below, asymptote = move[f"gap_{sign}"], move[f"asymptote_{sign}"]
    return below / asymptote if asymptote > 0 else None


def _grouped(moves: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The same move of all seeds together, smallest first, the line before the updates."""
    groups: dict[tuple[str, float], list] = {}
    for move in moves:
        groups.setdefault((move["kind"], move["size"]), []).append(move)
    return [groups[key] for key in sorted(groups)]


def _mean(values: list[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{np.mean(there):.4g}" if there else "–"


def _moves_table(moves: list[dict[str, Any]]) -> str:
    rows = []
    for group in _grouped(moves):
        first = group[0]
        name = f"{first['size']:g} update{'s' * (first['size'] != 1)}" if first["kind"] == "updates" else (
            f"one update × {first['size']:g}")
        share = [_loss(m) for m in group]
        rows.append([
            name, _mean([m["delta"] for m in group]), *(_mean([m[f"gap_{s}"] for m in group]) for s, _ in _SIGNS),
            *(_mean([_ratio(m, s) for m in group]) for s, _ in _SIGNS), _mean(share),
        ])
    head = ["move", "mean abs. δ", "gap, A > 0", "gap, A < 0", "over asymptote, A > 0", "A < 0", "gap over gain"]
    return (
        "Means over seeds; \"gap over gain\" is the whole gap over what the move has added to the ELBO objective:\n\n"
        + table(head, rows)
    )


def _loss(move: dict[str, Any]) -> float | None:
    """The gap as a share of the objective's gain, where it has gained."""
    return (move["gap_good"] + move["gap_bad"]) / move["gain"] if move["gain"] > 0 else None


def _never_negative(moves: list[dict[str, Any]]) -> str:
    broken = sum(move["least_gap"] < -_ROUNDING for move in moves)
    least = min(move["least_gap"] for move in moves)
    return (
        f"**It is a lower bound: {'holds' if not broken else 'broken'}.** {len(moves) - broken} of {len(moves)} moves "
        f"leave every completion's bound at or below its objective (smallest gap {least:.1e}; rounding counts as 0)."
    )


def _asymptotes(moves: list[dict[str, Any]]) -> list[str]:
    claims = []
    for sign, where in _SIGNS:
        ratios = [(m["delta"], r) for m in moves if m["kind"] == "line" and (r := _ratio(m, sign)) is not None]
        if not ratios:
            continue
        least_delta, at_least = min(ratios)
        near = [delta for delta, _ in itertools.takewhile(lambda item: abs(item[1] - 1) <= 0.1, sorted(ratios))]
        reach = f"within a tenth up to mean |δ| = {max(near):.2g}" if near else "never within a tenth"
        claims.append(
            f"**The gap's asymptote where {where}: {'holds' if abs(at_least - 1) < 0.05 else 'not reached'}.** The "
            f"ratio is {at_least:.4f} at mean |δ| = {least_delta:.1e}, and {reach}."
        )
    return claims


def _cost(moves: list[dict[str, Any]]) -> list[str]:
    updates = [m for m in moves if m["kind"] == "updates" and _loss(m) is not None]
    if not updates:
        return []
    shares = {n: np.mean([_loss(m) for m in updates if m["size"] == n]) for n in sorted({m["size"] for m in updates})}
    words = ", ".join(f"{100 * share:.0f} % after {n:g}" for n, share in shares.items())
    bad = sum(m["gap_bad"] for m in updates) / sum(m["gap_bad"] + m["gap_good"] for m in updates)
    return [
        f"**What the bound gives away off-policy:** of what updates on one batch add to the objective, the bound does "
        f"not see {words} (updates). {100 * bad:.0f} % of that gap comes from completions with A < 0."
    ]


def memory_section(results: Results) -> Section:
    found = Section(
        "5. Memory",
        "One update of 128 completions, each cell in a fresh process (`benchmarks/memory.py`). \"Held\" is the peak "
        "of bytes that autograd holds for backward, \"resident\" the growth of the process.",
    )
    memory = results.memory()
    if "bgpo" not in memory:
        found.parts.append(NOT_YET)
        return found
    names = [name for name in ("bgpo", "elbo_two_pass", "elbo") if name in memory]
    draws = sorted(memory["bgpo"])
    head = ["draws", *(f"{title(n)}: {what}" for n in names for what in ("held", "resident"))]
    rows = [
        [str(K), *(f"{memory[n][K][what]:,.0f}" if K in memory[n] else "–" for n in names for what in
                   ("saved_mb", "rss_mb"))]
        for K in draws
    ]
    found.parts.append("MB:\n\n" + table(head, rows))
    found.claims.append(_growth(memory, names))
    return found


def _growth(memory: dict[str, dict[int, dict[str, float]]], names: list[str]) -> str:
    grown = {}
    for name in names:
        few, many = min(memory[name]), max(memory[name])
        grown[name] = (memory[name][many]["saved_mb"] / memory[name][few]["saved_mb"], few, many)
    words = "; ".join(f"{title(n)} × {g:.2f} from {few} to {many} draws" for n, (g, few, many) in grown.items())
    holds = "holds" if grown["bgpo"][0] < 1.1 else "does not hold"
    rival = "elbo_two_pass" in grown and grown["elbo_two_pass"][0] < 1.1
    also = " It is not the bound's alone: the exact objective in two passes has it as well." if rival else ""
    return f"**Constant memory in the number of draws: {holds}.** {words}.{also}"
