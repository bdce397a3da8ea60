"""What a plan trains, as a small picture of the model: a column a block, a row a kind of component."""

from __future__ import annotations

from matplotlib.figure import FigureBase
from matplotlib.patches import Patch, Rectangle

from edgeplast.outline import Outline
from edgeplast.plans import Plan
from edgeplast.reporting.style import ACCENT, INK, QUIET

FROZEN = {32: "#d9dde2", 8: "#e9ecef", 4: "#f4f5f7"}
"""What is frozen, lighter in fewer bits."""


def height(outline: Outline) -> float:
    """Inches that the picture wants."""
    return 1.3 + 0.27 * len(_rows(outline))


def draw(figure: FigureBase, plan: Plan) -> None:
    """Draw which components train and in how many bits the others are stored; what lies outside blocks, to the side."""
    outline = plan.outline
    rows = _rows(outline)
    last = max((c.block for c in outline.components if c.block is not None), default=-1)
    axes = figure.subplots()
    cells: dict[tuple[float, int], list[str]] = {}
    ended = False
    for component in outline.components:
        ended = ended or component.block is not None
        column = component.block if component.block is not None else (last + 1.3 if ended else -1.3)
        cells.setdefault((column, rows.index(component.kind)), []).append(component.name)
    for (column, row), names in cells.items():
        width = 0.84 / len(names)  # several of a kind in one block stand side by side
        for number, name in enumerate(names):
            planned = plan.components[name]
            colour = ACCENT if planned.trainable else FROZEN[planned.weight_bits]
            corner = (column - 0.42 + number * width, row - 0.4)
            axes.add_patch(Rectangle(corner, width, 0.8, facecolor=colour, edgecolor="none"))
    axes.set_xlim(-2.0, last + 2.0)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    every = max(1, -(-(last + 1) // 24))
    axes.set_xticks(range(0, last + 1, every))
    axes.set_xlabel("block (0 is nearest the input)" if last >= 0 else "", color=QUIET)
    axes.tick_params(length=0, labelcolor=INK)
    for side in axes.spines.values():
        side.set_visible(False)
    bits = sorted({c.weight_bits for c in plan.components.values() if not c.trainable}, reverse=True)
    legend = [Patch(facecolor=ACCENT, label="trains")]
    legend += [Patch(facecolor=FROZEN[count], label=f"frozen, {count} bits") for count in bits]
    axes.legend(handles=legend, frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))


def _rows(outline: Outline) -> list[str]:
    return list(dict.fromkeys(component.kind for component in outline.components))
