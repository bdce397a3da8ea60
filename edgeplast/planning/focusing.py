"""Focus: the most plastic kinds of components, in all blocks, or in as many of the last as fit.

The paper's high-plasticity focus (arXiv 2602.06883): plasticity differs between kinds of components far more than
between blocks, so what is chosen is kinds. A sum over single components mostly counts how many cheap ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from edgeplast.outline import Outline
from edgeplast.planning.estimating import Estimate

SHARE = 0.5
"""What a kind must reach of the top one's median score to be in focus. Between kinds lie factors: on ViT-Tiny fc1 3.0,
attn 0.4, fc2 0.2 with norms folded in; norm2 1.8, fc1 1.7, norm1 1.2, fc2 0.8, attn 0.2 without."""

Fitting = Callable[[Sequence[str]], "Estimate | None"]
"""Names of what trains to the fastest way to run it within the budget; None: none fits."""


def plastic_kinds(outline: Outline, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the kinds that are at least half as plastic as the most plastic one, to their medians, the highest first.

    Args:
        outline: of the model.
        scores: component to score, of the scored components between embedding and norms; those that are not positive
            do not count.
    """
    kinds: dict[str, list[float]] = {}
    for component in outline.components:
        if component.role == "inner" and scores.get(component.name, 0.0) > 0:
            kinds.setdefault(component.kind, []).append(scores[component.name])
    middle = {kind: median(of_kind) for kind, of_kind in kinds.items()}
    least = SHARE * max(middle.values(), default=0.0)
    return {kind: middle[kind] for kind in sorted(middle, key=lambda kind: -middle[kind]) if middle[kind] >= least}


def focused(
    outline: Outline, scores: Mapping[str, float], always: Sequence[str], fastest: Fitting
) -> tuple[list[str], Estimate] | None:
    """Return what trains and how it runs; None: not even what always trains fits.

    Args:
        outline: of the model.
        scores: as of :func:`plastic_kinds`.
        always: what trains in every plan.
        fastest: how to run a set.
    """
    kinds = plastic_kinds(outline, scores)
    inner = [c for c in outline.components if c.kind in kinds and c.role == "inner" and scores.get(c.name, 0.0) > 0]

    def of_last(blocks: int) -> list[str]:
        first = outline.blocks - blocks
        return outline.in_order([*always, *(c.name for c in inner if c.block is not None and c.block >= first)])

    whole = outline.in_order([*always, *(c.name for c in inner)])
    way = fastest(whole)
    if way is not None:
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
