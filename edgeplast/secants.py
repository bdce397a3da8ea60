"""Secant slopes between two pictures: which distances are none, and the ratio of two."""

from __future__ import annotations

import numpy as np

ROUNDING = 1e-6
"""Relative distance below which two values count as the same: ten float32 roundings. Two equal pictures of one batch
may differ by that much, as they lie in different rows; it is no distance."""


def ratios(moved: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Divide; NaN (no evidence) where the input was the same for both pictures."""
    distance = np.broadcast_to(distance, moved.shape)
    return np.divide(moved, distance, out=np.full(moved.shape, np.nan), where=distance > 0)
