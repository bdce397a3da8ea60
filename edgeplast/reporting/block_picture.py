"""What a plan trains, as a small picture of the model: a column a block, a row a kind of component."""

from __future__ import annotations

from matplotlib.figure import FigureBase
from matplotlib.patches import Patch, Rectangle

from edgeplast.plans import Plan
from edgeplast.reporting.block_layout import colour, layout, legend
from edgeplast.reporting.colours import INK, QUIET

_ASIDE = 1.3
"""Columns between the blocks and what lies outside of them."""


def draw(figure: FigureBase, plan: Plan) -> None:
    """Draw which components train and in how many bits the others are stored; what lies outside blocks, to the side."""
    found = layout(plan.outline)
    last = found.blocks - 1
    axes = figure.subplots()
    for (column, kind), names in found.cells.items():
        middle = -_ASIDE if column < 0 else last + _ASIDE if column > last else column
        width = 0.84 / len(names)  # several of a kind in one block stand side by side
        for number, name in enumerate(names):
            corner = (middle - 0.42 + number * width, found.rows.index(kind) - 0.4)
            axes.add_patch(Rectangle(corner, width, 0.8, facecolor=colour(plan, name), edgecolor="none"))
    axes.set_xlim(-2.0, last + 2.0)
    axes.set_ylim(len(found.rows) - 0.5, -0.5)
    axes.set_yticks(range(len(found.rows)), found.rows)
    every = max(1, -(-(last + 1) // 24))
    axes.set_xticks(range(0, last + 1, every))
    axes.set_xlabel("block (0 is nearest the input)" if last >= 0 else "", color=QUIET)
    axes.tick_params(length=0, labelcolor=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    handles = [Patch(facecolor=fill, label=meaning) for fill, meaning in legend(plan)]
    axes.legend(handles=handles, frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
