"""Operators element by element: arithmetic and activations."""

from __future__ import annotations

import math
from typing import Any

import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Tensor, UnfitError


@writes("add", "add_")
def add(s: Any, a: Any, b: Any, alpha: float = 1) -> Tensor:
    """``a + alpha·b``."""
    return s.emit.add(a, b if alpha == 1 else _times(s, b, alpha))


@writes("sub", "sub_", "subtract")
def sub(s: Any, a: Any, b: Any, alpha: float = 1) -> Tensor:
    """``a − alpha·b``."""
    if isinstance(b, int | float):
        return s.emit.add(a, -alpha * b)
    return s.emit.binary("Sub", a, b if alpha == 1 else _times(s, b, alpha))


@writes("rsub")
def rsub(s: Any, a: Any, b: Any, alpha: float = 1) -> Tensor:
    """``b − alpha·a``."""
    return sub(s, b, a, alpha)


@writes("mul", "mul_", "multiply")
def mul(s: Any, a: Any, b: Any) -> Tensor:
    """``a·b``."""
    return s.emit.mul(a, b)


@writes("div", "div_", "true_divide")
def div(s: Any, a: Any, b: Any, rounding_mode: str | None = None) -> Tensor:
    """``a/b``."""
    if rounding_mode is not None:
        raise UnfitError("rounding has no gradient")
    if isinstance(b, int | float):
        return s.emit.mul(a, 1 / b)
    if isinstance(b, torch.Tensor):
        return s.emit.mul(a, 1 / b.float())
    return s.emit.binary("Div", a, b)


def _times(s: Any, x: Any, factor: float) -> Any:
    return s.emit.mul(x, factor) if isinstance(x, Tensor) else x * factor


@writes("addcmul", "addcmul_")
def addcmul(s: Any, a: Any, b: Any, c: Any, value: float = 1) -> Tensor:
    """``a + value·b·c``."""
    product = s.emit.mul(b, c)
    return s.emit.add(a, product if value == 1 else s.emit.mul(product, value))


@writes("lerp")
def lerp(s: Any, a: Any, b: Any, weight: Any) -> Tensor:
    """``a + weight·(b − a)``."""
    return s.emit.add(a, s.emit.mul(s.emit.binary("Sub", b, a), weight))


@writes("neg", "negative")
def neg(s: Any, x: Tensor) -> Tensor:
    """``−x``."""
    return s.emit.mul(x, -1.0)


@writes("reciprocal")
def reciprocal(s: Any, x: Tensor) -> Tensor:
    """``1/x``."""
    return s.emit.binary("Div", 1.0, x)


@writes("sqrt")
def sqrt(s: Any, x: Tensor) -> Tensor:
    """``√x``."""
    return s.emit.unary("Sqrt", x)


@writes("rsqrt")
def rsqrt(s: Any, x: Tensor) -> Tensor:
    """``1/√x``."""
    return reciprocal(s, sqrt(s, x))


@writes("square")
def square(s: Any, x: Tensor) -> Tensor:
    """``x²``."""
    return s.emit.mul(x, x)


@writes("pow")
def power(s: Any, x: Any, exponent: Any) -> Tensor:
    """``x`` to a whole or half power."""
    if not isinstance(x, Tensor) or not isinstance(exponent, int | float):
        raise UnfitError("only powers with a constant exponent have a form")
    if exponent == 0.5:
        return sqrt(s, x)
    if exponent < 0:
        return reciprocal(s, power(s, x, -exponent))
    if exponent != int(exponent) or not 1 <= exponent <= 8:
        raise UnfitError(f"a power of {exponent} has no form")
    result = x
    for _ in range(int(exponent) - 1):
        result = s.emit.mul(result, x)
    return result


@writes("exp")
def exp(s: Any, x: Tensor) -> Tensor:
    """The exponential function."""
    return s.emit.unary("Exp", x)


@writes("log")
def log(s: Any, x: Tensor) -> Tensor:
    """The natural logarithm."""
    return s.emit.unary("Log", x)


@writes("erf")
def erf(s: Any, x: Tensor) -> Tensor:
    """The error function."""
    return s.emit.unary("Erf", x)


@writes("sin")
def sin(s: Any, x: Tensor) -> Tensor:
    """Sine."""
    return s.emit.unary("Sin", x)


@writes("cos")
def cos(s: Any, x: Tensor) -> Tensor:
    """Cosine."""
    return s.emit.unary("Cos", x)


@writes("abs")
def absolute(s: Any, x: Tensor) -> Tensor:
    """``|x|``."""
    return s.emit.unary("Abs", x)


@writes("sigmoid")
def sigmoid(s: Any, x: Tensor) -> Tensor:
    """The logistic function."""
    return s.emit.unary("Sigmoid", x)


@writes("tanh")
def tanh(s: Any, x: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return s.emit.unary("Tanh", x)


@writes("relu")
def relu(s: Any, x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return s.emit.unary("Relu", x)


@writes("silu")
def silu(s: Any, x: Tensor) -> Tensor:
    """``x·σ(x)``."""
    return s.emit.unary("Silu", x)


@writes("gelu")
def gelu(s: Any, x: Tensor, approximate: str = "none") -> Tensor:
    """``x·Φ(x)``, or the approximation by tanh."""
    return s.emit.unary("GeluTanh" if approximate == "tanh" else "Gelu", x)


@writes("hardswish")
def hardswish(s: Any, x: Tensor) -> Tensor:
    """``x·min(max(x/6 + 1/2, 0), 1)``."""
    return s.emit.unary("HardSwish", x)


@writes("hardsigmoid")
def hardsigmoid(s: Any, x: Tensor) -> Tensor:
    """``min(max(x/6 + 1/2, 0), 1)``."""
    return s.emit.unary("HardSigmoid", x, alpha=1 / 6, beta=0.5)


@writes("clamp", "hardtanh", "clip")
def clamp(s: Any, x: Tensor, least: Any = None, most: Any = None) -> Tensor:
    """``min(max(x, least), most)``."""
    if s.node.target is torch.ops.aten.hardtanh.default or s.node.target is torch.ops.aten.hardtanh_.default:
        least, most = (-1.0 if least is None else least), (1.0 if most is None else most)
    if any(isinstance(v, Tensor) or torch.as_tensor(0 if v is None else v).numel() > 1 for v in (least, most)):
        raise UnfitError("bounds that are arrays have no form")
    x, g = s.emit.declared(x), s.emit.graph
    if (least, most) == (0, None):
        return relu(s, x)
    bounds = [None if v is None else g.constant(float(v)) for v in (least, most)]
    while bounds[-1] is None:
        bounds.pop()
    value = g.node("Clip", [x.value, *bounds], [x.value.shape])[0]
    return Tensor(value, x.stored, x.dims)


@writes("clamp_min")
def clamp_min(s: Any, x: Tensor, least: Any) -> Tensor:
    """``max(x, least)``."""
    return clamp(s, x, least)


@writes("clamp_max")
def clamp_max(s: Any, x: Tensor, most: Any) -> Tensor:
    """``min(x, most)``."""
    return clamp(s, x, None, most)


@writes("relu6")
def relu6(s: Any, x: Tensor) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return clamp(s, x, 0.0, 6.0)


@writes("leaky_relu")
def leaky_relu(s: Any, x: Tensor, slope: float = 0.01) -> Tensor:
    """``max(x, slope·x)`` for a slope below 1: ``slope·x + (1 − slope)·relu(x)``."""
    return s.emit.add(s.emit.mul(x, slope), s.emit.mul(relu(s, x), 1 - slope))


@writes("prelu")
def prelu(s: Any, x: Tensor, slope: Tensor) -> Tensor:
    """``relu(x) − slope·relu(−x)``, a slope for each channel."""
    slope = s.emit.lift(slope)
    slope = slope.with_dims([*slope.dims, *([()] * (len(x.dims) - 2))])
    return s.emit.binary("Sub", relu(s, x), s.emit.mul(relu(s, neg(s, x)), slope))


@writes("softplus")
def softplus(s: Any, x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """``log(1 + exp(x))`` as ``relu(x) + log(1 + exp(−|x|))``, which never overflows."""
    del threshold
    if beta != 1:
        raise UnfitError("softplus has a form for beta = 1 alone")
    e = s.emit
    small = e.unary("Log", e.add(e.unary("Exp", neg(s, absolute(s, x))), 1.0))
    return e.add(relu(s, x), small)


@writes("mish")
def mish(s: Any, x: Tensor) -> Tensor:
    """``x·tanh(softplus(x))``."""
    return s.emit.unary("Mish", x)


@writes("elu")
def elu(s: Any, x: Tensor, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> Tensor:
    """``relu(x) + alpha·(exp(−relu(−x)) − 1)``."""
    if scale != 1 or input_scale != 1:
        raise UnfitError("elu has a form without scales alone")
    e = s.emit
    below = e.add(exp(s, neg(s, relu(s, neg(s, x)))), -1.0)
    return e.add(relu(s, x), e.mul(below, alpha))


@writes("maximum")
def maximum(s: Any, a: Any, b: Any) -> Tensor:
    """``max(a, b)`` as ``b + relu(a − b)``."""
    return s.emit.add(b, relu(s, s.emit.binary("Sub", a, b)))


@writes("minimum")
def minimum(s: Any, a: Any, b: Any) -> Tensor:
    """``min(a, b)`` as ``a − relu(a − b)``."""
    return s.emit.binary("Sub", a, relu(s, s.emit.binary("Sub", a, b)))


@writes("masked_fill")
def masked_fill(s: Any, x: Tensor, mask: Any, number: Any) -> Tensor:
    """A number where a constant mask is true."""
    if not isinstance(mask, torch.Tensor):
        raise UnfitError("a mask that depends on the images has no form")
    return where(s, mask, float(number), x)


@writes("where")
def where(s: Any, mask: Any, a: Any, b: Any) -> Tensor:
    """Choose by a constant mask: ``a·mask + b·(1 − mask)``; infinities become −1e9 and 1e9."""
    if not isinstance(mask, torch.Tensor):
        raise UnfitError("a mask that depends on the images has no form")
    chosen = mask.float()
    terms = []
    for x, m in ((a, chosen), (b, 1 - chosen)):
        if isinstance(x, Tensor):
            terms.append(s.emit.mul(x, m))
        else:
            number = torch.as_tensor(x, dtype=torch.float32).clamp(-1e9, 1e9)
            if not math.isclose(float(number.abs().max()), 0.0):
                terms.append(number * m)
    return s.emit.add(*terms) if len(terms) == 2 else terms[0]
