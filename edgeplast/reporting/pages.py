"""A page of drawings: one HTML file that opens without network, and the same drawings in one PNG."""

from __future__ import annotations

import contextlib
import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.errors import missing_offline
from edgeplast.files import write_bytes
from edgeplast.reporting import charts

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
        drawings: for the picture, and for the page where there is no content.
        content: HTML that stands on the page in their place; then the page needs no matplotlib.
    """

    title: str
    explanation: str
    drawings: list[Drawing]
    content: str = ""


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

    return Section(title, explanation, [(WIDTH_INCHES, inches, draw)], charts.on_a_page(chart))


@dataclass(frozen=True)
class Page:
    """What a report consists of.

    Attributes:
        title: of the page.
        caption: above the picture.
        facts: what is said first, name and value.
        notes: below the facts.
        sections: made when the page is written, under the report's style where matplotlib draws.
        appendix: HTML below all else.
        is_drawn: whether matplotlib draws some of it.
    """

    title: str
    caption: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Callable[[], list[Section]]
    appendix: str = ""
    is_drawn: bool = False


def write_page(page: Page, into: Path, png: Path | None = None) -> None:
    """Write a page.

    Args:
        page: what it shows.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: matplotlib is not installed, and it draws some of the page, or a picture is asked for.
        InputError: a file cannot be written; what was there stays.
    """
    with contextlib.ExitStack() as style:
        if png is not None or page.is_drawn:
            style.enter_context(_drawing("a picture needs it" if not page.is_drawn else "reports need it"))
        sections = page.sections()
        text = _html(page, sections).encode()
        picture = _picture(page, sections) if png is not None else b""
    write_bytes(into, text)
    if png is not None:
        write_bytes(png, picture)


def _drawing(why: str) -> contextlib.AbstractContextManager[None]:
    """Return the style that matplotlib draws in."""
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_offline(error, why) from error
    from edgeplast.reporting.style import STYLE

    return matplotlib.rc_context(STYLE)


def _html(page: Page, sections: list[Section]) -> str:
    body = []
    for number, section in enumerate(sections):
        shown = section.content
        if not shown:
            drawn = "".join(_svg(draw, w, h, f"{number}-{k}") for k, (w, h, draw) in enumerate(section.drawings))
            shown = f"<div class=row>{drawn}</div>"
        body.append(
            f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.explanation)}</p>{shown}</section>"
        )
    script = charts.script() if any("<div class=chart>" in section.content for section in sections) else ""
    title = html.escape(page.title)
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in page.facts)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in page.notes)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{title}</h1><table class=facts>{rows}</table>{f'<ul>{notes}</ul>' if notes else ''}"
        f"{''.join(body)}{page.appendix}</main>{script}</body></html>\n"
    )


def _svg(draw: Draw, width: float, height: float, salt: str) -> str:
    """Draw into an SVG element that can stand on a page with others.

    Ids that are referred to are hashed with the salt; all others (``patch_1``) would repeat and are dropped.
    """
    import matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    draw(figure)
    into = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": f"edgeplast-{salt}"}):
        figure.savefig(into, format="svg", metadata={"Date": None})
    text = into.getvalue()
    used = set(re.findall(r"#(\w+)", text))
    text = re.sub(r' id="([^"]+)"', lambda match: match.group(0) if match.group(1) in used else "", text)
    return text[text.index("<svg") :]


def _picture(page: Page, sections: list[Section]) -> bytes:
    """Draw all sections below one another into one PNG."""
    from matplotlib.figure import Figure

    rows: list[tuple[str, list[tuple[float, float, Draw]]]] = []
    for section in sections:
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
.row{display:flex;flex-wrap:wrap;gap:4px;overflow-x:auto} svg{max-width:100%;height:auto}
@media(max-width:700px){.row>svg{flex-shrink:0;max-width:none} .row>svg[viewBox^="0 0 720"]{width:640px}}
table{border-collapse:collapse} .facts th{text-align:left;font-weight:600;padding:2px 18px 2px 0;white-space:nowrap;
vertical-align:top;color:#555} .facts td{padding:2px 0}
.wide{overflow-x:auto} .numbers{font-size:12px} .numbers td{text-align:right;padding:2px 10px;white-space:nowrap}
.numbers th{text-align:left;padding:2px 10px 2px 0;white-space:nowrap} .numbers tr:nth-child(even){background:#f6f8fa}
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
pre{overflow-x:auto;background:#f6f8fa;padding:10px 14px;font-size:12.5px;line-height:1.45}
summary{cursor:pointer;color:#1f5fa8;margin-top:30px} small{color:#888}
"""
