"""Convolutions and pools, in one and two dimensions, with gradients in operators that every onnxruntime has.

Pictures are (n, C, H, W) or (n, C, L), batched; kernels (O, C/groups, k, k). How weight gradients are written is in
``kernel_gradients.py``; here are shapes, costs, and gradients of the input: a convolution with the flipped kernel where
the stride is 1 (on 2 cores 3.0 ms for a 7×7 depthwise one, against 13.5 by ``ConvTranspose``) and the kernel is less
than what it lies on, ``ConvTranspose`` elsewhere (3×3, one picture: 512→512 7² 2.6 ms against 13.0, 256→256 14² 1.5
against 8.6, 128→128 28² 1.3 against 3.0, but of 16 pictures 57 against 40).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.kernel_gradients import kernel_gradient
from edgeplast.graphs.operators.record import Backward, Call, Form, Onto, Operator, ShapeError, Write
from edgeplast.graphs.operators.windows import Windows

Writes = dict[int, "Write | Onto"]

THREADS = 8
"""Threads for which working space of convolutions is predicted (64 KiB each, so more or fewer hardly count)."""

_WORKING_BYTES = 128 * 128 * 4
"""``MLAS_CONV_WORKING_BUFFER_SIZE_PER_THREAD``, floats."""


def _groups(call: Call) -> int:
    return int(call.attributes.get("group", 1))


def _conv_forms(call: Call) -> list[Form]:
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    groups, windows = _groups(call), Windows.of(call, w.shape[2:])
    if len(x.shape) != len(w.shape) or x.shape[1] != w.shape[1] * groups or w.shape[0] % groups or w.batched:
        raise ShapeError(f"{w} in {groups} groups is no kernel for {x}")
    if bias is not None and bias.shape != w.shape[:1]:
        raise ShapeError(f"{bias} does not fit {w.shape[0]} channels")
    return [Form((x.shape[0], w.shape[0], *windows.placed_on(x.shape[2:])), x.batched)]


def _conv_operations(call: Call, out: Form) -> int:
    return 2 * math.prod(out.shape) * math.prod(call.value(1).shape[1:])


def _conv_workspace(call: Call, out: Form) -> tuple[int, int]:
    """What MLAS allocates: nothing, all patches of one picture, or 64 KiB a thread.

    Source: ``MlasConvPrepare`` in onnxruntime's ``core/mlas/lib/convolve.cpp``, measured on 1.19.2 and 1.32 on x86-64
    (``examples/benchmarks/conv_workspace.py``): equal to the byte on every shape tried. The space does not grow with
    the batch. Later sources take it once a thread for stacks of pictures; then this rule is too low.
    """
    w, windows = call.value(1), Windows.of(call, call.value(1).shape[2:])
    filters, inner, positions = w.shape[0] // _groups(call), math.prod(w.shape[1:]), math.prod(out.shape[2:])
    if windows.pointwise:
        return 0, 0
    if filters > positions:
        return 4 * inner * positions, 0
    return THREADS * _WORKING_BYTES, 0


def _turned(s: Backward, flipped: bool) -> Value:
    """Return a kernel (O, C/groups, …) as (C, O/groups, …), its picture flipped."""
    g, w, groups = s.graph, s.x(1), _groups(s.call)
    outputs, inputs, *size = w.shape
    if groups == 1:
        if outputs * inputs > 1:
            w = g.transpose(w, (1, 0, *range(2, len(w.shape))))
    elif inputs > 1 or outputs > groups:
        w = g.reshape(w, (groups, outputs // groups, inputs, *size))
        w = g.transpose(w, (0, 2, 1, *range(3, len(w.shape))))
        w = g.reshape(w, (groups * inputs, outputs // groups, *size))
    axes = [axis for axis, n in enumerate(size, 2) if n > 1]
    if flipped and axes:
        ends = [-1 - w.shape[axis] for axis in axes]
        w = g.slice(w, axes, [-1] * len(axes), ends, steps=[-1] * len(axes))
    return w


def _weighs_more(s: Backward) -> bool:
    """Whether turning a kernel moves more than the convolution itself does of one picture's patches."""
    return _groups(s.call) == 1 and math.prod(s.d.shape[2:]) < s.x(1).shape[0]


def _conv(s: Backward) -> Writes:
    """``Y = X∗W + b``: dW by products over positions, db = Σ d, dX = d∗(W turned and flipped), or its transpose."""
    g, d, x, w = s.graph, s.d, s.x(0), s.x(1)
    groups, windows = _groups(s.call), Windows.of(s.call, w.shape[2:])
    rest = [axis for axis in range(len(x.shape)) if axis != 1]

    def dx() -> Value:
        before = [r - 1 - p for r, p in zip(windows.reach, windows.before, strict=True)]
        after = [r - 1 - p for r, p in zip(windows.reach, windows.after, strict=True)]
        how: dict[str, Any] = {
            "kernel_shape": list(windows.kernel),
            "dilations": list(windows.dilations),
            "group": groups,
        }
        if set(windows.strides) == {1} and min(*before, *after) >= 0 and not _weighs_more(s):
            how |= {"strides": list(windows.strides), "pads": [*before, *after]}
            return g.node("Conv", [d, _turned(s, True)], **how)[0]
        reached = windows.spread_from(d.shape[2:], [0] * len(windows.kernel))
        how |= {"strides": list(windows.strides), "pads": [*windows.before, *windows.after]}
        more = [n - m for n, m in zip(x.shape[2:], reached, strict=True)]
        return g.node("ConvTranspose", [d, w], output_padding=more, **how)[0]

    return {
        1: lambda: kernel_gradient(g, x, d, w.shape, windows, groups),
        2: lambda: g.reduce("ReduceSum", d, rest, keep=False),
        0: dx,
    }


def _transpose_forms(call: Call) -> list[Form]:
    x, w, bias = call.value(0), call.value(1), call.optional(2)
    groups, windows = _groups(call), Windows.of(call, w.shape[2:])
    if len(x.shape) != len(w.shape) or x.shape[1] != w.shape[0] or w.shape[0] % groups or w.batched:
        raise ShapeError(f"{w} in {groups} groups is no kernel for {x}")
    channels = w.shape[1] * groups
    if bias is not None and bias.shape != (channels,):
        raise ShapeError(f"{bias} does not fit {channels} channels")
    more = call.attributes.get("output_padding") or [0] * len(windows.kernel)
    return [Form((x.shape[0], channels, *windows.spread_from(x.shape[2:], more)), x.batched)]


def _transpose_operations(call: Call, _out: Form) -> int:
    return 2 * call.value(0).elements * math.prod(call.value(1).shape[1:])


def _transpose_workspace(call: Call, _out: Form) -> tuple[int, int]:
    """The patches of one picture and one group (``conv_transpose.cc``, likewise measured)."""
    x, w = call.value(0), call.value(1)
    return 4 * math.prod(w.shape[1:]) * math.prod(x.shape[2:]), 0


def _conv_transpose(s: Backward) -> Writes:
    """The convolution whose gradient this is: dX = d∗W, dW with input and gradient in each other's place."""
    g, d, x, w = s.graph, s.d, s.x(0), s.x(1)
    groups, windows = _groups(s.call), Windows.of(s.call, w.shape[2:])
    rest = [axis for axis in range(len(x.shape)) if axis != 1]
    keys = ("kernel_shape", "strides", "pads", "dilations", "group")
    how = {key: value for key, value in s.call.attributes.items() if key in keys}

    return {
        1: lambda: kernel_gradient(g, d, x, w.shape, windows, groups),
        2: lambda: g.reduce("ReduceSum", d, rest, keep=False),
        0: lambda: g.node("Conv", [d, w], **how)[0],
    }


# -- pools ------------------------------------------------------------------------------------------------------


def _windows(call: Call) -> Windows:
    return Windows.of(call, call.attributes["kernel_shape"])


def _pool_forms(call: Call) -> list[Form]:
    x = call.value()
    out = Form((*x.shape[:2], *_windows(call).placed_on(x.shape[2:])), x.batched)
    return [out, Form(out.shape, out.batched, "int64")] if call.op == "MaxPool" and call.outputs == 2 else [out]


def _max_pool(s: Backward) -> Writes:
    """d, added to where each window had its largest element; the pool is run again to learn where."""
    g, x = s.graph, s.x()

    def dx() -> Value:
        _, places = g.node("MaxPool", [x], outputs=2, **s.call.attributes)
        flat = g.reshape(x, (x.elements,))
        one = g.node("Shape", [flat])[0]
        zeros = g.node("Expand", [g.constant(0.0), one])[0]
        updates = g.reshape(s.d, (s.d.elements,))
        summed = g.node(
            "ScatterElements", [zeros, g.reshape(places, (s.d.elements,)), updates], axis=0, reduction="add"
        )
        return g.reshape(summed[0], x.shape)

    return {0: dx}


def _average_pool(s: Backward) -> Writes:
    """d/area, to every element of the window."""
    g, x, d, windows = s.graph, s.x(), s.d, _windows(s.call)
    if set(windows.dilations) != {1}:
        raise ShapeError("a dilated pool has no gradient")

    def dx() -> Value:
        share = g.mul(d, g.constant(_counted(s.call, windows, x.shape[2:])))
        channels = x.shape[1]
        if windows.kernel == windows.strides and not any((*windows.before, *windows.after)):
            return _repeated(s, share, windows, x.shape)
        reached = windows.spread_from(d.shape[2:], [0] * len(windows.kernel))
        more = [n - m for n, m in zip(x.shape[2:], reached, strict=True)]
        ones = g.node("Expand", [g.constant(1.0), g.constant([channels, 1, *windows.kernel])])[0]
        how: dict[str, Any] = {
            "kernel_shape": list(windows.kernel),
            "strides": list(windows.strides),
            "group": channels,
        }
        pads = [*windows.before, *windows.after]
        return g.node("ConvTranspose", [share, ones], pads=pads, output_padding=more, **how)[0]

    return {0: dx}


def _counted(call: Call, windows: Windows, size: tuple[int, ...]) -> float | np.ndarray:
    """Return 1/elements of each window, padding counted or not."""
    if call.attributes.get("count_include_pad") or not any((*windows.before, *windows.after)):
        return 1 / windows.area
    counts = np.ones(())
    for n, k, s, b, positions in zip(
        size, windows.kernel, windows.strides, windows.before, windows.placed_on(size), strict=True
    ):
        starts = np.arange(positions) * s - b
        counts = np.multiply.outer(counts, np.minimum(starts + k, n) - np.maximum(starts, 0))
    return (1 / counts).astype(np.float32)


def _repeated(s: Backward, share: Value, windows: Windows, shape: tuple[int, ...]) -> Value:
    """Repeat each element over its window; windows lie side by side, and what is left of the picture gets zeros."""
    g = s.graph
    pairs = [n for count in share.shape[2:] for n in (count, 1)]
    repeats = [1, 1, *(n for k in windows.kernel for n in (1, k))]
    wide = g.node("Tile", [g.reshape(share, (*share.shape[:2], *pairs)), g.constant(repeats)])[0]
    covered = [count * k for count, k in zip(share.shape[2:], windows.kernel, strict=True)]
    whole = g.reshape(wide, (*share.shape[:2], *covered))
    return g.pad(whole, {}, {axis: n - m for axis, (n, m) in enumerate(zip(shape[2:], covered, strict=True), 2)})


def _global_forms(call: Call) -> list[Form]:
    x = call.value()
    return [Form((*x.shape[:2], *(1 for _ in x.shape[2:])), x.batched)]


def _global_average(s: Backward) -> Writes:
    """d/(H·W), to every element."""
    g, x = s.graph, s.x()

    def dx() -> Value:
        repeats = g.constant([1, 1, *x.shape[2:]])
        return g.node("Tile", [g.scale(s.d, 1 / math.prod(x.shape[2:])), repeats])[0]

    return {0: dx}


OPERATORS = (
    Operator("Conv", "product", _conv_forms, _conv, _conv_operations, workspace=_conv_workspace),
    Operator(
        "ConvTranspose",
        "product",
        _transpose_forms,
        _conv_transpose,
        _transpose_operations,
        workspace=_transpose_workspace,
    ),
    Operator("MaxPool", "reduction", _pool_forms, _max_pool, effort=100),
    Operator("AveragePool", "reduction", _pool_forms, _average_pool, effort=100),
    Operator("GlobalAveragePool", "reduction", _global_forms, _global_average),
)
