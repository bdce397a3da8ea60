"""Matrix products: ``Gemm`` on rows, ``MatMul`` on stacks of matrices, their integer form.

Shapes: ``Gemm`` multiplies (m, k) by (k, n); one of its operands may be transposed. ``MatMul`` carries ``transA``,
``transB`` and ``alpha`` (the writer makes ``FusedMatMul`` of it) and broadcasts the dimensions before the last two.
"""

from __future__ import annotations

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import (
    Backward,
    Call,
    Form,
    Onto,
    Operator,
    ShapeError,
    Write,
    broadcast,
    product,
)


def _gemm_forms(call: Call) -> list[Form]:
    a, b, c = call.value(0), call.value(1), call.optional(2)
    trans_a, trans_b = (bool(call.attributes.get(key)) for key in ("transA", "transB"))
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise ShapeError(f"matrices are multiplied, not {a} and {b}")
    rows, inner = a.shape[::-1] if trans_a else a.shape
    inner_b, columns = b.shape[::-1] if trans_b else b.shape
    summed_a, summed_b = a.batched and trans_a, b.batched and not trans_b
    if inner != inner_b or summed_a != summed_b or (b.batched and trans_b):
        raise ShapeError(f"{a} and {b} do not multiply")
    batched = a.batched and not trans_a
    if c is not None:
        broadcast(Value("product", (rows, columns), batched), c)
    return [Form((rows, columns), batched)]


def _inner(call: Call) -> int:
    a = call.value()
    return a.shape[-2] if call.attributes.get("transA") else a.shape[-1]


def _operations(call: Call, out: Form) -> int:
    return 2 * product(out.shape) * _inner(call)


def _gemm(s: Backward) -> dict[int, Write | Onto]:
    """``Y = α·X·Wᵀ + b`` (or X·W): dW += α·dᵀ·X, db = Σ_rows d, dX = α·d·W; the forward pass never transposes X."""
    g, d, x, w = s.graph, s.d, s.x(0), s.x(1)
    trans_b, alpha = bool(s.call.attributes.get("transB")), s.call.attributes.get("alpha", 1.0)
    assert not s.call.attributes.get("transA")
    left, right = (d, x) if trans_b else (x, d)
    return {
        1: Onto(lambda total, name: g.gemm(left, right, total, trans_a=True, alpha=alpha, name=name)),
        2: lambda: d,
        0: lambda: g.gemm(d, w, trans_b=not trans_b, alpha=alpha),
    }


def _matmul_forms(call: Call) -> list[Form]:
    a, b = call.value(0), call.value(1)
    if len(a.shape) < 2 or len(b.shape) < 2:
        raise ShapeError(f"matrices are multiplied, not {a} and {b}")
    rows, inner = a.shape[-2:][:: -1 if call.attributes.get("transA") else 1]
    inner_b, columns = b.shape[-2:][:: -1 if call.attributes.get("transB") else 1]
    if inner != inner_b or any(v.batched and len(v.shape) == 2 for v in (a, b)):
        raise ShapeError(f"{a} and {b} do not multiply")
    stacks = [Value(v.name, v.shape[:-2], v.batched) for v in (a, b)]
    batch = broadcast(*stacks)
    return [Form((*batch.shape, rows, columns), batch.batched)]


def _matmul(s: Backward) -> dict[int, Write | Onto]:
    """``C = α·A·B`` with optional transposes: dA = α·d·Bᵀ, dB = α·Aᵀ·d; the smaller operand gets transposed copies."""
    g, d, a, b = s.graph, s.d, s.x(0), s.x(1)
    trans_a, trans_b = (bool(s.call.attributes.get(key)) for key in ("transA", "transB"))
    alpha = s.call.attributes.get("alpha", 1.0)
    assert not (trans_a and trans_b)

    def da() -> Value:
        if trans_a:
            return g.matmul(b, d, trans_b=True, alpha=alpha)
        return g.matmul(d, b, trans_b=not trans_b, alpha=alpha)

    def db() -> Value:
        if trans_a:
            return g.matmul(a, d, alpha=alpha)
        left, right = (d, a) if trans_b else (a, d)
        return g.matmul(left, right, trans_a=True, alpha=alpha)

    return {0: da, 1: db}


def _integer_forms(call: Call) -> list[Form]:
    a, b = call.value(0), call.value(1)
    if (a.dtype, b.dtype) != ("uint8", "int8") or a.shape[-1] != b.shape[0] or len(b.shape) != 2:
        raise ShapeError(f"{a} and {b} do not multiply as integers")
    return [Form((*a.shape[:-1], b.shape[1]), a.batched)]


OPERATORS = (
    Operator("Gemm", "product", _gemm_forms, _gemm, operations=_operations),
    Operator("MatMul", "product", _matmul_forms, _matmul, operations=_operations),
    Operator("MatMulIntegerToFloat", "product", _integer_forms, operations=_operations),
)
