"""The figures of an evaluation: what is taken for what, and whether confidence can be believed."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import FigureBase

from edgeplast.evaluation import Evaluation
from edgeplast.reporting.style import ACCENT, INK, QUIET, SEQUENTIAL, light

MOST_NUMBERED = 20
"""Classes up to which each cell of a confusion matrix shows its number."""


def confusion_inches(found: Evaluation) -> float:
    """Height that the confusion matrix wants."""
    return min(9.0, 1.6 + 0.34 * len(found.confusion))


def confusion(figure: FigureBase, found: Evaluation) -> None:
    """Draw a row a class that images show, a column a class that they were called, as shares of the row."""
    counts, names = np.array(found.confusion), list(found.per_class)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = figure.subplots()
    axes.imshow(shares, cmap=SEQUENTIAL, vmin=0, vmax=1, aspect="auto")
    size = 8 if len(names) <= MOST_NUMBERED else 5
    axes.set_yticks(range(len(names)), [_short(name) for name in names], fontsize=size)
    axes.set_xticks(range(len(names)), [_short(name) for name in names], fontsize=size, rotation=45, ha="right",
                    rotation_mode="anchor")  # fmt: skip
    axes.set_ylabel("shows", color=QUIET)
    axes.set_xlabel("called", color=QUIET)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    for (row, column), count in np.ndenumerate(counts) if len(names) <= MOST_NUMBERED else ():
        if count:
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=8, color=colour)


def reliability(figure: FigureBase, found: Evaluation) -> None:
    """Draw accuracy against confidence, a dot a bin as large as its share of images; on the diagonal both agree."""
    axes = figure.subplots()
    axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle="--")
    across = [100 * each.confidence for each in found.reliability]
    up = [100 * each.accuracy for each in found.reliability]
    sizes = [20 + 400 * each.images / max(found.images, 1) for each in found.reliability]
    axes.vlines(across, across, up, color=ACCENT, linewidth=1, alpha=0.5)
    axes.scatter(across, up, s=sizes, color=ACCENT, alpha=0.8, linewidth=0)
    axes.set_xlim(0, 103)
    axes.set_ylim(-3, 106)
    axes.set_xlabel("mean confidence, %")
    axes.set_ylabel("named right, %")
    light(axes)


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
