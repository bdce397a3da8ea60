"""The charts of an adaptation's report, from what the run told of itself."""

from __future__ import annotations

import itertools

import numpy as np

from edgeplast.adaptation import Adaptation
from edgeplast.reporting.charts import Chart, Level, Line, Mark, Note
from edgeplast.reporting.colours import ACCENT, INK, QUIET, WARNING
from edgeplast.telemetry import EpochLine, RungLine, RunLine, ScoresLine, StepLine, of_kind
from edgeplast.telemetry import Line as Told

MIB = 1 << 20
_KINDS = (ACCENT, WARNING, INK, QUIET)


def memory(lines: list[Told], report: Adaptation | None) -> Chart:
    """Show the resident set of each step against what is allowed, predicted and, at the end, measured."""
    steps, runs = of_kind(lines, StepLine), of_kind(lines, RunLine)
    held = [step.resident_bytes / MIB for step in steps]
    levels = [("predicted", runs[0].predicted_peak_bytes, QUIET, True)]
    if runs[-1].allowed_bytes is not None:
        levels.append(("allowed", runs[-1].allowed_bytes, WARNING, False))
    if report is not None:
        levels.append(("measured peak", report.memory.measured_peak_bytes, INK, True))
    # A control group's limit may be a hundred times what is held: then it is said, not drawn.
    top = 1.6 * max(max(held), *(size / MIB for name, size, *_ in levels if name != "allowed"))
    shown = [
        Level(f"{name}, MiB", size / MIB, colour, dashed) for name, size, colour, dashed in levels if size / MIB <= top
    ]
    most = max([*held, *(level.value for level in shown)])
    line = Line("resident set, MiB", [step.step for step in steps], held, is_filled=True)
    return _over_steps(lines, "resident set, MiB", [line], (0, 1.1 * most), levels=shown)


def loss(lines: list[Told]) -> Chart:
    """Show the training loss of each step, smoothed, and the validation loss of each epoch."""
    steps = of_kind(lines, StepLine)
    numbers, values = [step.step for step in steps], np.array([step.loss for step in steps])
    values = np.where(values < 1e30, values, np.nan)  # a diverged step is written as the largest float32
    smooth = _smoothed(values)
    validated = [(e.step, e.validation_loss) for e in of_kind(lines, EpochLine) if e.validation_loss is not None]
    drawn = [
        Line("training", numbers, _known(values), width=1, is_faint=True),
        Line("training, smoothed", numbers, _known(smooth), width=1.8),
    ]
    if validated:
        drawn.append(Line("validation", *_apart(validated), colour=WARNING, width=1.2, dots=7))
    most = max((v for line in drawn for v in line.y if v is not None and v < 1e30), default=1.0)
    return _over_steps(lines, "cross-entropy, nats", drawn, (0, 1.05 * most or 1.0))


def accuracy(lines: list[Told], report: Adaptation | None) -> Chart:
    """Show validation accuracy by epoch, the measurement before and after, and what a head alone would have reached."""
    last = of_kind(lines, StepLine)[-1].step
    found = [
        (e.step, 100 * e.validation_accuracy) for e in of_kind(lines, EpochLine) if e.validation_accuracy is not None
    ]
    drawn, notes, levels = [], [], []
    if found:
        drawn.append(Line("validation", *_apart(found), colour=WARNING, width=1.2, dots=7))
    if report is not None and report.accuracy.before is not None and report.accuracy.after is not None:
        ends = [100 * report.accuracy.before, 100 * report.accuracy.after]
        drawn.append(Line(f"{report.measured_on}, before and after", [0, last], ends, width=0, dots=10))
        notes = [Note(x, y, f"{y:.1f} %", is_left=x > 0) for x, y in zip([0, last], ends, strict=True)]
        if report.linear_probe is not None and report.linear_probe.accuracy is not None:
            probe = 100 * report.linear_probe.accuracy
            levels.append(Level(f"linear probe ({report.measured_on}), %", probe, QUIET, is_dashed=True))
    return _over_steps(lines, "accuracy, %", drawn, (0, 104), levels=levels, notes=notes)


def plasticity(lines: list[Told]) -> Chart:
    """Show the median score of each kind of component over the run, as the run itself measured it."""
    scored = [line for line in of_kind(lines, ScoresLine) if line.kinds]
    steps, kinds = [line.step for line in scored], list(scored[0].kinds)
    colours = dict(zip(kinds, itertools.cycle(_KINDS), strict=False))
    drawn = [
        Line(kind, steps, [line.kinds.get(kind) for line in scored], colour=colours[kind], width=1.4, dots=7)
        for kind in kinds
    ]
    most = max(score for line in scored for score in line.kinds.values())
    return _over_steps(lines, "median score", drawn, (0, 1.1 * most))


def pace(lines: list[Told]) -> Chart:
    """Show seconds a step, and the temperature where the machine shows one."""
    steps = of_kind(lines, StepLine)
    seconds = [step.seconds for step in steps]
    drawn = [Line("seconds a step", [step.step for step in steps], seconds, width=1.2)]
    warm = [(step.step, step.celsius) for step in steps if step.celsius is not None]
    if warm:
        drawn.append(Line("°C", *_apart(warm), colour=WARNING, width=1.2, is_second=True))
    second = "°C" if warm else ""
    return _over_steps(lines, "seconds a step", drawn, (0, 1.05 * max(seconds) or 1.0), second_label=second)


def _over_steps(
    lines: list[Told],
    label: str,
    drawn: list[Line],
    y_range: tuple[float, float],
    *,
    second_label: str = "",
    levels: list[Level] | tuple[()] = (),
    notes: list[Note] | tuple[()] = (),
) -> Chart:
    """Return a chart over optimizer steps, with marks where the rung changed and where the run was resumed."""
    last = max(of_kind(lines, StepLine)[-1].step, 1)
    marks = [Mark(change.step, QUIET) for change in of_kind(lines, RungLine)]
    marks += [Mark(run.step, QUIET, is_dashed=False) for run in of_kind(lines, RunLine)[1:]]
    return Chart(
        x_label="optimizer step",
        y_label=label,
        lines=drawn,
        x_range=(-0.01 * last, 1.01 * last),
        y_range=y_range,
        second_label=second_label,
        levels=levels,
        marks=marks,
        notes=notes,
    )


def _apart(points: list[tuple[int, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _known(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Return an exponential mean over about a twentieth of the steps, without the bias of its start."""
    keep = 1 - 1 / max(len(values) / 20, 1.0)
    result, mean, weight = np.empty_like(values), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        result[i] = mean / weight if weight else np.nan
    return result
