"""The report of an adaptation: memory against the budget, loss, accuracy, what is taken for what, and pace."""

from __future__ import annotations

import html
import statistics
from pathlib import Path

from edgeplast.adaptation import Adaptation, BeforeAfter
from edgeplast.bundle import MANIFEST, REPORT, Manifest
from edgeplast.errors import InputError
from edgeplast.reporting import adaptation_charts as charts
from edgeplast.reporting import block_layout, evaluation_sections
from edgeplast.reporting.pages import WIDTH_INCHES, Page, Section, chart_section, write_page
from edgeplast.telemetry import (
    TELEMETRY,
    EpochLine,
    Line,
    RungLine,
    RunLine,
    ScoresLine,
    StepLine,
    of_kind,
    read_telemetry,
)
from edgeplast.units import format_bytes, format_seconds


def adaptation_report(folder: Path, into: Path, png: Path | None = None) -> None:
    """Write the report of an adapted bundle, or of a run that is not finished.

    Args:
        folder: an adapted bundle, or ``<output>.partial`` of a run that was interrupted or still runs.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
        InputError: the folder has no telemetry, or no step in it.
    """
    lines, report = read_run(folder)
    name = of_kind(lines, RunLine)[0].model
    title = f"Adaptation of {name}" + ("" if report else ", not finished")
    page = Page(
        title=title,
        caption=title,
        facts=_facts(lines, report),
        notes=_notes(lines, report),
        sections=[*_trained(folder), *_sections(lines, report)],
        appendix=_tables(report) + _repeating(report),
    )
    write_page(page, into, png)


def read_run(folder: Path) -> tuple[list[Line], Adaptation | None]:
    """Return a run's telemetry, and its report if it is finished.

    Raises:
        InputError: there is no telemetry, or no step in it.
    """
    if not (folder / TELEMETRY).is_file():
        raise InputError(
            f"{folder} has no {TELEMETRY}: give a scores file, or the folder that edgeplast adapt wrote "
            "(of an unfinished run the one that ends in .partial)."
        )
    lines = read_telemetry(folder / TELEMETRY)
    if not of_kind(lines, StepLine) or not of_kind(lines, RunLine):
        raise InputError(f"{folder / TELEMETRY} tells of no step yet; there is nothing to draw.")
    return lines, Adaptation.read(folder / REPORT) if (folder / REPORT).is_file() else None


def _facts(lines: list[Line], report: Adaptation | None) -> list[tuple[str, str]]:
    run, steps = of_kind(lines, RunLine), of_kind(lines, StepLine)
    seconds = statistics.median(step.seconds for step in steps)
    allowed = run[-1].allowed_bytes
    facts = [
        ("runtime", run[-1].runtime),
        ("trained", run[-1].rung if report is None else f"tier {report.tier}: {_briefly(report.trained)}"),
        ("memory allowed", "no limit" if allowed is None else format_bytes(allowed)),
        ("predicted peak", format_bytes(run[0].predicted_peak_bytes)),
        ("steps", f"{steps[-1].step}, median {format_seconds(seconds)}"),
    ]
    if report is None:
        return facts
    enforced = "" if report.memory.enforced_by == "nothing" else f", enforced by the {report.memory.enforced_by}"
    facts[3] = (
        "peak memory",
        f"{format_bytes(report.memory.measured_peak_bytes)} measured, "
        f"{format_bytes(report.memory.predicted_peak_bytes)} predicted{enforced}",
    )
    return [
        *_accuracy(report),
        *((f"of {name}", _change(found.accuracy)) for name, found in report.also.items()),
        ("images", ", ".join(f"{count} {name}" for name, count in report.images.items())),
        ("time", f"{format_seconds(report.seconds.total)}, of which training {format_seconds(report.seconds.train)}"),
        ("best epoch", f"{report.best_epoch} of {report.epochs} ({report.stopped_because})"),
        *facts,
    ]


def _briefly(trained: tuple[str, ...]) -> str:
    """Name a few components, and count the others: a picture shows all of them."""
    return ", ".join(trained) if len(trained) <= 6 else f"{len(trained)} components, {trained[0]} to {trained[-1]}"


def _repeating(report: Adaptation | None) -> str:
    """Return the run file as a part of the page."""
    if report is None or not report.run_file:
        return ""
    shown = html.escape(report.run_file)
    return (
        "<section><h2>Run it again</h2><p>Save as run.toml; then: edgeplast adapt --config run.toml</p>"
        f"<pre>{shown}</pre></section>"
    )


def _accuracy(report: Adaptation) -> list[tuple[str, str]]:
    """Return before, after, and what lies between a head that knows nothing and one that was only fitted."""
    if not report.measured_on:
        return []
    ends = " → ".join(map(report.with_interval, (report.accuracy.before, report.accuracy.after)))
    probe = [("linear probe", report.probe_in_words)] if report.linear_probe else []
    return [(f"accuracy ({report.measured_on})", f"{ends}, in brackets the 95 % interval"), *probe]


def _change(accuracy: BeforeAfter) -> str:
    return " → ".join("–" if value is None else f"{value:.1%}" for value in (accuracy.before, accuracy.after))


def _notes(lines: list[Line], report: Adaptation | None) -> list[str]:
    notes = [
        f"At step {change.step} from {change.before} to {change.after}: {change.reason}."
        for change in of_kind(lines, RungLine)
    ]
    notes += [
        f"Before epoch {line.epoch} no scores were measured: {line.why_none}."
        for line in of_kind(lines, ScoresLine)[:1]
        if line.why_none
    ]
    resumed = [run.step for run in of_kind(lines, RunLine)[1:]]
    if resumed:
        notes.append(f"Resumed at step {', '.join(map(str, resumed))}.")
    for name, found in report.also.items() if report is not None else ():
        if (worst := found.worst) is not None:
            became = "lost" if found.lost_points >= 0 else "won"
            most = f"{worst[0]} lost most: {worst[1]:.1f}"
            notes.append(f"Of {name} {abs(found.lost_points):.1f} points were {became}; {most}.")
    if report is not None and report.stopped_because == "forgot":
        notes.append(
            f"Stopped: another set had lost more than {report.options['keep_within']:g} points. The weights of epoch "
            f"{report.best_epoch} were kept."
        )
    if report is not None and report.unreadable:
        notes.append(f"{report.unreadable} pictures could not be read and were left out.")
    slowed = {reason for step in of_kind(lines, StepLine) for reason in step.slowed_by}
    if slowed:
        notes.append(f"The processor was slowed down by {', '.join(sorted(slowed))}.")
    return notes


def _tables(report: Adaptation | None) -> str:
    return "" if report is None or report.evaluation is None else evaluation_sections.tables(report.evaluation)


def _trained(folder: Path) -> list[Section]:
    """What the bundle's plan trains, as a picture; nothing where the folder has no manifest yet."""
    if not (folder / MANIFEST).is_file():
        return []
    plan = Manifest.read(folder / MANIFEST).plan

    def draw(figure: object) -> None:
        from edgeplast.reporting import block_picture

        block_picture.draw(figure, plan)  # type: ignore[arg-type]

    return [
        Section(
            "What trains",
            "Each component of the model, the input to the left and the head to the right: what the plan trains, and "
            "in how many bits the rest is stored. A smaller tier trains the rightmost of these.",
            block_layout.as_html(plan),
            [(WIDTH_INCHES, block_layout.inches(plan.outline), draw)],
        )
    ]


def _sections(lines: list[Line], report: Adaptation | None) -> list[Section]:
    steps, epochs = of_kind(lines, StepLine), of_kind(lines, EpochLine)
    sections = [
        chart_section(
            "Memory",
            "The largest resident set of the process during each step, against what is allowed and what was "
            "predicted before it began. Dashed verticals are changes of rung, others resumptions.",
            charts.memory(lines, report),
            3.0,
        ),
        chart_section(
            "Loss",
            "Mean training loss of each step, and smoothed; the validation loss at the end of each epoch.",
            charts.loss(lines),
            2.8,
        ),
    ]
    measured = report is not None and report.accuracy.after is not None
    if measured or any(epoch.validation_accuracy is not None for epoch in epochs):
        sections.append(
            chart_section(
                "Accuracy",
                "On the validation images at the end of each epoch, and on the images of the final measurement before "
                "the first step and with the weights that were kept; across, what a head alone reaches there, fitted "
                "on the features as they came (the linear probe).",
                charts.accuracy(lines, report),
                2.6,
            )
        )
    if any(line.kinds for line in of_kind(lines, ScoresLine)):
        sections.append(
            chart_section(
                "Plasticity",
                "What this device measured on its own pictures before an epoch: the median score of each kind of "
                "component. Dashed verticals are changes of rung, such as to the set of components that scores favour.",
                charts.plasticity(lines),
                2.6,
            )
        )
    if report is not None and report.evaluation is not None:
        sections += evaluation_sections.sections(report.evaluation)
    warm = any(step.celsius is not None for step in steps)
    shown = ", and the hottest sensor." if warm else "; this machine shows no temperature."
    return [*sections, chart_section("Pace", f"Seconds of each step{shown}", charts.pace(lines), 2.4)]
