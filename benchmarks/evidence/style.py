"""How the plots look: light, few lines, colours that colour-blind readers tell apart, labels beside the lines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito; BGPO is always the blue
BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#B8A800", "#333333",
)
GREY = "#8A8A8A"
DRAW_COLOURS = ("#E0A100", "#2FA36B", "#2F6C9E", "#440154")  # light to dark: few to many draws

plt.rcParams.update({
    "figure.facecolor": "white", "axes.facecolor": "white", "font.size": 9.5, "axes.titlesize": 10.5,
    "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#666666", "axes.labelcolor": "#333333", "xtick.color": "#555555", "ytick.color": "#555555",
    "axes.grid": True, "grid.color": "#E6E6E6", "grid.linewidth": 0.8, "axes.axisbelow": True, "lines.linewidth": 1.8,
    "legend.frameon": False, "savefig.dpi": 150, "svg.hashsalt": "bgpo",
})


def label_ends(axes: Axes, ends: Sequence[tuple[float, float, str, str]], log: bool = False) -> None:
    """Names lines at their right ends, pushed apart where they would overlap.

    Args:
        ends: (x, y, text, colour) of each line's last point.
    """
    low, high = axes.get_ylim()
    figure = axes.get_figure()
    height = axes.get_position().height * figure.get_figheight() * 72  # points
    scale = axes.transScale.transform
    bottom, top = scale((1, low))[1], scale((1, high))[1]
    fraction = [(scale((1, y))[1] - bottom) / (top - bottom) for _, y, _, _ in ends]
    order = sorted(range(len(ends)), key=fraction.__getitem__)
    places = _apart([fraction[i] for i in order], 10.5 / height)
    right = max(x for x, *_ in ends)
    for i, place in zip(order, places):
        x, y, text, colour = ends[i]
        axes.annotate(
            text, (x, y), xytext=(1.03, place), textcoords="axes fraction", color=colour, fontsize=8.5, va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2},
        )
    axes.set_xlim(right=axes.transData.inverted().transform(axes.transAxes.transform((1, 0)))[0])
    axes.set_xlim(right=max(right, axes.get_xlim()[1]))


def _apart(places: list[float], gap: float) -> list[float]:
    """Ascending places -> at least `gap` apart, moved as little as a few sweeps find, within 0 to 1 if they fit."""
    places = list(places)
    for _ in range(200):
        for i in range(len(places) - 1):
            if (overlap := gap - (places[i + 1] - places[i])) > 1e-9:
                places[i] -= overlap / 2
                places[i + 1] += overlap / 2
        shift = max(0.0, -places[0]) - max(0.0, places[-1] - 1)
        places = [place + shift for place in places]
    return places


def save(figure: Figure, path: Path) -> None:
    """A PNG whose bytes depend on the picture alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
