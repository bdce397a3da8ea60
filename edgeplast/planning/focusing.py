"""Focus: the most plastic kinds of components, in all blocks, or in as many of the last as fit; with room, more kinds.

The paper's high-plasticity focus (arXiv 2602.06883): plasticity differs between kinds of components far more than
between blocks, so what is chosen is kinds. A sum over single components mostly counts how many cheap ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from edgeplast.alternatives import ENOUGH, in_focus, kinds_by_plasticity, of_kind
from edgeplast.outline import Outline
from edgeplast.planning.estimates import Estimate

Fitting = Callable[[Sequence[str]], "Estimate | None"]
"""Names of what trains to the fastest way to run it within the budget; None: none fits."""


def focused(
    outline: Outline, scores: Mapping[str, float], always: Sequence[str], fastest: Fitting
) -> tuple[list[str], Estimate] | None:
    """Return what trains and how it runs; None: not even what always trains fits.

    Where the plastic kinds fit in all blocks, the others follow in the order of their plasticity, each whole, as long
    as images pass at least four at a time, or no fewer than before: slower steps are for the plastic kinds alone.

    Args:
        outline: of the model.
        scores: as of :func:`edgeplast.alternatives.kinds_by_plasticity`.
        always: what trains in every plan.
        fastest: how to run a set.
    """
    ranked = kinds_by_plasticity(outline, scores)
    kinds = {*in_focus(ranked)}
    inner = [outline.component(name) for kind in kinds for name in of_kind(outline, scores, kind)]

    def of_last(blocks: int) -> list[str]:
        first = outline.blocks - blocks
        return outline.in_order([*always, *(c.name for c in inner if c.block is not None and c.block >= first)])

    whole = outline.in_order([*always, *(c.name for c in inner)])
    way = fastest(whole)
    if way is not None:
        for kind in (kind for kind in ranked if kind not in kinds):
            more = outline.in_order([*whole, *of_kind(outline, scores, kind)])
            found = fastest(more)
            if found is None or found.micro_batch_size < min(ENOUGH, way.micro_batch_size):
                break
            whole, way = more, found
        return whole, way
    best, low, high = None, 0, outline.blocks
    while low <= high:
        blocks = (low + high + 1) // 2
        names = of_last(blocks)
        way = fastest(names)
        if way is None:
            high = blocks - 1
        else:
            best, low = (names, way), blocks + 1
    return best
