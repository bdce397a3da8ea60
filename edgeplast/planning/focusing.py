"""Focus: the most plastic kinds of components, in all blocks, or in as many of the last as fit; with room, more kinds.

The paper's high-plasticity focus (arXiv 2602.06883): plasticity differs between kinds of components far more than
between blocks, so what is chosen is kinds. A sum over single components mostly counts how many cheap ones there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median

from edgeplast.outline import Outline
from edgeplast.planning.estimates import Estimate

SHARE = 0.5
"""What a kind must reach of the top one's median score to be in focus. Between kinds lie factors: on ViT-Tiny fc1 3.0,
attn 0.4, fc2 0.2 with norms folded in; norm2 1.8, fc1 1.7, norm1 1.2, fc2 0.8, attn 0.2 without."""

ENOUGH = 4
"""Micro-batches from this size on take the same time an image."""

Fitting = Callable[[Sequence[str]], "Estimate | None"]
"""Names of what trains to the fastest way to run it within the budget; None: none fits."""


def kinds_by_plasticity(outline: Outline, scores: Mapping[str, float]) -> dict[str, float]:
    """Return the kinds to their median scores, the most plastic first.

    Args:
        outline: of the model.
        scores: component to score, of the scored components between embedding and norms; those that are not positive
            do not count.
    """
    kinds = dict.fromkeys(c.kind for c in outline.components)
    scored = {kind: [scores[name] for name in _of_kind(outline, scores, kind)] for kind in kinds}
    middle = {kind: median(of_kind) for kind, of_kind in scored.items() if of_kind}
    return dict(sorted(middle.items(), key=lambda item: -item[1]))


def _of_kind(outline: Outline, scores: Mapping[str, float], kind: str) -> list[str]:
    return [c.name for c in outline.components if c.role == "inner" and c.kind == kind and scores.get(c.name, 0.0) > 0]


def focused(
    outline: Outline, scores: Mapping[str, float], always: Sequence[str], fastest: Fitting
) -> tuple[list[str], Estimate] | None:
    """Return what trains and how it runs; None: not even what always trains fits.

    Where the plastic kinds fit in all blocks, the others follow in the order of their plasticity, each whole, as long
    as images pass at least four at a time, or no fewer than before: slower steps are for the plastic kinds alone.

    Args:
        outline: of the model.
        scores: as of :func:`kinds_by_plasticity`.
        always: what trains in every plan.
        fastest: how to run a set.
    """
    ranked = kinds_by_plasticity(outline, scores)
    least = SHARE * next(iter(ranked.values()), 0.0)
    kinds = {kind for kind, score in ranked.items() if score >= least}
    inner = [outline.component(name) for kind in kinds for name in _of_kind(outline, scores, kind)]

    def of_last(blocks: int) -> list[str]:
        first = outline.blocks - blocks
        return outline.in_order([*always, *(c.name for c in inner if c.block is not None and c.block >= first)])

    whole = outline.in_order([*always, *(c.name for c in inner)])
    way = fastest(whole)
    if way is not None:
        for kind in (kind for kind in ranked if kind not in kinds):
            more = outline.in_order([*whole, *_of_kind(outline, scores, kind)])
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
