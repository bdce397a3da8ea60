"""Curves that a model applies between its products: ReLU and its kin, sigmoid, tanh, GELU, SiLU and theirs.

Those with a ``curve`` compute their own derivative in the forward pass when they are trained through: it needs as many
bytes between the passes as the input would, the most expensive part (an erf, an exponential) is computed once, and the
backward pass is left with one product over the largest arrays of a block. Those without a ``kernel``, which ONNX does
not know or a runtime would take apart, are written in plain operators by it in any case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import Backward, Onto, Operator, Write, same

if TYPE_CHECKING:
    from edgeplast.graphs.graph import Graph

Writes = dict[int, "Write | Onto"]

_ROOT_HALF = math.sqrt(0.5)
_TANH_SCALE, _TANH_CUBIC = math.sqrt(2 / math.pi), 0.044715


def _times_slope(s: Backward, factor: float = 1.0) -> Writes:
    """d·slope, where the forward pass computed the slope (over a factor)."""
    assert s.slope is not None
    slope = s.slope()
    return {0: lambda: s.graph.scale(s.graph.mul(s.d, slope), factor)}


def _gelu(g: Graph, x: Value, y: str, slope: str | None, _how: Mapping[str, Any]) -> None:
    """``x·Φ(x)`` and twice its slope Φ + x·φ: with t = x/√2, 2Φ = 1 + erf t and 2x·φ(x) = (2t/√π)·exp(−t²)."""
    t = g.scale(x, _ROOT_HALF)
    density = g.scale(g.div(t, g.unary("Exp", g.mul(t, t))), 2 / math.sqrt(math.pi)) if slope is not None else t
    twice = g.add(g.unary("Erf", t), g.constant(1.0))
    if slope is not None:
        g.add(density, twice, name=slope)
    g.scale(g.mul(t, twice), _ROOT_HALF, name=y)


def _gelu_tanh(g: Graph, x: Value, y: str, slope: str | None, _how: Mapping[str, Any]) -> None:
    """``x·(1 + tanh u)/2`` with u = √(2/π)·(x + 0.044715·x³); slope (1 + t)/2 + x/2·(1 − t²)·u′."""
    square = g.mul(x, x)
    inner = g.mul(x, g.add(g.scale(square, _TANH_SCALE * _TANH_CUBIC), g.constant(_TANH_SCALE)))
    t = g.unary("Tanh", inner)
    half = g.scale(g.add(t, g.constant(1.0)), 0.5)
    if slope is not None:
        steepness = g.add(g.scale(square, 1.5 * _TANH_SCALE * _TANH_CUBIC), g.constant(0.5 * _TANH_SCALE))
        bend = g.mul(g.mul(x, steepness), g.sub(g.constant(1.0), g.mul(t, t)))
        g.add(half, bend, name=slope)
    g.mul(x, half, name=y)


def _silu(g: Graph, x: Value, y: str, slope: str | None, how: Mapping[str, Any]) -> None:
    """``y = x·σ(αx)``; slope σ + α·y·(1 − σ)."""
    alpha = float(how.get("alpha", 1.0))
    gate = g.unary("Sigmoid", g.scale(x, alpha))
    result = g.mul(x, gate, name=y)
    if slope is not None:
        g.add(gate, g.scale(g.sub(result, g.mul(result, gate)), alpha), name=slope)


def _hard_swish(g: Graph, x: Value, y: str, slope: str | None, _how: Mapping[str, Any]) -> None:
    """``x·h`` with h = clip(x/6 + ½, 0, 1); slope h, and h − ½ more where h lies between its bounds."""
    gate = g.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    if slope is not None:
        inside = g.unary("Sign", g.sub(gate, g.mul(gate, gate)))
        g.add(gate, g.mul(g.sub(gate, g.constant(0.5)), inside), name=slope)
    g.mul(x, gate, name=y)


def _mish(g: Graph, x: Value, y: str, slope: str | None, _how: Mapping[str, Any]) -> None:
    """``x·t`` with t = tanh(softplus x); slope t + x·σ(x)·(1 − t²)."""
    t = g.unary("Tanh", g.unary("Softplus", x))
    if slope is not None:
        bend = g.mul(g.mul(x, g.unary("Sigmoid", x)), g.sub(g.constant(1.0), g.mul(t, t)))
        g.add(t, bend, name=slope)
    g.mul(x, t, name=y)


def _sigmoid(s: Backward) -> Writes:
    """d·y·(1 − y)."""
    g = s.graph
    return {0: lambda: g.mul(s.d, g.mul(s.y, g.sub(g.constant(1.0), s.y)))}


def _tanh(s: Backward) -> Writes:
    """d·(1 − y²)."""
    g = s.graph
    return {0: lambda: g.mul(s.d, g.sub(g.constant(1.0), g.mul(s.y, s.y)))}


def _relu(s: Backward) -> Writes:
    """d where y > 0 (Sign of a ReLU's output is 0 or 1)."""
    return {0: lambda: s.graph.mul(s.d, s.graph.unary("Sign", s.y))}


def _leaky_relu(s: Backward) -> Writes:
    """d·(α + (1 − α)·[x > 0])."""
    g, alpha = s.graph, float(s.call.attributes["alpha"])
    positive = g.unary("Sign", g.unary("Relu", s.x()))
    return {0: lambda: g.mul(s.d, g.add(g.scale(positive, 1 - alpha), g.constant(alpha)))}


def _prelu(s: Backward) -> Writes:
    """``max(x, 0) + a·min(x, 0)``: d·(a + (1 − a)·[x > 0]) to x, d·min(x, 0) to a."""
    g, x, a = s.graph, s.x(0), s.x(1)
    zero = g.constant(0.0)

    def dx() -> Value:
        return g.mul(s.d, g.node("Where", [g.node("Greater", [x, zero])[0], g.constant(1.0), a])[0])

    return {1: lambda: g.mul(s.d, g.binary("Min", x, zero)), 0: dx}


def _elu(s: Backward) -> Writes:
    """d where y > 0, d·(y + α) elsewhere."""
    g, alpha = s.graph, float(s.call.attributes.get("alpha", 1.0))
    slope = g.add(g.binary("Min", s.y, g.constant(0.0)), g.constant(alpha))
    if alpha != 1.0:
        slope = g.add(slope, g.scale(g.unary("Sign", g.unary("Relu", s.y)), 1 - alpha))
    return {0: lambda: g.mul(s.d, slope)}


def _hard_sigmoid(s: Backward) -> Writes:
    """d·α where 0 < y < 1: there y − y² is positive."""
    g = s.graph
    inside = g.unary("Sign", g.sub(s.y, g.mul(s.y, s.y)))
    return {0: lambda: g.mul(g.scale(s.d, float(s.call.attributes.get("alpha", 0.2))), inside)}


def _softplus(s: Backward) -> Writes:
    """d·σ(x)."""
    return {0: lambda: s.graph.mul(s.d, s.graph.unary("Sigmoid", s.x()))}


OPERATORS = (
    Operator("Relu", "pointwise", same, _relu),
    Operator("LeakyRelu", "pointwise", same, _leaky_relu),
    Operator("PRelu", "pointwise", same, _prelu),
    Operator("Elu", "pointwise", same, _elu, effort=30),
    Operator("HardSigmoid", "pointwise", same, _hard_sigmoid),
    Operator("Sigmoid", "pointwise", same, _sigmoid),
    Operator("Tanh", "pointwise", same, _tanh),
    Operator("Softplus", "pointwise", same, _softplus, effort=60),
    Operator("Gelu", "pointwise", same, lambda s: _times_slope(s, 0.5), curve=_gelu),
    *(
        Operator(name, "pointwise", same, _times_slope, curve=curve, kernel=False)
        for name, curve in (
            ("GeluTanh", _gelu_tanh),
            ("Silu", _silu),
            ("QuickGelu", _silu),
            ("HardSwish", _hard_swish),
            ("Mish", _mish),
        )
    ),
)
