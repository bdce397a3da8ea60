"""The look of what matplotlib draws: colour maps, type, axes."""

from __future__ import annotations

from typing import Any

from matplotlib.colors import LinearSegmentedColormap

from edgeplast.reporting.colours import AGREE, GRID, INK, SHADES

SEQUENTIAL = LinearSegmentedColormap.from_list("accent", SHADES)
DIVERGING = LinearSegmentedColormap.from_list("agree", AGREE)

STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": "#999999",
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.0,
    "svg.fonttype": "none",
}


def light(axes: Any) -> None:
    """Take the frame away and put a quiet grid behind."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
