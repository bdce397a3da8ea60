"""Bytes that parameters take: frozen ones as stored, trainable ones with gradient and optimizer state."""

from __future__ import annotations

from edgeplast.architecture import Architecture
from edgeplast.components import EMBED, HEAD, block_of, type_of
from edgeplast.planning.sizes import block_sizes, patches
from edgeplast.plans import OPTIMIZER_SLOTS

FOUR_BIT_GROUP = 32
"""Elements of a 4-bit matrix that share one float32 scale."""


def matrix_shapes(architecture: Architecture, component: str) -> list[tuple[int, int]]:
    """Return (rows, columns) of the matrices of a component; norms have none."""
    block, kind = block_of(component), type_of(component)
    width = architecture.width
    if block is not None:
        b = block_sizes(architecture)[block]
        return {
            "attn": [(3 * b.attention, width), (width, b.attention)],
            "fc1": [(b.gates * b.hidden, width)],
            "fc2": [(width, b.hidden)],
        }.get(kind, [])
    if kind == EMBED:
        height, columns = architecture.image_size
        return [(width, 3 * height * columns // patches(architecture))]
    return [(architecture.classes, width)] if kind == HEAD else []


def stored_bytes(architecture: Architecture, component: str, weight_bits: int) -> int:
    """Return the bytes of a frozen component on disk, and in memory once touched.

    Matrices take ``weight_bits`` an element plus their scales (float32: one a row at 8 bits, one for every
    ``FOUR_BIT_GROUP`` elements at 4); biases, norms and embeddings stay float32.
    """
    parameters = architecture.parameters[component]
    shapes = matrix_shapes(architecture, component)
    elements = min(parameters, sum(rows * columns for rows, columns in shapes))
    if weight_bits == 32 or not elements:
        return 4 * parameters
    scales = sum(rows for rows, _ in shapes) if weight_bits == 8 else -(-elements // FOUR_BIT_GROUP)
    return elements * weight_bits // 8 + 4 * scales + 4 * (parameters - elements)


def float_copy_bytes(architecture: Architecture, component: str, weight_bits: int) -> int:
    """Return the bytes of the largest matrix turned into float32 while it is read; 0 where it is float32."""
    shapes = matrix_shapes(architecture, component)
    return 0 if weight_bits == 32 else max((4 * rows * columns for rows, columns in shapes), default=0)


def state_bytes_per_parameter(optimizer: str) -> int:
    """Return 4 · (parameter + gradient + optimizer slots): 16 for AdamW, 12 for SGD with momentum."""
    return 4 * (2 + OPTIMIZER_SLOTS[optimizer])
