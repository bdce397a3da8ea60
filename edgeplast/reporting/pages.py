"""A page: one HTML file that opens without network and needs no matplotlib, and the same as one PNG, which does."""

from __future__ import annotations

import html
import io
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.errors import InputError, missing_drawing
from edgeplast.files import write_bytes
from edgeplast.reporting import charts
from edgeplast.words import occurring

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    from edgeplast.reporting.charts import Chart

Draw = Callable[["FigureBase"], None]
Drawing = tuple[float, float, Draw]
"""Width and height in inches, and what draws into a figure of that size with matplotlib."""

WIDTH_INCHES = 10.0


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: above it.
        explanation: below the title.
        content: HTML that stands on the page.
        drawings: for the picture.
    """

    title: str
    explanation: str
    content: str
    drawings: list[Drawing]


def chart_section(title: str, explanation: str, chart: Chart, inches: float) -> Section:
    """Return a section with one chart.

    Args:
        title: above it.
        explanation: below the title.
        chart: to draw.
        inches: its height in a picture.
    """

    def draw(figure: FigureBase) -> None:
        from edgeplast.reporting import chart_figures

        chart_figures.draw(figure, chart)

    return Section(title, explanation, charts.on_a_page(chart), [(WIDTH_INCHES, inches, draw)])


@dataclass(frozen=True)
class Page:
    """What a report consists of.

    Attributes:
        title: of the page.
        caption: above the picture.
        facts: what is said first, name and value.
        notes: below the facts.
        sections: what is shown, from above.
        appendix: HTML below all else.
    """

    title: str
    caption: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Sequence[Section]
    appendix: str = ""


def write_page(page: Page, into: Path, png: Path | None = None) -> None:
    """Write a page.

    Args:
        page: what it shows.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
        InputError: a file cannot be written; what was there stays.
    """
    picture = b"" if png is None else _picture(page)
    text = _html(page).encode()
    write_bytes(into, text)
    if png is not None:
        write_bytes(png, picture)


def _html(page: Page) -> str:
    body = (
        f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.explanation)}</p>{section.content}"
        "</section>"
        for section in page.sections
    )
    shown = "".join(body)
    script = charts.script() if any("<div class=chart>" in section.content for section in page.sections) else ""
    title = html.escape(page.title)
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in page.facts)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in page.notes)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{title}</h1><table class=facts>{rows}</table>{f'<ul>{notes}</ul>' if notes else ''}"
        f"{shown}{page.appendix}{_words(page, shown)}</main>{script}</body></html>\n"
    )


def _words(page: Page, body: str) -> str:
    """Return what the words mean that stand on a page, folded away: it may be read where there is no network."""
    said = [
        *itertools.chain(*page.facts),
        *page.notes,
        re.sub(r"<script.*?</script>|<[^>]*>", " ", body + page.appendix),
    ]
    try:
        found = occurring(" ".join(said))
    except InputError:
        return ""
    if not found:
        return ""
    entries = "".join(f"<dt>{html.escape(word)}</dt><dd>{html.escape(text)}</dd>" for word, text in found.items())
    return f"<section><details><summary>Words on this page</summary><dl>{entries}</dl></details></section>"


def _picture(page: Page) -> bytes:
    """Draw all sections below one another into one PNG."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_drawing(error, "a picture needs it") from error
    from edgeplast.reporting.style import STYLE

    with matplotlib.rc_context(STYLE):
        return _drawn(page)


def _drawn(page: Page) -> bytes:
    from matplotlib.figure import Figure

    rows: list[tuple[str, list[tuple[float, float, Draw]]]] = []
    for section in page.sections:
        for k in range(0, len(section.drawings), 3):
            rows.append((section.title if k == 0 else "", section.drawings[k : k + 3]))
    heights = [max(h for _, h, _ in drawings) + (0.45 if title else 0) for title, drawings in rows]
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(page.caption, x=0.01, ha="left", fontsize=14)
    strips = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)
    for (title, drawings), strip in zip(rows, strips[:, 0], strict=True):
        if title:
            strip.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
        cells = strip.subfigures(1, 3 if drawings[0][0] < WIDTH_INCHES / 2 else 1, squeeze=False)
        for (_, _, draw), cell in zip(drawings, cells[0], strict=False):
            draw(cell)
    into = io.BytesIO()
    figure.savefig(into, format="png", dpi=110, facecolor="white")
    return into.getvalue()


CSS = """
body{margin:0;background:#fff;color:#222;font:15px/1.5 system-ui,"Segoe UI",Helvetica,Arial,sans-serif}
main{max-width:1040px;margin:0 auto;padding:28px 20px 60px}
h1{font-size:24px;margin:0 0 12px} h2{font-size:17px;margin:36px 0 2px}
p{margin:2px 0 10px;color:#555;max-width:76ch}
ul{color:#555;font-size:13.5px;padding-left:20px}
.row{display:flex;flex-wrap:wrap;gap:6px 28px}
table{border-collapse:collapse} .facts th{text-align:left;font-weight:600;padding:2px 18px 2px 0;white-space:nowrap;
vertical-align:top;color:#555} .facts td{padding:2px 0}
@media(max-width:700px){.facts th{white-space:normal;overflow-wrap:anywhere;max-width:40vw}}
.wide{overflow-x:auto} .numbers{font-size:12px} .numbers td{text-align:right;padding:2px 8px;white-space:nowrap}
.numbers th{text-align:left;padding:2px 8px 2px 0;white-space:nowrap} .numbers tr:nth-child(even){background:#f6f8fa}
.numbers tr:first-child th{white-space:normal;vertical-align:bottom} .numbers tr:first-child th+th{text-align:right}
.chart{width:100%;min-width:0;margin-top:6px} .chart .u-legend{text-align:left;margin:0 0 0 44px;font-size:12.5px}
.chart .u-legend th{font-weight:400} .chart .u-inline.u-live th::after{content:""} .chart .u-legend tr{margin-right:8px}
.confusion{font-size:12px} .confusion th{text-align:left;font-weight:400;padding:2px 8px 2px 0;white-space:nowrap}
.confusion td{text-align:center;min-width:26px;height:24px;padding:0 3px}
.confusion tr:first-child td{vertical-align:bottom;height:auto}
.confusion tr:first-child th{color:#777;vertical-align:bottom}
.confusion td>span{writing-mode:vertical-rl;transform:rotate(180deg);padding:4px 0;white-space:nowrap}
.blocks{font-size:12px} .blocks th{text-align:left;font-weight:400;padding:1px 10px 1px 0;white-space:nowrap}
.blocks td{min-width:22px;height:18px;padding:1.5px;text-align:center;color:#777}
.blocks div{display:flex;gap:1px;height:16px}
.blocks div>i{flex:1;border-radius:1px;min-width:3px} .blocks td:nth-child(2){padding-right:8px}
.blocks td:last-child{padding-left:8px} .keys span{margin-right:16px;font-size:12.5px}
.keys i{display:inline-block;width:12px;height:12px;margin-right:6px;vertical-align:-1px}
@media(max-width:700px){.blocks{font-size:10px} .blocks td{min-width:11px;padding:1px} .blocks th{padding-right:4px}}
@media print{*{print-color-adjust:exact;-webkit-print-color-adjust:exact} section{break-inside:avoid}}
.heat{font-size:11px} .heat th{text-align:left;font-weight:400;padding:1px 10px 1px 0;white-space:nowrap}
.heat td{height:22px;min-width:22px;padding:0 3px;text-align:center;border:1px solid #fff} .heat td.no{color:#777}
.heat small{display:block;color:inherit;font-size:9px;line-height:1.1;padding:0 4px 2px;white-space:nowrap}
.heat td>span{writing-mode:vertical-rl;transform:rotate(180deg);padding:4px 0;white-space:nowrap}
.heat em{font-style:normal} .small td{height:12px;min-width:7px;padding:0;border-width:0} .small th{font-size:10px}
.scale{font-size:12px;color:#777} .scale i{display:inline-block;width:120px;height:9px;margin:0 8px}
.ranks{font-size:12px;width:100%} .ranks th{text-align:left;font-weight:400;padding:1px 12px 1px 9px;white-space:nowrap}
.ranks tr:first-child th{color:#777;vertical-align:bottom;white-space:normal} .ranks th:nth-child(2){width:60%}
.ranks td{text-align:right;padding:1px 6px;white-space:nowrap} .ranks div{position:relative;height:14px;min-width:70px}
.ranks div>*{position:absolute;top:6px;height:2px;background:#8fb3d9}
.ranks div>b{top:3.5px;height:7px;width:7px;margin-left:-3.5px;border-radius:4px;background:#1f5fa8}
.ranks .up,.ranks .down{background:linear-gradient(#bbb,#bbb) no-repeat left top/3px 50%}
.ranks .down{background-position:left bottom} .ranks .up.down{background-size:3px 100%}
@media(max-width:700px){.heat td{min-width:11px;padding:0} .heat td>em{display:none} .heat th{padding-right:4px}
.ranks{font-size:11px} .ranks th{padding-right:5px} .ranks td{padding:1px 3px} .ranks small{display:none}}
pre{overflow-x:auto;background:#f6f8fa;padding:10px 14px;font-size:12.5px;line-height:1.45}
dt{font-weight:600;margin-top:8px} dd{margin:0;color:#555;max-width:76ch} dl{font-size:13.5px}
summary{cursor:pointer;color:#1f5fa8;margin-top:30px} small{color:#888}
"""
