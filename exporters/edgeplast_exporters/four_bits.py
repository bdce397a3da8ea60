"""Frozen matrices in 4 bits: blocks of 32 along the input, a scale each, two elements a byte.

Arithmetic of storage only; the graph pass that reads it is ``dequantize.py``. Values lie in −7..7, so that 0 is 0
and both signs reach equally far. ONNX keeps the elements of a matrix one after another, row by row, the first of each
two in the lower half of the byte (``INT4``), and ``DequantizeLinear`` knows scales by block since opset 21.
"""

from __future__ import annotations

import numpy as np

from edgeplast.bundle import BLOCK_OF_4_BITS

BLOCK = BLOCK_OF_4_BITS
"""Neighbouring inputs of one output that share a scale."""

_LARGEST = 7
_SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7)
"""Scales that are tried, relative to the one that reaches the largest element, where there are calibration images."""


def quantize_blocks(weight: np.ndarray, rows: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a float32 matrix (out, in) to 4 bits, symmetrically, one scale for 32 inputs of an output.

    Args:
        weight: the matrix.
        rows: float32 (n, in), samples of what it reads. With them the scale of each block is the one that changes
            the block's share of the output least; without, the one that reaches the largest element.

    Returns:
        int8 (out, in) in −7..7 and float32 scales (out, ⌈in / 32⌉); a block of zeros gets the scale 1.
    """
    outputs, inputs = weight.shape
    blocks = -(-inputs // BLOCK)
    padded = np.zeros((outputs, blocks * BLOCK), np.float32)
    padded[:, :inputs] = weight
    grouped = padded.reshape(outputs, blocks, BLOCK)
    largest = np.abs(grouped).max(axis=2)
    smallest = np.finfo(np.float32).tiny
    whole = np.where(largest > 0, np.maximum(largest / np.float32(_LARGEST), smallest), 1).astype(np.float32)
    if rows is None:
        scale = whole
    else:
        products = _products(rows, blocks)
        tried = [np.maximum(whole * np.float32(share), smallest) for share in _SHRUNK]
        errors = np.stack([_output_error(grouped, each, products) for each in tried])
        scale = np.choose(errors.argmin(axis=0), tried).astype(np.float32)
    return np.ascontiguousarray(_rounded(grouped, scale).reshape(outputs, -1)[:, :inputs].astype(np.int8)), scale


def pack(quantized: np.ndarray) -> np.ndarray:
    """Return the bytes of int8 values in −8..7, two each, the first in the lower half; an odd last one stands alone."""
    flat = quantized.ravel().astype(np.uint8) & 15
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << 4)


def float_matrix(quantized: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the float32 matrix (out, in) that integers and their scales stand for."""
    return quantized.astype(np.float32) * np.repeat(scale, BLOCK, axis=1)[:, : quantized.shape[1]]


def _rounded(grouped: np.ndarray, scale: np.ndarray) -> np.ndarray:
    rounded: np.ndarray = np.clip(np.rint(grouped / scale[:, :, None]), -_LARGEST, _LARGEST)
    return rounded


def _products(rows: np.ndarray, blocks: int) -> np.ndarray:
    """Return the mean of x·xᵀ within each block, (blocks, 32, 32)."""
    padded = np.zeros((len(rows), blocks * BLOCK), np.float32)
    padded[:, : rows.shape[1]] = rows
    grouped = padded.reshape(len(rows), blocks, BLOCK)
    mean: np.ndarray = np.einsum("nbi,nbj->bij", grouped, grouped, optimize=True) / np.float32(len(rows))
    return mean


def _output_error(grouped: np.ndarray, scale: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Return the mean squared change of each block's share of each output, (out, blocks)."""
    change = _rounded(grouped, scale) * scale[:, :, None] - grouped
    weighted = np.matmul(change.transpose(1, 0, 2), products)  # (blocks, out, 32)
    error: np.ndarray = np.einsum("boi,obi->ob", weighted, change)
    return error
