"""Matrix products and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Tensor, UnfitError

MASKED = -1e9
"""What a masked attention weight's logit becomes; exp of it is 0, and no NaN comes of a row of them."""


@writes("linear")
def linear(s: Any, x: Tensor, weight: Any, bias: Any = None) -> Tensor:
    """``x·Wᵀ + b``."""
    return s.emit.linear(s.emit.lift(x), s.emit.lift(weight), None if bias is None else s.emit.lift(bias))


@writes("matmul", "bmm", "mm")
def matmul(s: Any, a: Any, b: Any) -> Tensor:
    """``A·B``, broadcast over all but the last two dimensions; vectors count as a row or a column."""
    a, b = s.emit.lift(a), s.emit.lift(b)
    row, column = len(a.dims) == 1, len(b.dims) == 1
    a = a.with_dims(((), *a.dims)) if row else a
    b = b.with_dims((*b.dims, ())) if column else b
    out = s.emit.matmul(a, b)
    dims = list(out.dims)
    if row:
        dims.pop(-2)
    if column:
        dims.pop(-1)
    return out.with_dims(dims)


@writes("addmm", "baddbmm", "addbmm")
def addmm(s: Any, c: Any, a: Any, b: Any, beta: float = 1, alpha: float = 1) -> Tensor:
    """``beta·C + alpha·A·B``."""
    product = s.emit.matmul(a, b)
    product = product if alpha == 1 else s.emit.mul(product, alpha)
    if beta == 0:
        return product
    return s.emit.add(product, c if beta == 1 else s.emit.mul(s.emit.lift(c), beta))


@writes("scaled_dot_product_attention")
def attention(
    s: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """``softmax(α·q·kᵀ + mask)·v``."""
    if dropout:
        raise UnfitError("dropout is on; call model.eval() first")
    e = s.emit
    q, k, v = e.lift(q), e.lift(k), e.lift(v)
    alpha = q.sizes[-1].count ** -0.5 if scale is None else scale
    if enable_gqa and k.sizes[-3].count != q.sizes[-3].count:
        from edgeplast_exporters.capture.aten.views import repeat_interleave

        often = q.sizes[-3].count // k.sizes[-3].count
        k, v = (repeat_interleave(s, t, often, -3) for t in (k, v))
    order = [*range(len(k.dims) - 2), len(k.dims) - 1, len(k.dims) - 2]
    weights = e.matmul(q, k.permuted(order), float(alpha))
    if causal:
        rows, columns = q.sizes[-2].count, k.sizes[-2].count
        mask = torch.ones(rows, columns, dtype=torch.bool).tril()
    if mask is not None:
        if isinstance(mask, torch.Tensor):
            added = torch.where(mask, 0.0, MASKED) if mask.dtype is torch.bool else mask.clamp_min(MASKED)
            if not bool((added == 0).all()):
                weights = e.add(weights, added)
        else:
            weights = e.add(weights, mask)
    return e.matmul(e.along_last("Softmax", weights, -1), v)


@writes("einsum")
def einsum(s: Any, equation: str, operands: Sequence[Any], path: Any = None) -> Tensor:
    """Sums of products of two tensors, as a matrix product over the letters that are summed."""
    del path
    e = s.emit
    sides, _, out = equation.replace(" ", "").partition("->")
    names = sides.split(",")
    if len(names) != 2 or "." in equation or any(len(set(n)) != len(n) for n in names):
        raise UnfitError(f"einsum {equation!r} has no form; two operands with different letters each have one")
    a, b = (e.lift(o) for o in operands)
    first, second = names
    shared = [c for c in first if c in second and c in out]
    summed = [c for c in first if c in second and c not in out]
    rows = [c for c in first if c not in second]
    columns = [c for c in second if c not in first]
    if not set(rows) | set(columns) <= set(out):
        raise UnfitError(f"einsum {equation!r} sums over a letter of one operand alone")
    size = dict(zip(first + second, (*a.sizes, *b.sizes), strict=True))

    def gathered(t: Tensor, letters: str, *parts: Sequence[str]) -> Tensor:
        t = t.permuted([letters.index(c) for part in parts for c in part])
        dims, at = [], 0
        for i, part in enumerate(parts):
            here = t.dims[at : at + len(part)]
            dims += list(here) if i == 0 else [tuple(x for d in here for x in d)]
            at += len(part)
        return t.with_dims(dims)

    product = e.matmul(gathered(a, first, shared, rows, summed), gathered(b, second, shared, summed, columns))
    product = e.reshape(product, [size[c] for c in (*shared, *rows, *columns)])
    letters = [*shared, *rows, *columns]
    return product.permuted([letters.index(c) for c in out])


@writes("softmax", "_softmax", "special_softmax")
def softmax(s: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Softmax along one dimension."""
    del dtype
    return s.emit.along_last("Softmax", x, dim)


@writes("log_softmax", "_log_softmax")
def log_softmax(s: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    """Logarithm of softmax."""
    del dtype
    return s.emit.along_last("LogSoftmax", x, dim)
