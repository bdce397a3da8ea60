"""Weight gradients of convolutions: which products over positions they are, chosen by shape.

A kernel's gradient is, for each element of a window, a product of the incoming gradient with the input shifted by that
element, over all positions of all pictures. Written as one convolution with the gradient for its kernel it takes 20
times the forward pass; over all patches at once k² copies of the input, which are small where a picture has fewer
positions than the kernel has outputs, and then nothing of the kernel's size is turned. Measured on two cores in ms,
batch 4 (forward | one product a picture and shift | over patches | depthwise by sums of products):

    3×3 64→64 28²:   3 | 3.4–8 | –   |        7×7 depthwise 80×28²:     3   | 8–13 | – | 7–32
    3×3 512→512 7²: 13 | 26–74 | 12  |        5×5 depthwise 672×14²:    8   | 16   | – | 9
    1×1 96→192 28²:  1 | 1.2   | 2   |        3×3 depthwise 32×112²:    4   | 26   | – | 43–56
    1×1 16→96 112²:  3 | 2.2   | 35  |        7×7 depthwise 320×7²:     2–8 | 13   | – | 4

One picture, 3×3 (a product over rows for each shift, put together and turned | over patches): 512→512 7² 10.3 | 2.3,
256→256 14² 3.2 | 1.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.windows import Windows

if TYPE_CHECKING:
    from edgeplast.graphs.graph import Graph

FEW_POSITIONS = 400
"""Below, a product a picture and channel costs more to start than to do."""


def kernel_gradient(g: Graph, x: Value, d: Value, shape: Sequence[int], windows: Windows, groups: int) -> Value:
    """Write the gradient of a kernel.

    Args:
        g: to write to.
        x: input (n, C, …).
        d: gradient of the output (n, O, …).
        shape: of the kernel (O, C/groups, …).
        windows: how it lies on the input.
        groups: of channels.

    Returns:
        a value of the kernel's shape.
    """
    outputs, inputs = shape[:2]
    positions = math.prod(d.shape[2:])
    padded = g.pad(x, dict(enumerate(windows.before, 2)), dict(enumerate(windows.after, 2)))
    if groups == 1 and positions < outputs:  # the patches of a picture are less than the kernel
        return over_patches(g, padded, d, shape, windows)
    if inputs == 1 and outputs == groups and positions < FEW_POSITIONS:
        return sums_of_products(g, padded, d, shape, windows)
    return by_pictures(g, padded, d, shape, windows, groups)


def by_pictures(g: Graph, x: Value, d: Value, shape: Sequence[int], windows: Windows, groups: int) -> Value:
    """A product for each picture and group, (O, positions)·(positions, C), summed over pictures.

    As many shifts share one product as take no more memory than the gradient does (all, for a stem's few channels).
    """
    outputs, inputs = shape[0], shape[1]
    count = d.shape[2:]
    positions, rows = math.prod(count), outputs // groups
    gradient = g.reshape(d, (d.shape[0], groups, rows, positions))
    shifts = _shifts(windows)
    together = max(1, rows // inputs)
    parts = []
    for first in range(0, len(shifts), together):
        some = shifts[first : first + together]
        cuts = [
            g.reshape(_shifted(g, x, windows, at, count, 2), (x.shape[0], groups, inputs, positions)) for at in some
        ]
        found = g.matmul(gradient, cuts[0] if len(cuts) == 1 else g.concat(cuts, 2), trans_b=True)
        parts.append(g.reshape(g.reduce("ReduceSum", found, 0), (outputs, len(some), inputs)))
    stacked = parts[0] if len(parts) == 1 else g.concat(parts, 1)
    return _as_kernel(g, stacked, shape)


def over_patches(g: Graph, x: Value, d: Value, shape: Sequence[int], windows: Windows) -> Value:
    """One product over all positions of all pictures, (O, positions)·(positions, C·elements of a window)."""
    outputs, inputs = shape[0], shape[1]
    count, pictures = d.shape[2:], x.shape[0]
    positions = math.prod(count)
    cuts = [
        g.reshape(_shifted(g, x, windows, at, count, 2), (pictures, inputs, 1, positions)) for at in _shifts(windows)
    ]
    patches = cuts[0] if len(cuts) == 1 else g.concat(cuts, 2)
    rows = _as_rows(g, g.reshape(patches, (pictures, inputs * windows.area, positions)))
    gradient = _as_rows(g, g.reshape(d, (pictures, outputs, positions)))
    return g.reshape(g.gemm(gradient, rows, trans_a=True), tuple(shape))


def sums_of_products(g: Graph, x: Value, d: Value, shape: Sequence[int], windows: Windows) -> Value:
    """Depthwise: for each element of a window the sum over positions of gradient times input."""
    rest = [axis for axis in range(len(d.shape)) if axis != 1]
    parts = []
    for at in _shifts(windows):
        both = g.mul(d, _shifted(g, x, windows, at, d.shape[2:], 2))
        parts.append(g.reshape(g.reduce("ReduceSum", both, rest, keep=False), (shape[0], 1)))
    return g.reshape(parts[0] if len(parts) == 1 else g.concat(parts, 1), shape)


def _shifts(windows: Windows) -> list[tuple[int, ...]]:
    """Return every element of a window, in the order in which a kernel stores them."""
    return list(product(*(range(k) for k in windows.kernel)))


def _shifted(g: Graph, x: Value, windows: Windows, at: Sequence[int], count: Sequence[int], first: int) -> Value:
    """Cut out what one element of the windows meets; pictures begin at dimension ``first``."""
    axes, starts, ends, steps = [], [], [], []
    for axis, (i, n, d, s) in enumerate(zip(at, count, windows.dilations, windows.strides, strict=True), first):
        start, end = i * d, i * d + (n - 1) * s + 1
        if (start, s) != (0, 1) or end != x.shape[axis]:
            axes.append(axis)
            starts.append(start)
            ends.append(end)
            steps.append(s)
    return g.slice(x, axes, starts, ends, steps=steps) if axes else x


def _as_rows(g: Graph, x: Value) -> Value:
    """(n, C, positions) → (n·positions, C)."""
    last = g.transpose(x, (0, 2, 1))
    return g.reshape(last, (last.elements // last.shape[-1], last.shape[-1]))


def _as_kernel(g: Graph, stacked: Value, shape: Sequence[int]) -> Value:
    """(O, elements of a window, C/groups) → (O, C/groups, …)."""
    if stacked.shape[1] > 1:
        stacked = g.transpose(stacked, (0, 2, 1))
    return g.reshape(stacked, tuple(shape))
