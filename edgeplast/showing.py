"""Nouns in a notebook: a table of one, and its plot, for which the reporting room is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol

from edgeplast.errors import missing_drawing


class Plot(Protocol):
    """A matplotlib figure that shows itself in a notebook.

    Attributes:
        axes: of matplotlib, to change what is drawn.
    """

    axes: list[Any]

    def savefig(self, fname: Any, **how: Any) -> None:
        """Write it, in the format that the file's suffix names."""

    def _repr_svg_(self) -> str:
        """Return it as SVG."""


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], note: str = "", title: str = "") -> str:
    """Return a table as HTML.

    Args:
        columns: headings; none for a table without.
        rows: cells, shown as they are.
        note: below it.
        title: above it.
    """
    import html  # half a megabyte, of which a device has no need

    def row(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    body = "".join(row(cells, "td") for cells in rows)
    above = f"<p><b>{html.escape(title)}</b></p>" if title else ""
    below = f"<p>{html.escape(note)}</p>" if note else ""
    return f"{above}<table>{row(columns, 'th') if columns else ''}{body}</table>{below}"


def plotted(function: str, *noun: Any) -> Plot:
    """Return the figure that a function of ``edgeplast.reporting.plots`` draws.

    By name: a device knows the nouns, and must not see the room that imports matplotlib.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        figure: Plot = getattr(import_module("edgeplast.reporting.plots"), function)(*noun)
    except ModuleNotFoundError as error:
        raise missing_drawing(error, "plots need it") from error
    return figure
