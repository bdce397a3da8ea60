"""The page of a comparison: what each way to train was worth, what it took, and how sure that is."""

from __future__ import annotations

import html
from pathlib import Path

from edgeplast.comparison import OUTCOMES, Candidate, Comparison, points
from edgeplast.reporting import comparison_charts as charts
from edgeplast.reporting.pages import Page, Section, chart_section, write_page
from edgeplast.units import counted, format_bytes, format_seconds

_NAMES_SHOWN = 6


def comparison_report(found: Comparison, into: Path, png: Path | None = None) -> None:
    """Write the page of a comparison.

    Args:
        found: what ``edgeplast compare`` measured.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
        InputError: a file cannot be written; what was there stays.
    """
    title = f"What should learn? {found.model}"
    page = Page(
        title=title,
        caption=title,
        facts=_facts(found),
        notes=_notes(found),
        sections=_sections(found),
        appendix=_numbers(found),
    )
    write_page(page, into, png)


def _facts(found: Comparison) -> list[tuple[str, str]]:
    rounds = [
        f"{counted(len(r.candidates), 'candidate')}, {r.pictures} pictures, {counted(r.epochs, 'epoch')}, "
        f"{counted(r.seeds, 'seed')}"
        for r in found.rounds
    ]
    return [
        ("verdict", found.verdict),
        ("plan", f"{found.chosen}: {_trained(found.candidate(found.chosen))}"),
        ("data", f"{found.data}, {len(found.classes)} classes"),
        (
            "pictures",
            f"{found.learning} to learn from, {found.held_out} of {found.held_out_from} held out to compare on",
        ),
        ("budget", str(found.budget)),
        *((f"round {number}", text) for number, text in enumerate(rounds, start=1)),
        ("time", f"{format_seconds(found.seconds)} of {found.minutes:g} min; ended because {found.stopped_because}"),
        ("runtime", found.runtime),
    ]


def _notes(found: Comparison) -> list[str]:
    notes = [
        f"Intervals are {found.confidence:.0%} for all comparisons of a round together (Bonferroni), over pictures and "
        "seeds, paired: all candidates saw the same pictures with the same seeds.",
        "The one that is chosen takes the least time an epoch of those not shown to be worse than the best.",
        "Accuracies choose between candidates; that of the one chosen is a little flattered by it. "
        "For a figure to report, evaluate on pictures that took no part.",
    ]
    return notes + [f"{c.name} failed: {c.note}" for c in found.candidates if c.outcome == "failed"]


def _sections(found: Comparison) -> list[Section]:
    rows = sum(c.accuracy is not None for c in found.candidates)
    if not rows:
        return []
    early = any(0 < c.round < len(found.rounds) for c in found.candidates)
    hollow = " Hollow: dropped in an early round, of fewer pictures or epochs; its accuracy is of that round." * early
    return [
        chart_section(
            "Accuracy against memory",
            f"Mean over seeds; the bar is the interval of the paired difference to {found.best}.{hollow}",
            charts.against_peak(found),
            3.8,
        ),
        chart_section(
            "Accuracy against time",
            "One pass over all pictures to learn from, by the median step of the fastest run.",
            charts.against_seconds(found),
            3.8,
        ),
        chart_section(
            f"Difference to {found.best}",
            "In pairs of runs on the same pictures with the same seeds, in the last round that both ran. "
            "What lies left of zero with its whole bar was shown to be worse.",
            charts.differences(found),
            0.9 + 0.4 * rows,
        ),
    ]


def _numbers(found: Comparison) -> str:
    """Return every number of the page as a table."""
    heads = (
        "candidate", "outcome", "accuracy", "calibration error", f"to {found.best}, points", "forgot, points",
        "runs", "peak, predicted",
        "peak, measured", "an epoch", "parameters",
    )  # fmt: skip
    body = "".join(f"<tr>{_cells(found, candidate)}</tr>" for candidate in found.candidates)
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    table = f"<div class=wide><table class=numbers><tr>{head}</tr>{body}</table></div>"
    trained = "".join(
        f"<tr><th>{html.escape(', '.join((c.name, *c.also)))}</th><td>{html.escape(_trained(c))}</td></tr>"
        for c in found.candidates
    )
    what = f"<section><h2>What each trains</h2><table class=facts>{trained}</table></section>"
    return f"{what}<section><h2>All numbers</h2>{table}</section>"


def _cells(found: Comparison, c: Candidate) -> str:
    runs = "–"
    if c.round:
        of = found.rounds[c.round - 1]
        runs = f"{c.seeds} × {of.pictures} pictures × {counted(of.epochs, 'epoch')}"
    cells = [
        OUTCOMES[c.outcome],
        "–" if c.accuracy is None else f"{c.accuracy:.1%}",
        "–" if c.calibration_error is None else f"{c.calibration_error:.3f}",
        "–" if c.difference is None else str(c.difference),
        points(c.lost_points),
        runs,
        format_bytes(c.predicted_peak_bytes),
        "–" if c.measured_peak_bytes is None else format_bytes(c.measured_peak_bytes),
        "–" if c.epoch_seconds is None else format_seconds(c.epoch_seconds),
        f"{c.parameters:,}",
    ]
    return f"<th>{html.escape(c.name)}</th>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)


def _trained(candidate: Candidate) -> str:
    more = len(candidate.trained) - _NAMES_SHOWN
    shown = ", ".join(candidate.trained[:_NAMES_SHOWN])
    return f"{shown} and {more} more" if more > 0 else shown
