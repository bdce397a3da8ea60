"""Scores as tables of a page: blocks × components as shades, the ranking with bars, how far methods agree."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

from edgeplast.reporting.agreement import Agreement, agreements
from edgeplast.reporting.colours import AGREE, SHADES, shade
from edgeplast.scores import ScoreTable
from edgeplast.units import format_count

MOST_NUMBERED = 16
"""Blocks and kinds up to which each cell of a heatmap shows its number."""

_DARK = 0.55
"""Of a shade, beyond which words on it are white."""


class Scale:
    """From scores to shares of a length or of a shade, 0 to 1: in powers of ten where all are positive and wide apart.

    Args:
        values: those to be shown; NaN where there is none.
        from_zero: whether 0 is the lower end where none is below.
    """

    def __init__(self, values: Iterable[float], *, from_zero: bool) -> None:
        known = [value for value in values if math.isfinite(value)] or [0.0]
        self.low, self.high = min(known), max(known)
        self.is_log = is_wide(known)
        if not self.is_log:
            self.low = min(self.low, 0.0) if from_zero else self.low
            self.high = self.high if self.high > self.low else self.low + 1.0

    def __call__(self, value: float) -> float:
        """Return the share of a score."""
        if self.is_log:
            value = max(value, self.low)
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def __str__(self) -> str:
        return f"{number(self.low)} to {number(self.high)}{', in powers of ten' if self.is_log else ''}"


def is_wide(values: Sequence[float]) -> bool:
    """Whether values are shown on a logarithmic scale: all are positive, and more than a factor of 30 apart."""
    return min(values) > 0 and max(values) > 30 * min(values)


def number(value: float) -> str:
    """Format a score in at most five characters where that is possible."""
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return f"{value:.3g}"
    return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def grid(table: ScoreTable, method: str) -> tuple[list[str], list[list[float]]]:
    """Return kinds of components, and for each the score in every block: of several the highest, NaN for none."""
    scores = table.by(method)
    kinds = list(dict.fromkeys(table.place(name)[1] for name in scores))
    blocks = 1 + max(table.place(name)[0] or 0 for name in scores)
    found = [[math.nan] * blocks for _ in kinds]
    for name, entry in scores.items():
        block, kind = table.place(name)
        row, at = found[kinds.index(kind)], block or 0
        row[at] = entry.score if math.isnan(row[at]) else max(row[at], entry.score)
    return kinds, found


def heatmap(table: ScoreTable, method: str, *, small: bool = False) -> str:
    """Return scores as blocks × components: a row a kind of component, a column a block; names come with the pointer.

    Args:
        table: of scores.
        method: which of them.
        small: without numbers, below the method's name.
    """
    kinds, found = grid(table, method)
    scale = Scale((value for row in found for value in row), from_zero=True)
    blocks = len(found[0])
    is_numbered = not small and blocks <= MOST_NUMBERED and len(kinds) <= MOST_NUMBERED
    rows = ""
    for kind, values in zip(kinds, found, strict=True):
        cells = "".join(
            _shaded(scale(value), f"block {block}, {kind}: {number(value)}", f"<em>{number(value)}</em>" * is_numbered)
            if math.isfinite(value)
            else "<td></td>"
            for block, value in enumerate(values)
        )
        rows += f"<tr><th>{html.escape(kind)}</th>{cells}</tr>"
    every = max(1, -(-blocks // 12))
    numbers = "".join(f"<td class=no>{block if block % every == 0 else ''}</td>" for block in range(blocks))
    if small:
        return f"<div><b>{html.escape(method)}</b><table class='heat small'>{rows}</table></div>"
    key = f"<p class=scale>{number(scale.low)}<i style='background:linear-gradient(90deg,{','.join(SHADES)})'></i>"
    key += f"{number(scale.high)}{', in powers of ten' if scale.is_log else ''}</p>"
    return f"{key}<div class=wide><table class=heat>{rows}<tr><th>block</th>{numbers}</tr></table></div>"


def _shaded(share: float, told: str, shown: str, colours: tuple[str, ...] = SHADES, *, dark: bool | None = None) -> str:
    ink = "#fff" if (share > _DARK if dark is None else dark) else "inherit"
    return (
        f"<td style='background:{shade(share, colours)};color:{ink}' title='{html.escape(told, quote=True)}'>"
        f"{shown}</td>"
    )


def ranking(table: ScoreTable, method: str, memory: Mapping[str, int]) -> str:
    """Return all components, best first: score with 95 % interval, parameters, and memory to train it alone.

    Args:
        table: of scores.
        method: which of them.
        memory: bytes that training each component alone adds to inference.
    """
    scores, order = table.by(method), table.ranking(method)
    reach = {name: 1.96 * scores[name].standard_error for name in order}
    ends = [scores[name].score + side * reach[name] for name in order for side in (-1, 0, 1)]
    if is_wide([scores[name].score for name in order]):  # an interval that reaches below zero is cut there
        ends = [end for end in ends if end >= min(scores[name].score for name in order)]
    scale = Scale(ends, from_zero=False)
    most, largest = max(memory[name] for name in order), max(scores[name].parameters for name in order)
    like_next, like_last = ({pair[side] for pair in table.ties(method)} for side in (0, 1))
    rows = ""
    for name in order:
        entry, sides = scores[name], [scale(scores[name].score + side * reach[name]) for side in (-1, 0, 1)]
        left, at, right = (100 * min(max(share, 0.0), 1.0) for share in sides)
        tied = "down " * (name in like_next) + "up" * (name in like_last)
        rows += (
            f"<tr><th class='{tied.strip()}'>{html.escape(name)}</th>"
            f"<td><div><i style='left:{left:.1f}%;width:{right - left:.1f}%'></i><b style='left:{at:.1f}%'></b></div>"
            f"</td><td>{number(entry.score)} <small>± {reach[name]:.2g}</small></td>"
            f"{_bar(entry.parameters, largest, format_count(entry.parameters))}"
            f"{_bar(memory[name], most, f'{memory[name] / 2**20:.1f}')}</tr>"
        )
    heads = ("component", f"score ± 95 %: {scale}", "", "parameters", "MiB to train")
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    return f"<div class=wide><table class=ranks><tr>{head}</tr>{rows}</table></div>"


def _bar(amount: int, most: int, shown: str) -> str:
    filled = 100 * amount / max(most, 1)
    return f"<td style='background:linear-gradient(90deg,#d3e3f4 {filled:.0f}%,transparent 0)'>{shown}</td>"


def agreement(table: ScoreTable) -> str:
    """Return Kendall's tau of every two methods, with the 95 % interval below it in small."""
    methods, found = table.methods, agreements(table)
    heads = "".join(f"<td class=no><span>{html.escape(method)}</span></td>" for method in methods[:-1])
    rows = ""
    for row, method in enumerate(methods[1:], start=1):
        cells = "".join(_tau(found[other, method], f"{method} and {other}") for other in methods[:row])
        rows += f"<tr><th>{html.escape(method)}</th>{cells}</tr>"
    return f"<div class=wide><table class=heat><tr><th></th>{heads}</tr>{rows}</table></div>"


def _tau(entry: Agreement, told: str) -> str:
    if math.isnan(entry.tau):
        return "<td class=no>–</td>"
    tau = f"{entry.tau:.2f}".replace("-0.00", "0.00")
    shown = f"{tau}<small>{entry.low:.2f} … {entry.high:.2f}</small>"
    return _shaded((entry.tau + 1) / 2, f"{told}: {tau}", shown, AGREE, dark=abs(entry.tau) > 0.65)
