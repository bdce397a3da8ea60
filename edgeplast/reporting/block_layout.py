"""Where each component of a model stands in the picture of its blocks, and that picture as a table for a page."""

from __future__ import annotations

import html
from dataclasses import dataclass

from edgeplast.outline import Outline
from edgeplast.plans import Plan
from edgeplast.reporting.colours import ACCENT

FROZEN = {32: "#d9dde2", 8: "#e9ecef", 4: "#f4f5f7"}
"""What is frozen, lighter in fewer bits."""


@dataclass(frozen=True)
class Layout:
    """A column a block, and one to either side for what lies outside of them; a row a kind of component.

    Attributes:
        rows: kinds, in the order in which they come.
        blocks: how many there are.
        cells: names by column (-1 before the blocks, ``blocks`` after them) and kind.
    """

    rows: tuple[str, ...]
    blocks: int
    cells: dict[tuple[int, str], list[str]]


def layout(outline: Outline) -> Layout:
    """Lay the components of a model out."""
    blocks = max((c.block for c in outline.components if c.block is not None), default=-1) + 1
    cells: dict[tuple[int, str], list[str]] = {}
    ended = False
    for component in outline.components:
        ended = ended or component.block is not None
        column = component.block if component.block is not None else (blocks if ended else -1)
        cells.setdefault((column, component.kind), []).append(component.name)
    return Layout(tuple(dict.fromkeys(c.kind for c in outline.components)), blocks, cells)


def inches(outline: Outline) -> float:
    """Height that the picture wants where it is drawn."""
    return 1.3 + 0.27 * len(layout(outline).rows)


def colour(plan: Plan, name: str) -> str:
    """Return what a component is filled with: whether it trains, or in how many bits it is stored."""
    planned = plan.components[name]
    return ACCENT if planned.trainable else FROZEN[planned.weight_bits]


def legend(plan: Plan) -> list[tuple[str, str]]:
    """Return colours and what they mean."""
    bits = sorted({c.weight_bits for c in plan.components.values() if not c.trainable}, reverse=True)
    return [(ACCENT, "trains"), *((FROZEN[count], f"frozen, {count} bits") for count in bits)]


def as_html(plan: Plan) -> str:
    """Return the picture as a table: several of a kind in one block stand side by side, names come with the pointer."""
    found = layout(plan.outline)
    columns = range(-1, found.blocks + 1)
    rows = "".join(
        f"<tr><th>{html.escape(kind)}</th>"
        + "".join(f"<td>{_cell(plan, found.cells.get((column, kind), []))}</td>" for column in columns)
        + "</tr>"
        for kind in found.rows
    )
    every = max(1, -(-found.blocks // 24))
    numbers = "".join(f"<td>{c if 0 <= c < found.blocks and c % every == 0 else ''}</td>" for c in columns)
    keys = "".join(f"<span><i style='background:{fill}'></i>{meaning}</span>" for fill, meaning in legend(plan))
    below = f"<tr><th>block</th>{numbers}</tr>" if found.blocks else ""
    return f"<div class=keys>{keys}</div><div class=wide><table class=blocks>{rows}{below}</table></div>"


def _cell(plan: Plan, names: list[str]) -> str:
    said = "".join(
        f"<i style='background:{colour(plan, name)}' title='{html.escape(name, quote=True)}'></i>" for name in names
    )
    return f"<div>{said}</div>"
