"""The figures of an adaptation's report, drawn with matplotlib into a figure or a part of one."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import FigureBase

from edgeplast.adaptation import Adaptation
from edgeplast.reporting.style import ACCENT, GRID, INK, QUIET, light
from edgeplast.telemetry import EpochLine, Line, RungLine, RunLine, StepLine, of_kind

MIB = 1 << 20
WARNING = "#b5651d"


def memory(figure: FigureBase, lines: list[Line], report: Adaptation | None) -> None:
    """Draw the resident set of each step against what is allowed, predicted and, at the end, measured."""
    axes, steps, runs = figure.subplots(), of_kind(lines, StepLine), of_kind(lines, RunLine)
    numbers = [step.step for step in steps]
    held = [step.resident_bytes / MIB for step in steps]
    axes.fill_between(numbers, held, color=ACCENT, alpha=0.12, linewidth=0)
    axes.plot(numbers, held, color=ACCENT, linewidth=1.6)
    last = numbers[-1]
    levels = [("predicted", runs[0].predicted_peak_bytes, QUIET, "--")]
    if runs[-1].allowed_bytes is not None:
        levels.append(("allowed", runs[-1].allowed_bytes, WARNING, "-"))
    if report is not None:
        levels.append(("measured peak", report.memory.measured_peak_bytes, INK, ":"))
    # A control group's limit may be a hundred times what is held: then it is said, not drawn.
    top = 1.6 * max(max(held), *(size / MIB for name, size, *_ in levels if name != "allowed"))
    shown = sorted((size / MIB, name, colour, style) for name, size, colour, style in levels if size / MIB <= top)
    at = float("-inf")
    for size, name, colour, style in shown:
        axes.axhline(size, color=colour, linestyle=style, linewidth=1.2)
        at = max(size, at + 0.075 * top)
        axes.annotate(f"{name} {size:.0f} MiB", (1.01, at), xycoords=("axes fraction", "data"), va="center",
                      fontsize=8, color=colour)  # fmt: skip
    axes.set_ylim(0, max([*held, *(size for size, *_ in shown)]) * 1.1)
    axes.set_ylabel("resident set, MiB")
    _steps_axis(axes, lines, last)


def loss(figure: FigureBase, lines: list[Line]) -> None:
    """Draw the training loss of each step, smoothed, and the validation loss of each epoch."""
    axes, steps = figure.subplots(), of_kind(lines, StepLine)
    numbers, values = [step.step for step in steps], np.array([step.loss for step in steps])
    values = np.where(values < 1e30, values, np.nan)  # a diverged step is written as the largest float32
    axes.plot(numbers, values, color=ACCENT, alpha=0.35, linewidth=1)
    axes.plot(numbers, _smoothed(values), color=ACCENT, linewidth=1.8, label="training, smoothed")
    validated = [(e.step, e.validation_loss) for e in of_kind(lines, EpochLine) if e.validation_loss is not None]
    if validated:
        axes.plot(*zip(*validated, strict=True), "o-", color=WARNING, markersize=4, linewidth=1.2, label="validation")
    axes.legend(frameon=False, fontsize=8)
    axes.set_ylabel("cross-entropy, nats")
    axes.set_ylim(bottom=0)
    _steps_axis(axes, lines, numbers[-1])


def accuracy(figure: FigureBase, lines: list[Line], report: Adaptation | None) -> None:
    """Draw validation accuracy by epoch, and the measurement before and after."""
    axes, last = figure.subplots(), of_kind(lines, StepLine)[-1].step
    found = [(e.step, 100 * e.validation_accuracy) for e in of_kind(lines, EpochLine)
             if e.validation_accuracy is not None]  # fmt: skip
    if found:
        axes.plot(*zip(*found, strict=True), "o-", color=WARNING, markersize=4, linewidth=1.2, label="validation")
    if report is not None and report.accuracy.before is not None and report.accuracy.after is not None:
        ends = [100 * report.accuracy.before, 100 * report.accuracy.after]
        axes.plot([0, last], ends, "s", color=ACCENT, markersize=6, label=f"{report.measured_on}, before and after")
        for x, value, side in ((0, ends[0], "left"), (last, ends[1], "right")):
            axes.annotate(f"{value:.1f} %", (x, value), xytext=(6 if side == "left" else -6, -3), ha=side, va="top",
                          textcoords="offset points", fontsize=8, color=ACCENT)  # fmt: skip
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_ylabel("accuracy, %")
    axes.set_ylim(0, 104)
    _steps_axis(axes, lines, last)


def pace(figure: FigureBase, lines: list[Line]) -> None:
    """Draw seconds a step, and the temperature where the machine shows one."""
    axes, steps = figure.subplots(), of_kind(lines, StepLine)
    numbers = [step.step for step in steps]
    axes.plot(numbers, [step.seconds for step in steps], color=ACCENT, linewidth=1.2)
    axes.set_ylabel("seconds a step", color=ACCENT)
    axes.set_ylim(bottom=0)
    warm = [(step.step, step.celsius) for step in steps if step.celsius is not None]
    if warm:
        heat = axes.twinx()
        heat.plot(*zip(*warm, strict=True), color=WARNING, linewidth=1.2)
        heat.set_ylabel("°C", color=WARNING)
        for side in heat.spines.values():
            side.set_visible(False)
    _steps_axis(axes, lines, numbers[-1])


def _steps_axis(axes: Any, lines: list[Line], last: int) -> None:
    for change in of_kind(lines, RungLine):
        axes.axvline(change.step, color=QUIET, linestyle="--", linewidth=0.8)
    for run in of_kind(lines, RunLine)[1:]:
        axes.axvline(run.step, color=QUIET, linestyle=":", linewidth=0.8)
    axes.set_xlim(-0.01 * last, 1.01 * max(last, 1))
    axes.set_xlabel("optimizer step")
    light(axes)
    axes.grid(axis="y", color=GRID, linewidth=0.7)
    axes.grid(axis="x", visible=False)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return an exponential mean over about a twentieth of the steps, without the bias of its start."""
    keep = 1 - 1 / max(len(values) / 20, 1.0)
    result, mean, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result[i] = mean / weight if weight else np.nan
    return result
