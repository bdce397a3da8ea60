"""The figures of a score report for its picture and for notebooks, as matplotlib draws them into a part of a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from edgeplast.reporting.agreement import Agreement, agreements
from edgeplast.reporting.colours import ACCENT, INK, QUIET
from edgeplast.reporting.score_tables import MOST_NUMBERED, is_wide, number
from edgeplast.reporting.score_tables import grid as score_grid
from edgeplast.reporting.style import DIVERGING, SEQUENTIAL, light
from edgeplast.scores import ScoreTable
from edgeplast.units import format_count


def heatmap(figure: FigureBase, table: ScoreTable, method: str, *, small: bool = False) -> None:
    """Draw scores as blocks × components: a row a component type, a column a block; of several in one, the highest."""
    rows, found = score_grid(table, method)
    grid = np.array(found)
    axes = figure.subplots()
    norm = _scale(grid)
    picture = axes.imshow(grid, cmap=SEQUENTIAL, norm=norm, aspect="auto")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_xticks(range(grid.shape[1]))
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if small:
        axes.set_title(method, fontsize=8.5)
        axes.set_xticks([0, grid.shape[1] - 1])
        axes.tick_params(labelsize=7)
        return
    axes.set_xlabel("block (0 is nearest the input)")
    figure.colorbar(picture, ax=axes, fraction=0.025, pad=0.015, label=f"{method} score").outline.set_visible(False)
    if grid.shape[1] <= MOST_NUMBERED and len(rows) <= MOST_NUMBERED:
        for (row, column), value in np.ndenumerate(grid):
            if np.isfinite(value):
                dark = norm(value) > 0.55
                axes.text(column, row, number(value), ha="center", va="center", fontsize=7.5,
                          color="white" if dark else INK)  # fmt: skip


def ranking(figure: FigureBase, table: ScoreTable, method: str, memory: Mapping[str, int]) -> None:
    """Draw all components, best first: score with 95 % interval, parameters, and memory to train it alone.

    A grey bracket joins neighbours that the samples cannot tell apart.
    """
    scores, order = table.by(method), table.ranking(method)
    rows = np.arange(len(order))
    left, middle, right = figure.subplots(1, 3, sharey=True, width_ratios=[5, 2, 2])
    values = [scores[name].score for name in order]
    reach = [1.96 * scores[name].standard_error for name in order]
    left.errorbar(values, rows, xerr=reach, fmt="o", color=ACCENT, ecolor="#8fb3d9", markersize=3.5, elinewidth=1.6)
    tied = {upper for upper, _ in table.ties(method)}
    for row, name in enumerate(order):
        if name in tied:
            left.plot([-0.008] * 2, [row, row + 1], color="#bbbbbb", linewidth=2.5, solid_capstyle="butt",
                      transform=left.get_yaxis_transform(), clip_on=False)  # fmt: skip
    left.set_yticks(rows, order, fontsize=7.5)
    left.tick_params(axis="y", pad=7)
    left.set_ylim(len(order) - 0.3, -0.7)
    left.set_xlabel(f"{method} score ± 95 %")
    _log_if_wide(left, values)
    parameters = [max(scores[name].parameters, 1) for name in order]
    middle.barh(rows, parameters, color="#9dc1e4", height=0.62)
    wide = max(parameters) > 10 * min(parameters)  # within a power of ten, ticks of a logarithmic axis overlap
    if wide:
        middle.set_xscale("log")
        middle.set_xlim(left=min(parameters) / 2)
    else:
        middle.xaxis.set_major_locator(MaxNLocator(3))
        middle.xaxis.set_major_formatter(lambda value, _: format_count(value))
    middle.set_xlabel(f"parameters{' (log scale)' if wide else ''}")
    right.barh(rows, [memory[n] / 2**20 for n in order], color="#9dc1e4", height=0.62)
    right.set_xlabel("memory to train it alone,\nMiB at batch 1")
    for axes in (left, middle, right):
        light(axes)


def tau_matrix(figure: FigureBase, table: ScoreTable) -> None:
    """Draw Kendall's tau of every two methods, with the 95 % interval below it in small."""
    methods, found = table.methods, agreements(table)
    axes = figure.subplots()
    grid = np.full((len(methods), len(methods)), np.nan)
    for (a, b), entry in found.items():
        row, column = methods.index(b), methods.index(a)
        grid[row, column] = entry.tau
        _cell(axes, row, column, entry)
    shown = grid[1:, :-1]
    axes.imshow(grid, cmap=DIVERGING, norm=Normalize(-1, 1), aspect="auto")
    axes.set_yticks(range(1, len(methods)), methods[1:])
    axes.set_xticks(range(len(methods) - 1), methods[:-1], rotation=40, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.5, shown.shape[1] - 0.5)
    axes.set_ylim(len(methods) - 0.5, 0.5)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _cell(axes: Any, row: int, column: int, entry: Agreement) -> None:
    if math.isnan(entry.tau):
        axes.text(column, row, "–", ha="center", va="center", color=QUIET)
        return
    colour = "white" if abs(entry.tau) > 0.65 else INK
    axes.text(
        column,
        row - 0.14,
        f"{entry.tau:.2f}".replace("-0.00", "0.00"),
        ha="center",
        va="center",
        fontsize=8,
        color=colour,
    )
    axes.text(column, row + 0.24, f"{entry.low:.2f} … {entry.high:.2f}", ha="center", va="center", fontsize=5.8,
              color=colour)  # fmt: skip


def _scale(grid: np.ndarray) -> Normalize:
    low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
    if is_wide([low, high]):
        return LogNorm(low, high)
    return Normalize(min(low, 0.0), high if high > 0 else 1.0)


def _log_if_wide(axes: Any, values: list[float]) -> None:
    if is_wide(values):
        axes.set_xscale("log")
