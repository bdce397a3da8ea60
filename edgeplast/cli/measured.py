"""What the command line says of accuracy, before and after and beside a linear probe, and of calibration."""

from __future__ import annotations

from edgeplast.adaptation import Adaptation, BeforeAfter
from edgeplast.cli.kept import when_unknown
from edgeplast.units import counted, format_seconds


def rows_of_accuracy(report: Adaptation) -> list[tuple[str, str]]:
    """Return the rows of what was measured on labelled pictures."""
    split = report.measured_on
    if not split:
        return []
    ends = (report.interval(report.accuracy.before), report.interval(report.accuracy.after))
    rows = [(f"accuracy ({split})", change(report.accuracy, ".1%"))]
    if any(ends):
        rows.append(("95 % interval", " → ".join("–" if end is None else between(end) for end in ends)))
    return [
        *rows,
        *rows_of_probe(report),
        ("calibration error", change(report.expected_calibration_error, ".3f")),
        ("temperature", _temperature(report)),
        ("unknown", when_unknown(report)),
    ]


def rows_of_scores(report: Adaptation) -> list[tuple[str, str]]:
    """Return what scores the run measured, the first and the last of each kind of component."""
    found = [scored for scored in report.scored if scored.kinds]
    if not found:
        return [("scores", f"none: {scored.why_none}") for scored in report.scored[:1]]
    ends = (found[0], found[-1])[: len(found)]
    kinds = ", ".join(
        f"{kind} {' → '.join(f'{scored.kinds.get(kind, 0.0):.3g}' for scored in ends)}" for kind in found[0].kinds
    )
    seconds = format_seconds(sum(scored.seconds for scored in report.scored))
    return [("scores", f"{kinds} (measured {counted(len(found), 'time')}, {seconds} in all)")]


def rows_of_probe(report: Adaptation) -> list[tuple[str, str]]:
    """Return what a head alone would have reached, or why nobody knows."""
    found = report.linear_probe
    if found is None:
        return []
    took = f"; it took {format_seconds(found.seconds)}" if found.seconds else ""
    return [("linear probe", f"{report.probe_in_words}{took}")]


def between(interval: tuple[float, float]) -> str:
    """Write an interval of accuracy: ``83.6 to 92.2``."""
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def change(figure: BeforeAfter, form: str) -> str:
    """Write a figure before and after."""
    return " → ".join("–" if value is None else format(value, form) for value in (figure.before, figure.after))


def _temperature(report: Adaptation) -> str:
    if report.temperature is None:
        return "none: no validation split to fit it on"
    without = report.calibration_error_without_temperature
    return f"{report.temperature:.2f}" + ("" if without is None else f" (calibration error without it {without:.3f})")
