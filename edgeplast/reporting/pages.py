"""A page of drawings: one HTML file that opens without network, and the same drawings in one PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeplast.errors import missing_offline
from edgeplast.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase

    Draw = Callable[[FigureBase], None]

WIDTH_INCHES = 10.0


@dataclass(frozen=True)
class Section:
    """A titled part of a page.

    Attributes:
        title: above it.
        explanation: below the title.
        drawings: width and height in inches, and what draws into a figure of that size.
    """

    title: str
    explanation: str
    drawings: list[tuple[float, float, Draw]]


@dataclass(frozen=True)
class Page:
    """What a report consists of.

    Attributes:
        title: of the page.
        caption: above the picture.
        facts: what is said first, name and value.
        notes: below the facts.
        sections: the drawings; made when the page is written, under the report's style.
        appendix: HTML below all else.
    """

    title: str
    caption: str
    facts: Sequence[tuple[str, str]]
    notes: Sequence[str]
    sections: Callable[[], list[Section]]
    appendix: str = ""


def write_page(page: Page, into: Path, png: Path | None = None) -> None:
    """Write a page.

    Args:
        page: what it shows.
        into: the HTML file.
        png: also a picture of the same figures, if given.

    Raises:
        MissingExtraError: matplotlib is not installed.
        InputError: a file cannot be written; what was there stays.
    """
    try:
        import matplotlib
    except ModuleNotFoundError as error:
        raise missing_offline(error, "reports need it") from error
    from edgeplast.reporting.style import STYLE

    with matplotlib.rc_context(STYLE):
        sections = page.sections()
        text = _html(page, sections).encode()
        picture = _picture(page, sections) if png is not None else b""
    write_bytes(into, text)
    if png is not None:
        write_bytes(png, picture)


def _html(page: Page, sections: list[Section]) -> str:
    body = []
    for number, section in enumerate(sections):
        drawn = "".join(_svg(draw, w, h, f"{number}-{k}") for k, (w, h, draw) in enumerate(section.drawings))
        body.append(
            f"<section><h2>{html.escape(section.title)}</h2><p>{html.escape(section.explanation)}</p>"
            f"<div class=row>{drawn}</div></section>"
        )
    title = html.escape(page.title)
    rows = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in page.facts)
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in page.notes)
    return (
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<title>{title}</title><style>{CSS}</style></head><body><main>"
        f"<h1>{title}</h1><table class=facts>{rows}</table>{f'<ul>{notes}</ul>' if notes else ''}"
        f"{''.join(body)}{page.appendix}</main></body></html>\n"
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
pre{overflow-x:auto;background:#f6f8fa;padding:10px 14px;font-size:12.5px;line-height:1.45}
summary{cursor:pointer;color:#1f5fa8;margin-top:30px} small{color:#888}
"""
