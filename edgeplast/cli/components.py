"""Components of any model as a table: blocks down, kinds across where blocks share them."""

from __future__ import annotations

from collections.abc import Callable

from edgeplast.outline import Outline

_MOST_COLUMNS = 7


def component_rows(
    outline: Outline, cell: Callable[[str], str]
) -> tuple[tuple[str, ...], list[tuple[str, ...]], list[str]]:
    """Return column heads, a row a block, and the names of components outside blocks.

    Where blocks have too many kinds for a table of 80 columns, there is a row a component.

    Args:
        outline: of the model.
        cell: what is said of a component, by its name.
    """
    inside = [c for c in outline.components if c.block is not None]
    outside = [c.name for c in outline.components if c.block is None]
    kinds = list(dict.fromkeys(c.kind for c in inside))
    twice = len({(c.block, c.kind) for c in inside}) < len(inside)
    if len(kinds) > _MOST_COLUMNS or twice:
        return ("block", "component", ""), [(str(c.block), c.name, cell(c.name)) for c in inside], outside
    rows: list[tuple[str, ...]] = []
    for block in range(outline.blocks):
        here = {c.kind: c.name for c in inside if c.block == block}
        rows.append((_common(list(here.values())), *(cell(here[k]) if k in here else "" for k in kinds)))
    return ("block", *kinds), rows, outside


def _common(names: list[str]) -> str:
    """Return the path that all share: ``blocks.3``."""
    steps = [name.split(".") for name in names]
    shared = []
    for level in zip(*steps, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    whole = ".".join(shared)
    return whole if len(names) > 1 else whole.rpartition(".")[0] or whole
