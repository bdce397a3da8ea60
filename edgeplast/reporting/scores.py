"""The report of a score table: one HTML file that opens without network, and a PNG."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgeplast.reporting import score_tables
from edgeplast.reporting.pages import WIDTH_INCHES, Drawing, Page, Section, chart_section, write_page
from edgeplast.reporting.score_charts import distribution
from edgeplast.scores import ScoreTable

if TYPE_CHECKING:
    from matplotlib.figure import FigureBase


def score_report(table: ScoreTable, into: Path, png: Path | None = None, *, memory: Mapping[str, int]) -> None:
    """Write the report of a score table.

    Args:
        table: what ``edgeplast score`` measured.
        into: the HTML file.
        png: also a picture of the same figures, if given.
        memory: bytes that training each scored component alone adds to inference.

    Raises:
        MissingExtraError: a picture is asked for, and matplotlib is not installed.
        InputError: a file cannot be written; what was there stays.
    """
    name = table.outline.model
    page = Page(
        title=f"Scores of {name}",
        caption=f"Scores of {name} by {table.method}",
        facts=_facts(table),
        notes=table.notes,
        sections=_sections(table, memory),
        appendix=_numbers(table, memory),
    )
    write_page(page, into, png)


def _sections(table: ScoreTable, memory: Mapping[str, int]) -> list[Section]:
    """Return what is shown, from the heatmap to the agreement of methods."""
    main, rows = table.method, len({table.place(name)[1] for name in table.components})
    sections = [
        Section(
            "Blocks × components",
            f"Score by {main}; darker is higher, so more worth training by this method. Block 0 is nearest the input.",
            score_tables.heatmap(table, main),
            [_drawing(WIDTH_INCHES, 0.9 + 0.36 * rows, "heatmap", table, main)],
        ),
        chart_section(
            "By component type",
            "One dot a block; the bar, and the number beside the name, is the median.",
            distribution(table, main),
            0.7 + 0.34 * rows,
        ),
        Section(
            "Ranking, and what training costs",
            "Dots are scores with 95 % intervals; a grey bracket joins neighbours that the samples cannot tell "
            "apart. Memory is what training that component alone adds to inference of one image, with AdamW, without "
            "recomputation: activations of its own and all later blocks, gradients and optimizer state. Early "
            "blocks cost more than late ones because a gradient must travel back to them.",
            score_tables.ranking(table, main, memory),
            [_drawing(WIDTH_INCHES, 1.0 + 0.17 * len(table.components), "ranking", table, main, memory)],
        ),
    ]
    if table.others:
        count = len(table.methods)
        shown = "".join(score_tables.heatmap(table, method, small=True) for method in table.others)
        sections += [
            Section(
                "The other methods",
                "Each on a colour scale of its own, light is low.",
                f"<div class=row>{shown}</div>",
                [
                    _drawing(WIDTH_INCHES / 3 - 0.05, 1.55, "heatmap", table, method, small=True)
                    for method in table.others
                ],
            ),
            Section(
                "Do the methods agree?",
                "Kendall's τ between rankings, 1 the same order, -1 the opposite, with its 95 % confidence interval "
                f"below; over the components that both methods score (at most {len(table.components)}).",
                score_tables.agreement(table),
                [_drawing(min(WIDTH_INCHES, 2.6 + 0.66 * count), 1.3 + 0.4 * count, "tau_matrix", table)],
            ),
        ]
    return sections


def _drawing(width: float, height: float, name: str, *given: Any, **how: Any) -> Drawing:
    """Return a drawing of :mod:`~edgeplast.reporting.score_figures`, which a page alone does not import."""

    def draw(figure: FigureBase) -> None:
        from edgeplast.reporting import score_figures

        getattr(score_figures, name)(figure, *given, **how)

    return width, height, draw


def _facts(table: ScoreTable) -> list[tuple[str, str]]:
    outline, order = table.outline, table.ranking()
    channels, height, width = outline.input_shape
    samples = max((entry.samples for entry in table.components.values()), default=0)
    return [
        ("score", table.method),
        (
            "model",
            f"{len(outline.components)} components in {outline.blocks} blocks, "
            f"{sum(c.size for c in outline.components):,} parameters, images of {channels} × {height} × {width}",
        ),
        (
            "data",
            f"{len(table.classes)} classes: {', '.join(table.classes)}" if table.classes else "no class names",
        ),
        ("samples", f"{samples}, measured in {table.seconds.get(table.method, 0):.1f} s"),
        ("highest", ", ".join(order[:5])),
        ("lowest", ", ".join(order[-5:])),
        ("ties", f"{len(table.ties())} of {max(len(order) - 1, 0)} neighbours cannot be told apart"),
    ]


def _numbers(table: ScoreTable, memory: Mapping[str, int]) -> str:
    """Return every number of the report as a table that is folded away."""
    heads = "".join(f"<th>{html.escape(method)}</th>" for method in table.methods)
    names = list(dict.fromkeys(name for method in table.methods for name in table.by(method)))
    rows = []
    for name in names:
        entries = [table.by(method).get(name) for method in table.methods]
        parameters = next(entry.parameters for entry in entries if entry is not None)
        cells = "".join(
            "<td>–</td>" if e is None else f"<td>{e.score:.4g} <small>± {e.standard_error:.2g}</small></td>"
            for e in entries
        )
        rows.append(
            f"<tr><th>{html.escape(name)}</th><td>{parameters:,}</td><td>{memory[name] / 2**20:.1f}</td>{cells}</tr>"
        )
    return (
        "<section><details><summary>All numbers (score ± standard error)</summary><div class=wide><table class=numbers>"
        f"<tr><th>component</th><th>parameters</th><th>MiB to train</th>{heads}</tr>{''.join(rows)}</table></div>"
        "</details></section>"
    )
