"""Norms: elements scaled by statistics of their neighbours, or by fixed ones (batch normalization in evaluation)."""

from __future__ import annotations

import math

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import Backward, Call, Form, Onto, Operator, ShapeError, Write, same
from edgeplast.recomputation import SOFTMAX_FLOPS

Writes = dict[int, "Write | Onto"]


def _along_last(call: Call) -> int:
    axis = call.along(int(call.attributes.get("axis", -1)))
    return axis


def _softmax_forms(call: Call) -> list[Form]:
    _along_last(call)
    return same(call)


def _softmax_workspace(call: Call, out: Form) -> tuple[int, int]:
    """Along any dimension but the last the kernel works on transposed copies of its input and its output."""
    if _along_last(call) == len(out.shape) - 1:
        return 0, 0
    copies = 2 * 4 * math.prod(out.shape)
    return (0, copies) if out.batched else (copies, 0)


def _softmax(s: Backward) -> Writes:
    """``p = softmax(z)``: dz = p·(d − Σ d·p)."""
    g = s.graph
    return {0: lambda: g.mul(s.y, g.sub(s.d, _row_sums(s)))}


def _row_sums(s: Backward) -> Value:
    """Return Σ d·p over the last dimension, for each row of the attention weights p (…, heads, queries, keys).

    Where p only weighs values (o = p·v), that is Σ do·o over the head's few dimensions (the identity of
    FlashAttention, Dao et al. 2022, arXiv 2205.14135, appendix B), which spares a pass over N². Where o is then
    laid out as rows of tokens, the sum is taken there: the projection's gradient needs o in that form anyway.
    """
    g, p, d = s.graph, s.y, s.d
    axis = _along_last(s.call)
    product = s.reader(p.name)
    weighs = product is not None and product.op == "MatMul" and product.inputs[0] == p.name
    if not weighs or product.attributes.get("transA") or axis != len(p.shape) - 1:
        return g.reduce("ReduceSum", g.mul(d, p), axis)
    heads = product.outputs[0]
    if g.values[heads].shape[:-1] != p.shape[:-1]:
        return g.reduce("ReduceSum", g.mul(d, p), axis)
    transposed = s.reader(heads)
    rows = s.reader(transposed.outputs[0]) if transposed is not None else None
    if transposed is None or rows is None or (transposed.op, rows.op) != ("Transpose", "Reshape"):
        return g.reduce("ReduceSum", g.mul(s.gradient_of[heads], g.values[heads]), -1)
    out, perm = rows.outputs[0], transposed.attributes["perm"]
    if perm[-1] != len(perm) - 1:
        return g.reduce("ReduceSum", g.mul(s.gradient_of[heads], g.values[heads]), -1)
    split = g.reshape(g.mul(s.gradient_of[out], g.values[out]), g.values[transposed.outputs[0]].shape)
    return g.transpose(g.reduce("ReduceSum", split, -1), [perm.index(i) for i in range(len(perm))])


def _log_softmax(s: Backward) -> Writes:
    """``y = log softmax(z)``: d − eʸ·Σ d."""
    g, axis = s.graph, _along_last(s.call)
    return {0: lambda: g.sub(s.d, g.mul(g.unary("Exp", s.y), g.reduce("ReduceSum", s.d, axis)))}


def _layer_norm_forms(call: Call) -> list[Form]:
    x, gamma, beta = call.value(0), call.value(1), call.optional(2)
    axis = call.along(int(call.attributes.get("axis", -1)))
    for parameter in (gamma, beta):
        if parameter is not None and (parameter.shape != x.shape[axis:] or parameter.batched):
            raise ShapeError(f"{parameter} does not fit the last dimensions of {x}")
    reduced = Form((*x.shape[:axis], *(1 for _ in x.shape[axis:])), x.batched)
    return [Form(x.shape, x.batched), reduced, reduced][: call.outputs or 3]


def _layer_norm(s: Backward) -> Writes:
    """With x̂ = (x − μ)/σ and e = d·γ: dγ = Σ d·x̂, dβ = Σ d, dx = (e − mean(e) − x̂·mean(e·x̂))/σ."""
    g, x, gamma, d = s.graph, s.x(0), s.x(1), s.gradients[0]
    mean, inverse = s.outputs[1:3]
    assert d is not None and mean is not None and inverse is not None
    axes = list(range(s.call.along(int(s.call.attributes.get("axis", -1))), len(x.shape)))
    normalised = g.mul(g.sub(x, mean), inverse)

    def dx() -> Value:
        e = g.mul(d, gamma)
        along = g.reduce("ReduceMean", g.mul(e, normalised), axes)
        centred = g.sub(e, g.reduce("ReduceMean", e, axes))
        return g.mul(g.sub(centred, g.mul(normalised, along)), inverse)

    return {1: lambda: g.mul(d, normalised), 2: lambda: d, 0: dx}


def _batch_norm_forms(call: Call) -> list[Form]:
    x = call.value()
    if len(x.shape) < 2:
        raise ShapeError(f"{x} has no channels")
    for index in range(1, 5):
        if call.value(index).shape != x.shape[1:2] or call.value(index).batched:
            raise ShapeError(f"{call.value(index)} does not fit the {x.shape[1]} channels of {x}")
    if call.attributes.get("training_mode"):
        raise ShapeError("statistics of a batch are not computed here")
    return same(call)


def _batch_norm(s: Backward) -> Writes:
    """``y = (x − m)·r·γ + β`` with fixed m and r = 1/√(v + ε): dx = d·γ·r, dγ = r·Σ d·(x − m), dβ = Σ d."""
    g, x, gamma, mean, variance, d = s.graph, s.x(0), s.x(1), s.x(3), s.x(4), s.d
    column = (gamma.shape[0], *(1 for _ in x.shape[2:]))
    others = [axis for axis in range(len(x.shape)) if axis != 1]
    deviation = g.unary("Sqrt", g.add(variance, g.constant(float(s.call.attributes.get("epsilon", 1e-5)))))

    def dgamma() -> Value:
        product = g.mul(d, g.sub(x, g.reshape(mean, column)))
        return g.div(g.reduce("ReduceSum", product, others, keep=False), deviation)

    return {
        1: dgamma,
        2: lambda: g.reduce("ReduceSum", d, others, keep=False),
        0: lambda: g.mul(d, g.reshape(g.div(gamma, deviation), column)),
    }


OPERATORS = (
    Operator("Softmax", "norm", _softmax_forms, _softmax, effort=SOFTMAX_FLOPS, workspace=_softmax_workspace),
    Operator("LogSoftmax", "norm", _softmax_forms, _log_softmax, workspace=_softmax_workspace),
    Operator("LayerNormalization", "norm", _layer_norm_forms, _layer_norm, effort=100, unread_options=True),
    Operator("BatchNormalization", "norm", _batch_norm_forms, _batch_norm),
)
