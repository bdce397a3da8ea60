"""The charts of a comparison's page: what each way to train reached against what it took, and how sure that is."""

from __future__ import annotations

from collections.abc import Callable

from edgeplast.comparison import Candidate, Comparison
from edgeplast.reporting.charts import Chart, Line, Mark, Note, Span
from edgeplast.reporting.colours import ACCENT, INK, QUIET, WARNING

MIB = 1 << 20
_DOT = 11


def against_peak(found: Comparison) -> Chart:
    """Show accuracy against the measured peak, and the budget."""
    peaks = {c.name: (c.measured_peak_bytes or 0) / MIB for c in found.candidates if c.accuracy is not None}
    limit = None if found.budget.memory_bytes is None else found.budget.memory_bytes / MIB
    # One that is far beyond what anything took would leave no room for the rest: the page says it, above.
    shown = limit if limit is not None and limit <= 1.6 * max(peaks.values(), default=0.0) else None
    return _scatter(found, lambda c: peaks[c.name], "measured peak of the process, MiB", limit=shown)


def against_seconds(found: Comparison) -> Chart:
    """Show accuracy against the time of an epoch."""
    return _scatter(found, lambda c: c.epoch_seconds or 0.0, "seconds an epoch, on this machine", from_zero=True)


def differences(found: Comparison) -> Chart:
    """Show each candidate's paired difference to the best with its interval."""
    shown = [c for c in found.candidates if c.accuracy is not None]
    lines, spans, ends = [], [Span((0.0, 0.0), (-0.6, len(shown) - 0.4), INK, 1.0)], [0.0]
    for row, candidate in enumerate(shown):
        colour, gap = _colour(found, candidate), candidate.difference
        at = 0.0 if gap is None else 100 * gap.mean
        lines.append(Line("", [at], [row], colour=colour, width=0, sizes=[_DOT]))
        if gap is not None:
            spans.append(Span((100 * gap.low, 100 * gap.high), (row, row), colour))
            ends += [100 * gap.low, 100 * gap.high]
    return Chart(
        x_label=f"accuracy minus that of {found.best}, points",
        y_label="",
        rows=[f"{c.name}{_when(found, c)}" for c in shown],
        lines=lines,
        spans=spans,
        x_range=_around(ends, 0.06),
        y_range=(-0.6, len(shown) - 0.4),
        pixels=70 + 30 * len(shown),
    )


def _scatter(
    found: Comparison, across: Callable[[Candidate], float], label: str, *, limit: float | None = None,
    from_zero: bool = False,
) -> Chart:  # fmt: skip
    shown = [c for c in found.candidates if c.accuracy is not None]
    best = 100 * (found.candidate(found.best).accuracy or 0.0)
    lines, spans, notes, ends = [], [], [], list[float]()
    for candidate in shown:
        x, y, colour = across(candidate), 100 * (candidate.accuracy or 0.0), _colour(found, candidate)
        early = bool(_when(found, candidate))
        lines.append(Line("", [x], [y], colour=colour, width=0, sizes=[_DOT], is_hollow=early))
        notes.append(Note(x, y, candidate.name, colour))
        ends.append(y)
        if candidate.difference is not None and not early:
            reach = (best + 100 * candidate.difference.low, best + 100 * candidate.difference.high)
            spans.append(Span((x, x), reach, colour, 1.4))
            ends += reach
    xs = [across(c) for c in shown] + ([] if limit is None else [limit]) + ([0.0] if from_zero else [])
    if limit is not None:
        notes.append(Note(limit, min(ends), f"budget {limit:.0f} MiB", WARNING, is_left=True))
    across_range = _around(xs, 0.12)
    return Chart(
        x_label=label,
        y_label="accuracy on held-out pictures, %",
        lines=lines,
        spans=spans,
        marks=[] if limit is None else [Mark(limit, WARNING, is_dashed=False)],
        notes=notes,
        x_range=(0.0, across_range[1]) if from_zero else across_range,
        y_range=_around(ends, 0.14),
        pixels=340,
    )


def _around(values: list[float], share: float) -> tuple[float, float]:
    """Return a range with all of them in it, and so much of it beside them."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = share * (high - low) or max(abs(high) * share, 1.0)
    return low - room, high + room


def _when(found: Comparison, candidate: Candidate) -> str:
    """Say in which early round a candidate ran last."""
    return f", round {candidate.round}" if candidate.round < len(found.rounds) else ""


def _colour(found: Comparison, candidate: Candidate) -> str:
    if candidate.name == found.chosen:
        return ACCENT
    return INK if candidate.outcome == "not worse" else QUIET
