"""Reductions: sums, means and extremes along dimensions, running sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import Backward, Call, Form, Onto, Operator, ShapeError, Write, same

Writes = dict[int, "Write | Onto"]


def axes_of(call: Call) -> list[int]:
    """Return the dimensions that a reduction removes (an input of ``ReduceSum``, an attribute of the others)."""
    if call.optional(1) is not None:
        axes: Sequence[int] = call.numbers(1)
    else:
        axes = call.attributes.get("axes") or range(len(call.value().shape))
    return [call.axis(int(axis)) for axis in axes]


def _forms(call: Call) -> list[Form]:
    x = call.value()
    axes, keep = axes_of(call), bool(call.attributes.get("keepdims", 1))
    batched = x.batched and 0 not in axes
    if x.batched and 0 in axes and call.op != "ReduceSum":
        raise ShapeError("over the images there are sums only")
    if batched and x.shape[0] != 1 and not keep and not x.shape:
        raise ShapeError(f"{x} has no first dimension")
    shape = [1 if i in axes else size for i, size in enumerate(x.shape) if keep or i not in axes]
    return [Form(tuple(shape), batched, x.dtype)]


def _kept(s: Backward, value: Value) -> Value:
    """Return what a reduction gave with the reduced dimensions of size 1 again."""
    axes, x = axes_of(s.call), s.x()
    return s.graph.reshape(value, [1 if i in axes else size for i, size in enumerate(x.shape)])


def _repeated(s: Backward, value: Value) -> Value:
    """Repeat a value along the reduced dimensions."""
    x, axes = s.x(), axes_of(s.call)
    repeats = s.graph.constant([size if i in axes else 1 for i, size in enumerate(x.shape)])
    return s.graph.node("Tile", [value, repeats])[0]


def _reduce_sum(s: Backward) -> Writes:
    """d, repeated along the reduced dimensions."""
    return {0: lambda: _repeated(s, _kept(s, s.d))}


def _reduce_mean(s: Backward) -> Writes:
    """d/n, repeated along the reduced dimensions."""
    count = math.prod(s.x().shape[axis] for axis in axes_of(s.call))
    return {0: lambda: _repeated(s, s.graph.scale(_kept(s, s.d), 1 / count))}


def _reduce_extreme(s: Backward) -> Writes:
    """d, shared by all elements that are equal to the largest (as torch's ``amax`` does)."""
    g, x = s.graph, s.x()

    def dx() -> Value:
        equal = g.node("Equal", [x, _kept(s, s.y)])[0]
        chosen = g.node("Where", [equal, g.constant(1.0), g.constant(0.0)])[0]
        count = g.reduce("ReduceSum", chosen, axes_of(s.call))
        return g.mul(chosen, g.div(_kept(s, s.d), count))

    return {0: dx}


def _cumsum_forms(call: Call) -> list[Form]:
    call.along(call.numbers(1)[0])
    return same(call)


def _cumsum(s: Backward) -> Writes:
    """d, summed up from the other end."""
    how = {**s.call.attributes, "reverse": 1 - int(s.call.attributes.get("reverse", 0))}
    return {0: lambda: s.graph.node("CumSum", [s.d, s.x(1)], **how)[0]}


OPERATORS = (
    Operator("ReduceSum", "reduction", _forms, _reduce_sum),
    Operator("ReduceMean", "reduction", _forms, _reduce_mean),
    Operator("ReduceMax", "reduction", _forms, _reduce_extreme),
    Operator("ReduceMin", "reduction", _forms, _reduce_extreme),
    Operator("CumSum", "layout", _cumsum_forms, _cumsum),
)
