"""The confusion matrix of an evaluation as matplotlib draws it, for pictures."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import FigureBase

from edgeplast.evaluation import Evaluation
from edgeplast.reporting.colours import INK, QUIET
from edgeplast.reporting.style import SEQUENTIAL

MOST_NUMBERED = 20
"""Classes up to which each cell of a confusion matrix shows its number."""


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


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"{name[:17]}…"
