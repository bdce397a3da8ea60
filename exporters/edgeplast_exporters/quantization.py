"""Frozen matrices in 8 bits, a scale a row: arithmetic of storage; the graph pass that reads it is in ``graphs``."""

from __future__ import annotations

import numpy as np

from edgeplast.graphs.passes.dequantize import quantizable as quantizable
from edgeplast.graphs.passes.dequantize import quantize_frozen as quantize_frozen


def quantize_rows(weight: np.ndarray, most: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a float32 matrix (out, in) to int8, symmetrically, one scale per row.

    Args:
        weight: the matrix.
        most: the largest integer to use.

    Returns:
        int8 (out, in) in −most..most and float32 scales (out,); a row of zeros gets the scale 1, and no scale is
        smaller than float32 holds to full precision.
    """
    largest = np.abs(weight).max(axis=1)
    smallest = np.finfo(np.float32).tiny
    scale = np.where(largest > 0, np.maximum(largest / np.float32(most), smallest), 1).astype(np.float32)
    return np.clip(np.rint(weight / scale[:, None]), -most, most).astype(np.int8), scale
