"""Part 3: the variance of the gradient by mask scheme, number of draws and sharing."""

from __future__ import annotations

from benchmarks.evidence.results import Results, Variance
from benchmarks.evidence.text import NOT_YET, Section, listed, table

Schemes = dict[str, dict[int, Variance]]
_BLOCKWISE = "block"  # estimates another ELBO


def section(results: Results) -> Section:
    s = results.scale
    found = Section(
        "3. Gradient noise from the masks",
        f"One policy (the adder's warm start and {s.state_steps} steps of RL, seed 0), one set of rollouts, "
        f"{s.replicates} fresh mask draws per cell; noise is tr(Cov) / |mean gradient|², the noise of one gradient "
        f"over its signal. |mean gradient|² comes from an independent sample ({2 * s.reference_replicates} "
        f"stratified gradients at {max(s.gradient_draws)} draws, as the product of its two halves), so a scheme is "
        "not flattered by its own noise. ± is one standard error (jackknife over the draws). Every row spends the "
        "same number of passes; `complementary` spends them in pairs, `block` respects blocks of 4 and so estimates "
        "another ELBO.",
    )
    own, shared = results.variances(False), results.variances(True)
    if "stratified" not in own:
        found.parts.append(NOT_YET)
        return found
    draws = sorted(next(iter(own.values())))
    middle = 4 if 4 in draws else draws[-1]
    found.parts += [_by_draws(own, draws), _details(own, shared, draws, middle)]
    found.claims += [*_more_draws(own, draws), *_schemes(own, middle), *_value_is_not_gradient(own, draws[-1]),
                     *_sharing(own, shared, middle), *_bias(own, draws)]
    return found


def ratio(left: Variance, right: Variance) -> tuple[float, float]:
    """left / right with its standard error, the two measured independently."""
    value = left.relative / right.relative
    parts = (left.relative_error / left.relative, right.relative_error / right.relative)
    return value, value * (parts[0] ** 2 + parts[1] ** 2) ** 0.5


def _word(value: float, error: float) -> str:
    """Which side of 1, beyond two standard errors."""
    return "less" if value + 2 * error < 1 else "more" if value - 2 * error > 1 else "open"


def _by_draws(own: Schemes, draws: list[int]) -> str:
    rows = [[scheme, *(f"{v[K].relative:.3g} ± {v[K].relative_error:.2g}" for K in draws)] for scheme, v in own.items()]
    return "Noise of the gradient by number of draws, own masks:\n\n" + table(["scheme", *map(str, draws)], rows)


def _details(own: Schemes, shared: Schemes, draws: list[int], middle: int) -> str:
    head = ["scheme", "own masks", "over stratified", "shared masks", "shared over own", f"bias² at {draws[0]}",
            f"bias² at {middle}", "ELBO's sd (nats)"]
    rows = []
    for scheme, by_draws in own.items():
        v, w = by_draws[middle], shared.get(scheme, {}).get(middle)
        rows.append([
            scheme, f"{v.relative:.3g} ± {v.relative_error:.2g}", _times(*ratio(v, own["stratified"][middle])),
            f"{w.relative:.3g} ± {w.relative_error:.2g}" if w else "–", _times(*ratio(w, v)) if w else "–",
            f"{by_draws[draws[0]].bias:.3f} ± {by_draws[draws[0]].bias_error:.3f}", f"{v.bias:.3f} ± "
            f"{v.bias_error:.3f}",
            f"{v.value_sd:.3g}",
        ])
    return (
        f"At {middle} draws. Bias² is the squared distance of the scheme's mean gradient from the stratified one over "
        "|mean gradient|², estimated without bias, so that 0 is within its error for an unbiased scheme:\n\n"
        + table(head, rows)
    )


def _times(value: float, error: float) -> str:
    return f"× {value:.2f} ± {error:.2f}"


def _more_draws(own: Schemes, draws: list[int]) -> list[str]:
    few, many = draws[0], draws[-1]
    value, error = ratio(own["stratified"][few], own["stratified"][many])
    fair = many / few
    how = ("as fast as independent draws" if abs(value - fair) <= 2 * error else
           "faster than independent draws" if value > fair else "more slowly than independent draws")
    return [
        f"**More draws, less gradient noise: {'holds' if _word(value, error) == 'more' else 'not shown'}.** "
        f"Stratified, {many} draws have {value:.1f} ± {error:.1f} times less noise than {few}: {how} would "
        f"({fair:.0f} times)."
    ]


def _schemes(own: Schemes, middle: int) -> list[str]:
    base = own["stratified"][middle]
    ratios = {scheme: ratio(v[middle], base) for scheme, v in own.items() if scheme not in ("stratified", _BLOCKWISE)}
    groups = {word: [f"{s} ({_times(*r)})" for s, r in ratios.items() if _word(*r) == word]
              for word in ("more", "less", "open")}
    return [
        f"**Which masks, at {middle} draws, beside the stratified default:** noisier: {listed(groups['more'])}; less "
        f"noisy: {listed(groups['less'])}; within two standard errors: {listed(groups['open'])}."
    ]


def _value_is_not_gradient(own: Schemes, most: int) -> list[str]:
    if "antithetic" not in own or "iid" not in own:
        return []
    left, right = own["iid"][most], own["stratified"][most]
    value, (gradient, error) = (left.value_sd / right.value_sd) ** 2, ratio(left, right)
    same = abs(gradient - value) <= 2 * error
    return [
        f"**A steadier ELBO is {'' if same else 'not '}as much of a steadier gradient.** At {most} draws stratifying "
        f"the counts divides the variance of the ELBO's value by {value:.1f}, and that of the gradient by "
        f"{gradient:.2f} ± {error:.2f}."
    ]


def _sharing(own: Schemes, shared: Schemes, middle: int) -> list[str]:
    ratios = {s: ratio(shared[s][middle], own[s][middle]) for s in own if s in shared}
    if not ratios:
        return []
    words = {word: [s for s, r in ratios.items() if _word(*r) == word] for word in ("less", "more", "open")}
    value, error = ratios.get("stratified", next(iter(ratios.values())))
    return [
        f"**Sharing masks within a group, at {middle} draws:** less noise for {listed(words['less'])}; more for "
        f"{listed(words['more'])}; open for {listed(words['open'])} (stratified {_times(value, error)})."
    ]


def _bias(own: Schemes, draws: list[int]) -> list[str]:
    found = [
        f"{scheme} at {K} draw{'s' * (K > 1)} ({v[K].bias:.2f} ± {v[K].bias_error:.2f})"
        for scheme, v in own.items() if scheme != _BLOCKWISE for K in draws
        if v[K].bias > 3 * v[K].bias_error and v[K].bias > 0.01
    ]
    return [f"**Biased mean gradients** (beyond three standard errors, squared over |mean|²): {listed(found)}."]
