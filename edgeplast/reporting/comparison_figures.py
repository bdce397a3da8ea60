"""The figures of a comparison's page, drawn with matplotlib into a figure or a part of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from matplotlib.figure import FigureBase

from edgeplast.comparison import Candidate, Comparison
from edgeplast.reporting.colours import ACCENT, GRID, INK, QUIET
from edgeplast.reporting.style import light

MIB = 1 << 20
WARNING = "#b5651d"


def against_peak(figure: FigureBase, found: Comparison) -> None:
    """Draw accuracy against the measured peak, and the budget."""
    axes = _scatter(figure, found, lambda c: (c.measured_peak_bytes or 0) / MIB, "measured peak of the process, MiB")
    limit = found.budget.memory_bytes
    if limit is not None:
        axes.axvline(limit / MIB, color=WARNING, linewidth=1.2)
        axes.annotate(f"budget {limit / MIB:.0f} MiB", (limit / MIB, 0.02), xycoords=("data", "axes fraction"),
                      xytext=(-4, 0), textcoords="offset points", ha="right", fontsize=8, color=WARNING)  # fmt: skip


def against_seconds(figure: FigureBase, found: Comparison) -> None:
    """Draw accuracy against the time of an epoch."""
    axes = _scatter(figure, found, lambda c: c.epoch_seconds or 0.0, "seconds an epoch, on this machine")
    axes.set_xlim(left=0)


def differences(figure: FigureBase, found: Comparison) -> None:
    """Draw each candidate's paired difference to the best with its interval."""
    axes = figure.subplots()
    shown = [c for c in found.candidates if c.accuracy is not None][::-1]
    for row, candidate in enumerate(shown):
        colour, gap = _colour(found, candidate), candidate.difference
        if gap is None:
            axes.plot([0], [row], "D", color=colour, markersize=7)
            continue
        axes.plot([100 * gap.low, 100 * gap.high], [row, row], color=colour, linewidth=2, solid_capstyle="round")
        axes.plot([100 * gap.mean], [row], "o", color=colour, markersize=7)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(shown)), [f"{c.name}{_when(found, c)}" for c in shown])
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel(f"accuracy minus that of {found.best}, points")
    light(axes)


def _scatter(figure: FigureBase, found: Comparison, across: Callable[[Candidate], float], label: str) -> Any:
    axes = figure.subplots()
    for candidate in found.candidates:
        if candidate.accuracy is None:
            continue
        x, y, colour = across(candidate), 100 * candidate.accuracy, _colour(found, candidate)
        early = bool(_when(found, candidate))
        axes.plot([x], [y], "o", color=colour, markersize=8, markerfacecolor="white" if early else colour)
        if candidate.difference is not None and not early:
            best = 100 * (found.candidate(found.best).accuracy or 0.0)
            ends = [best + 100 * candidate.difference.low, best + 100 * candidate.difference.high]
            axes.plot([x, x], ends, color=colour, linewidth=1.2, zorder=0)
        axes.annotate(candidate.name, (x, y), xytext=(8, 5), textcoords="offset points", fontsize=8.5, color=colour)
    axes.margins(x=0.16, y=0.14)
    axes.set_xlabel(label)
    axes.set_ylabel("accuracy on held-out pictures, %")
    light(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    return axes


def _when(found: Comparison, candidate: Candidate) -> str:
    """Say in which early round a candidate ran last."""
    return f", round {candidate.round}" if candidate.round < len(found.rounds) else ""


def _colour(found: Comparison, candidate: Candidate) -> str:
    if candidate.name == found.chosen:
        return ACCENT
    return INK if candidate.outcome == "not worse" else QUIET
