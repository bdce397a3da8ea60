"""What ``.plot()`` of a noun returns: a matplotlib figure that shows itself in a notebook."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure, FigureBase

from edgeplast.adaptation import Adaptation
from edgeplast.comparison import Comparison
from edgeplast.evaluation import Evaluation
from edgeplast.plans import Plan
from edgeplast.reporting import (
    block_layout,
    block_picture,
    chart_figures,
    comparison_charts,
    evaluation_figures,
    evaluation_sections,
    score_figures,
)
from edgeplast.reporting.colours import ACCENT, GRID, WARNING
from edgeplast.reporting.style import STYLE, light
from edgeplast.scores import ScoreTable


class Plot(Figure):
    """A figure of its own, of no window: notebooks show it as it is, and ``savefig`` writes it."""

    def _repr_svg_(self) -> str:
        into = io.StringIO()
        with matplotlib.rc_context(STYLE):
            self.savefig(into, format="svg", metadata={"Date": None})
        return into.getvalue()


def scores(table: ScoreTable, method: str | None) -> Plot:
    """Draw blocks × components by one method, by default the main one."""
    chosen = method or table.method
    table.by(chosen)
    return _plot(9.0, 3.2, lambda figure: score_figures.heatmap(figure, table, chosen))


def plan(found: Plan) -> Plot:
    """Draw what trains as a block picture."""
    return _plot(9.0, block_layout.inches(found.outline), lambda figure: block_picture.draw(figure, found))


def comparison(found: Comparison) -> Plot:
    """Draw accuracy against peak memory, a point a candidate."""
    return _plot(9.0, 4.0, lambda figure: chart_figures.draw(figure, comparison_charts.against_peak(found)))


def adaptation(found: Adaptation) -> Plot:
    """Draw the loss of each step, and the accuracy of each epoch with the measurement before and after."""

    def draw(figure: FigureBase) -> None:
        left, right = figure.subplots(1, 2, width_ratios=[3, 2])
        values = np.array(found.losses)
        steps = (np.arange(len(values)) + 1) * found.steps_per_loss
        left.plot(steps, np.where(values < 1e30, values, np.nan), color=ACCENT, linewidth=1.4)
        left.set_ylim(bottom=0)
        left.set_xlabel("optimizer step")
        left.set_ylabel("cross-entropy, nats")
        known = [(e.epoch, 100 * e.validation_accuracy) for e in found.history if e.validation_accuracy is not None]
        if known:
            right.plot(*zip(*known, strict=True), "o-", color=WARNING, markersize=4, label="validation")
        ends = [None if v is None else 100 * v for v in (found.accuracy.before, found.accuracy.after)]
        if None not in ends:
            label = f"{found.measured_on}, before and after"
            right.plot([0, max(found.epochs, 1)], ends, "s", color=ACCENT, label=label)
        if known or None not in ends:
            right.legend(frameon=False, fontsize=8, loc="lower right")
        right.set_ylim(0, 104)
        right.set_xlabel("epoch")
        right.set_ylabel("accuracy, %")
        for axes in (left, right):
            light(axes)
            axes.grid(axis="y", color=GRID, linewidth=0.7)

    return _plot(9.0, 3.0, draw)


def evaluation(found: Evaluation) -> Plot:
    """Draw the confusion matrix beside the reliability diagram."""

    def draw(figure: Figure) -> None:
        left, right = figure.subfigures(1, 2, width_ratios=[3, 2], squeeze=False)[0]
        if found.confusion:
            evaluation_figures.confusion(left, found)
        chart_figures.draw(right, evaluation_sections.reliability(found))

    return _plot(10.0, max(3.4, evaluation_sections.confusion_inches(found)), draw)


def _plot(width: float, height: float, draw: Callable[[Any], None]) -> Plot:
    with matplotlib.rc_context(STYLE):
        figure = Plot(figsize=(width, height), layout="constrained")
        draw(figure)
    return figure
