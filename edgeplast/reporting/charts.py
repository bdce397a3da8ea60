"""A chart as data: what it shows, not how it is drawn; on a page by uPlot, in a picture by matplotlib.

A page needs no matplotlib, for a device has none. It holds the numbers and one small script, uPlot (https://github.com/leeoniya/uPlot,
MIT, version 1.6.32, 51 kB, in ``uplot/`` with its licence), which draws them in whatever opens the page, as wide as the
window is; nothing is fetched. A picture (``--png``) and ``.plot()`` are drawn of the same data by matplotlib.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgeplast.reporting.colours import ACCENT

_SCRIPTS = Path(__file__).parent / "uplot"
_DIGITS = 5


@dataclass(frozen=True)
class Line:
    """Values over a rising x.

    Attributes:
        label: in the legend; empty for none.
        x: rising.
        y: as many; None where there is none.
        colour: as ``#rrggbb``.
        width: of the line in pixels; 0 for dots alone.
        dots: size of a dot in pixels at each value; 0 for none.
        sizes: of each dot in place of that.
        is_hollow: whether those dots are rings.
        is_faint: drawn behind, lightly.
        is_filled: down to 0, lightly.
        is_dashed: whether the line is.
        is_second: read on the axis to the right.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    colour: str = ACCENT
    width: float = 1.6
    dots: float = 0
    sizes: Sequence[float] = ()
    is_hollow: bool = False
    is_faint: bool = False
    is_filled: bool = False
    is_dashed: bool = False
    is_second: bool = False


@dataclass(frozen=True)
class Level:
    """A horizontal line: ``allowed, MiB`` at 256."""

    label: str
    value: float
    colour: str
    is_dashed: bool = False


@dataclass(frozen=True)
class Mark:
    """A vertical line: at a change of rung, dashed, or where a run was resumed."""

    x: float
    colour: str
    is_dashed: bool = True


@dataclass(frozen=True)
class Span:
    """A stroke from one point to another: a 95 % interval, the bar at a median."""

    x: tuple[float, float]
    y: tuple[float, float]
    colour: str
    width: float = 2.0


@dataclass(frozen=True)
class Note:
    """Words at a point, to its right or left; on a page where there is room for them."""

    x: float
    y: float
    text: str
    colour: str = ACCENT
    is_left: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over one x.

    Attributes:
        x_label: below.
        y_label: to the left, with its unit.
        lines: those to draw.
        x_range: of the axis.
        y_range: of the axis.
        rows: names of y = 0, 1, …, the first on top; without them y is a number that rises upwards.
        is_log: whether x is on a logarithmic scale; all x are then positive.
        second_label: to the right, of the lines that are read there.
        levels: across.
        marks: upright.
        spans: strokes.
        notes: words.
        pixels: height on a page.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    rows: Sequence[str] = ()
    is_log: bool = False
    second_label: str = ""
    levels: Sequence[Level] = ()
    marks: Sequence[Mark] = ()
    spans: Sequence[Span] = ()
    notes: Sequence[Note] = field(default_factory=tuple)
    pixels: int = 280


def on_a_page(chart: Chart) -> str:
    """Return a chart as HTML: its numbers, which :func:`script` draws when the page is opened."""
    # A name may hold "</script>" or "<!--<script", and either would change where the element ends.
    # Numbers of five digits are more than a screen shows.
    data = msgspec.json.encode(_short(msgspec.to_builtins(chart))).decode().replace("<", "\\u003c")
    return f'<div class=chart><script type="application/json">{data}</script></div>'


def script() -> str:
    """Return what draws all charts of a page, as HTML: uPlot with its notice, its style, and our few lines."""
    library = (_SCRIPTS / "uPlot.iife.min.js").read_text(encoding="utf-8")
    style = (_SCRIPTS / "uPlot.min.css").read_text(encoding="utf-8")
    notice = (_SCRIPTS / "LICENSE").read_text(encoding="utf-8").strip()
    drawing = (_SCRIPTS.parent / "charts.js").read_text(encoding="utf-8")
    return (
        f"<style>{style}</style><noscript><p>The charts of this page are drawn by a script in it; this browser runs "
        f"none.</p></noscript><script>/*! uPlot\n{notice}\n*/\n{library}</script><script>{drawing}</script>"
    )


def _short(value: Any) -> Any:
    """Return plain data with numbers cut to what can be seen; what is no number (NaN) is none."""
    if isinstance(value, float):
        short = float(f"{value:.{_DIGITS}g}")
        return short if math.isfinite(short) else value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _short(entry) for key, entry in value.items()}
    return [_short(entry) for entry in value] if isinstance(value, list | tuple) else value
