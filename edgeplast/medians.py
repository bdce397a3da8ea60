"""Scores beside those of their own kind: between kinds of components lie factors, so the median of a kind is its 1."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

from edgeplast.outline import kind_of


def medians(scores: Mapping[str, float], kind: Callable[[str], str] = kind_of) -> dict[str, float]:
    """Return kind to the median of its scores, kinds in the order in which they first appear.

    Args:
        scores: component, or a part of one, to score.
        kind: of a name.
    """
    kinds: dict[str, list[float]] = {}
    for name, score in scores.items():
        kinds.setdefault(kind(name), []).append(score)
    return {name: statistics.median(of_kind) for name, of_kind in kinds.items()}


def over_medians(scores: Mapping[str, float], kind: Callable[[str], str] = kind_of) -> dict[str, float]:
    """Return each score over the median of its kind; 1 where that is not positive, and nothing can be told."""
    typical = medians(scores, kind)
    return {name: score / typical[kind(name)] if typical[kind(name)] > 0 else 1.0 for name, score in scores.items()}
