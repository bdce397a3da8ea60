"""Element by element: arithmetic with numpy's broadcasting, elementary functions, choices, quantization.

Curves that a model applies between its products are in ``activations.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import (
    Backward,
    Call,
    Form,
    Forms,
    Onto,
    Operator,
    Rule,
    ShapeError,
    Write,
    broadcast,
    same,
)
from edgeplast.recomputation import ELEMENT_FLOPS

Writes = dict[int, "Write | Onto"]


def _elementwise(call: Call) -> list[Form]:
    return [broadcast(*(v for v in call.inputs if v is not None))]


def _compared(call: Call) -> list[Form]:
    return [broadcast(call.value(0), call.value(1), dtype="bool")]


def _chosen(call: Call) -> list[Form]:
    return [broadcast(*(call.value(i) for i in range(3)), dtype=call.value(1).dtype)]


def _clip_forms(call: Call) -> list[Form]:
    for index in (1, 2):
        if (bound := call.optional(index)) is not None and bound.shape:
            raise ShapeError(f"{bound} is no scalar")
    return same(call)


def _typed(dtype: str) -> Forms:
    return lambda call: [Form(call.value().shape, call.value().batched, dtype)]


def _quantized(call: Call) -> Form:
    zero = call.optional(2)
    return Form(call.value().shape, call.value().batched, zero.dtype if zero is not None else "uint8")


# -- arithmetic -------------------------------------------------------------------------------------------------


def _add(s: Backward) -> Writes:
    """``a + b``: d to both."""
    return {0: lambda: s.d, 1: lambda: s.d}


def _sub(s: Backward) -> Writes:
    """``a − b``: d to a, −d to b."""
    return {0: lambda: s.d, 1: lambda: s.graph.scale(s.d, -1.0)}


def _mul(s: Backward) -> Writes:
    """``a·b``: d·b to a, d·a to b."""
    return {0: lambda: s.graph.mul(s.d, s.x(1)), 1: lambda: s.graph.mul(s.d, s.x(0))}


def _div(s: Backward) -> Writes:
    """``a/b``: d/b to a, −(d/b)·y to b."""
    g = s.graph
    scaled = g.div(s.d, s.x(1))
    return {1: lambda: g.scale(g.mul(scaled, s.y), -1.0), 0: lambda: scaled}


def _pow(s: Backward) -> Writes:
    """``xᵖ`` with a constant p: d·p·xᵖ⁻¹."""
    g, x = s.graph, s.x()
    array = g.constants.get(s.x(1).name)
    if array is None or array.size != 1:
        raise ShapeError("only a constant number as exponent has a gradient")
    p = float(array.reshape(()))
    if p == 2.0:
        return {0: lambda: g.mul(s.d, g.scale(x, 2.0))}
    return {0: lambda: g.mul(s.d, g.scale(g.binary("Pow", x, g.constant(p - 1.0)), p))}


def _extreme(larger: bool) -> Rule:
    def rule(s: Backward) -> Writes:
        """The larger (or smaller) of two: d to where it came from; to the first where both are equal."""
        g = s.graph
        if len(s.call.inputs) != 2:
            raise ShapeError("only of two values there is a gradient")
        first = g.node("GreaterOrEqual" if larger else "LessOrEqual", [s.x(0), s.x(1)])[0]
        nothing = g.constant(0.0)
        return {
            0: lambda: g.node("Where", [first, s.d, nothing])[0],
            1: lambda: g.node("Where", [first, nothing, s.d])[0],
        }

    return rule


def _where(s: Backward) -> Writes:
    """``condition ? a : b``: d to whichever was chosen."""
    g, condition = s.graph, s.x(0)
    return {
        1: lambda: g.node("Where", [condition, s.d, g.constant(0.0)])[0],
        2: lambda: g.node("Where", [condition, g.constant(0.0), s.d])[0],
    }


def _times(slope: Callable[[Backward], Value]) -> Rule:
    """Return the rule d·slope."""
    return lambda s: {0: lambda: s.graph.mul(s.d, slope(s))}


def _clip(s: Backward) -> Writes:
    """d where the input lies between both bounds: there, and only there, (y − low)·(high − y) is positive."""
    g, y = s.graph, s.y
    low, high = s.call.optional(1), s.call.optional(2)
    above = y if low is None or not g.constants.get(low.name, np.ones(1)).any() else g.sub(y, low)
    if low is None and high is None:
        return {0: lambda: s.d}
    if high is None:
        return {0: lambda: g.mul(s.d, g.unary("Sign", above))}
    below = g.sub(high, y)
    return {0: lambda: g.mul(s.d, g.unary("Sign", below if low is None else g.mul(above, below)))}


def _erf_slope(s: Backward) -> Value:
    """``2/√π·exp(−x²)``."""
    g, x = s.graph, s.x()
    return g.scale(g.unary("Exp", g.unary("Neg", g.mul(x, x))), 2 / math.sqrt(math.pi))


def _number(slope: float) -> Rule:
    return lambda s: {0: lambda: s.graph.scale(s.d, slope)}


def _function(name: str, slope: Callable[[Backward], Value] | None, effort: int = ELEMENT_FLOPS) -> Operator:
    return Operator(name, "pointwise", same, None if slope is None else _times(slope), effort=effort)


OPERATORS = (
    Operator("Add", "pointwise", _elementwise, _add),
    Operator("Sub", "pointwise", _elementwise, _sub),
    Operator("Mul", "pointwise", _elementwise, _mul),
    Operator("Div", "pointwise", _elementwise, _div, effort=30),
    Operator("Pow", "pointwise", _elementwise, _pow, effort=60),
    Operator("Max", "pointwise", _elementwise, _extreme(True)),
    Operator("Min", "pointwise", _elementwise, _extreme(False)),
    Operator("Where", "pointwise", _chosen, _where),
    *(Operator(name, "pointwise", _compared) for name in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")),
    Operator("Clip", "pointwise", _clip_forms, _clip),
    Operator("Neg", "pointwise", same, _number(-1.0)),
    Operator("Identity", "pointwise", same, lambda s: {0: lambda: s.d}),
    _function("Sqrt", lambda s: s.graph.div(s.graph.constant(0.5), s.y)),
    _function("Exp", lambda s: s.y, effort=30),
    _function("Log", lambda s: s.graph.unary("Reciprocal", s.x()), effort=30),
    _function("Reciprocal", lambda s: s.graph.unary("Neg", s.graph.mul(s.y, s.y)), effort=30),
    _function("Erf", _erf_slope, effort=100),
    _function("Abs", lambda s: s.graph.unary("Sign", s.x())),
    _function("Sin", lambda s: s.graph.unary("Cos", s.x()), effort=60),
    _function("Cos", lambda s: s.graph.unary("Neg", s.graph.unary("Sin", s.x())), effort=60),
    _function("Sign", None),
    _function("Floor", None),
    _function("Round", None),
    _function("Not", None),
    Operator("QuantizeLinear", "pointwise", lambda call: [_quantized(call)]),
    Operator("DequantizeLinear", "pointwise", _typed("float32")),
    Operator("Cast", "pointwise", lambda call: _typed(str(call.attributes["to"]))(call)),
)
