"""The chart of a score report: the scores of each kind of component over the blocks."""

from __future__ import annotations

from edgeplast.medians import medians
from edgeplast.reporting.charts import Chart, Line, Span
from edgeplast.reporting.colours import ACCENT, INK
from edgeplast.reporting.score_tables import is_wide, number
from edgeplast.scores import ScoreTable


def distribution(table: ScoreTable, method: str) -> Chart:
    """Show the scores of each component type over the blocks, a dot a block, with the median as bar and number."""
    scores = table.by(method)
    kinds = list(dict.fromkeys(table.place(name)[1] for name in scores))
    values = {
        kind: sorted(entry.score for name, entry in scores.items() if table.place(name)[1] == kind) for kind in kinds
    }
    low, high = min(map(min, values.values())), max(map(max, values.values()))
    is_log = is_wide([low, high])
    if is_log:
        ends = (low / (high / low) ** 0.04, high * (high / low) ** 0.04)
    else:
        room = 0.04 * (high - low or abs(high) or 1.0)
        ends = (low - room, high + room)
    middle = medians({name: entry.score for name, entry in scores.items()}, lambda name: table.place(name)[1])
    return Chart(
        x_label=f"{method} score, one dot a block",
        y_label="",
        rows=[f"{kind} {number(median)}" for kind, median in middle.items()],
        lines=[
            Line("", found, [row] * len(found), colour=ACCENT, width=0, sizes=[6] * len(found))
            for row, found in enumerate(values.values())
        ],
        spans=[Span((m, m), (row - 0.3, row + 0.3), INK, 1.6) for row, m in enumerate(middle.values())],
        x_range=ends,
        y_range=(-0.6, len(kinds) - 0.4),
        is_log=is_log,
        pixels=70 + 30 * len(kinds),
    )
