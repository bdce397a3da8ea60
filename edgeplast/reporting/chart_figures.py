"""A chart as matplotlib draws it, for pictures."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import FigureBase

from edgeplast.reporting.charts import Chart, Line
from edgeplast.reporting.colours import GRID, QUIET
from edgeplast.reporting.style import light


def draw(figure: FigureBase, chart: Chart) -> None:
    """Draw a chart into a figure or a part of one."""
    axes: Any = figure.subplots()
    second: Any = axes.twinx() if chart.second_label else None
    for line in chart.lines:
        _line(second if line.is_second else axes, line)
    low, high = chart.y_range
    at = float("-inf")
    for level in sorted(chart.levels, key=lambda level: level.value):
        axes.axhline(level.value, color=level.colour, linestyle="--" if level.is_dashed else "-", linewidth=1.2)
        at = max(level.value, at + 0.075 * (high - low))
        name, _, unit = level.label.partition(", ")
        axes.annotate(f"{name} {level.value:.4g} {unit}", (1.01, at), xycoords=("axes fraction", "data"), va="center",
                      fontsize=8, color=level.colour)  # fmt: skip
    for span in chart.spans:
        axes.plot(span.x, span.y, color=span.colour, linewidth=span.width / 1.2, solid_capstyle="butt")
    for mark in chart.marks:
        axes.axvline(mark.x, color=mark.colour, linestyle="--" if mark.is_dashed else ":", linewidth=0.8)
    for note in chart.notes:
        axes.annotate(note.text, (note.x, note.y), xytext=(-6 if note.is_left else 6, -3), va="top",
                      ha="right" if note.is_left else "left", textcoords="offset points", fontsize=8,
                      color=note.colour)  # fmt: skip
    axes.set_xlim(*chart.x_range)
    if chart.is_log:
        axes.set_xscale("log")
    axes.set_ylim(*((high, low) if chart.rows else (low, high)))
    if chart.rows:
        axes.set_yticks(range(len(chart.rows)), list(chart.rows))
    axes.set_xlabel(chart.x_label)
    axes.set_ylabel(chart.y_label)
    light(axes)
    axes.grid(axis="x" if chart.rows else "y", color=GRID, linewidth=0.7)
    axes.grid(axis="y" if chart.rows else "x", visible=False)
    if second is not None:
        second.set_ylabel(chart.second_label)
        for side in second.spines.values():
            side.set_visible(False)
    if len([line for line in chart.lines if line.label]) > 1:
        axes.legend(frameon=False, fontsize=8, loc="best", labelcolor=QUIET)


def _line(axes: Any, line: Line) -> None:
    y = [float("nan") if value is None else value for value in line.y]
    if line.is_filled:
        axes.fill_between(line.x, y, color=line.colour, alpha=0.12, linewidth=0)
    if line.width or line.dots:
        axes.plot(
            line.x, y, color=line.colour, linewidth=line.width, alpha=0.35 if line.is_faint else 1,
            linestyle="none" if not line.width else "--" if line.is_dashed else "-",
            marker="o" if line.dots else None, markersize=line.dots / 1.5, label=line.label or None,
        )  # fmt: skip
    if line.sizes:
        areas = [(size / 1.5) ** 2 for size in line.sizes]
        inside = "white" if line.is_hollow else line.colour
        axes.scatter(line.x, y, s=areas, facecolor=inside, edgecolor=line.colour, alpha=None if line.is_hollow else 0.8,
                     linewidth=1.2 if line.is_hollow else 0, zorder=3)  # fmt: skip
