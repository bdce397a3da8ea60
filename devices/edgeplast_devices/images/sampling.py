"""Some pictures of many, evenly spread and without chance: the same ones each time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np


def evenly_spread(count: int, most: int) -> np.ndarray:
    """Return which of so many are taken, int64, rising: ``most`` of them, or all where there are no more."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).astype(np.int64))


def of_each_label(labels: np.ndarray, most: Mapping[int, int]) -> np.ndarray:
    """Return which pictures are taken, int64, rising.

    Args:
        labels: integers (n,).
        most: label to how many of it, at most; of other labels none.
    """
    found = []
    for label, count in most.items():
        own = np.flatnonzero(labels == label)
        found.append(own[evenly_spread(len(own), count)])
    return np.sort(np.concatenate(found))
