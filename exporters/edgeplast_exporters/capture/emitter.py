"""What operators of a traced model are written with: products, element-by-element operators, reductions, pieces.

Tensors come and go as the model sees them (:mod:`layouts`); each method writes the nodes that forward graphs consist
of, in the one form that the passes know: products of rows, constants to the right, a view only ever ``Reshape``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from edgeplast.graphs.graph import Graph, Value
from edgeplast_exporters.capture.constants import Operand
from edgeplast_exporters.capture.cutting import Cutting
from edgeplast_exporters.capture.tensors import BATCH, Axis, Dim, Tensor, UnfitError, fresh, standard_order


class Emitter(Cutting):
    """Writes operators into one graph."""

    # -- element by element ---------------------------------------------------------------------------------

    def unary(self, op: str, x: Tensor, **attributes: Any) -> Tensor:
        """An operator on every element."""
        x = self.declared(x)
        return replace(x, value=self.graph.unary(op, x.value, **attributes))

    def binary(self, op: str, a: Operand, b: Operand) -> Tensor:
        """``Add``, ``Sub``, ``Mul``, ``Div`` … with broadcasting; a constant that can stand right does."""
        left, right = self.lift(a), self.lift(b)
        if op in ("Add", "Mul") and _fixed(self.graph, left) and not _fixed(self.graph, right):
            left, right = right, left
        if _number(right) == {"Mul": 1.0, "Add": 0.0}.get(op, math.nan):
            return left
        (x, y), stored, dims = self.broadcast([left, right])
        return Tensor(self.graph.binary(op, x, y), stored, dims)

    def add(self, a: Operand, b: Operand) -> Tensor:
        """``a + b``."""
        return self.binary("Add", a, b)

    def mul(self, a: Operand, b: Operand) -> Tensor:
        """``a · b``."""
        return self.binary("Mul", a, b)

    def ending_in(self, x: Tensor, last: Sequence[Dim]) -> tuple[Tensor, Dim, list[Dim]]:
        """Return a tensor stored with the axes of some dimensions last, as rows.

        Returns:
            the tensor, the axes before, and the groups (before, last...) of its shape.
        """
        tail = [a for dim in last for a in dim]
        before = tuple(a for a in x.stored if a not in tail)
        x = self.stored_in(self.declared(x), (*before, *tail))
        return x, before, [before, *last]

    # -- products -------------------------------------------------------------------------------------------

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """``x·Wᵀ + b`` over the last dimension of x, as one product of rows; W is (out, in)."""
        x, before, groups = self.ending_in(x, x.dims[-1:])
        rows = self.shaped(x, groups)
        matrix = self.matrix(weight)
        shift = None if bias is None else self.vector(bias)
        out = Axis(matrix.shape[0])
        y = self.graph.gemm(rows, matrix, shift, trans_b=True)
        return self.seen_as(y, (*before, out), (*x.dims[:-1], (out,)))

    def matrix(self, weight: Tensor) -> Value:
        """Return a weight as a matrix (out, rest)."""
        weight = self.stored_in(self.declared(weight), weight.seen)
        first = math.prod(a.size for a in weight.dims[0])
        name, g = weight.value.name, self.graph
        if len(weight.value.shape) > 2 and name in g.weights and not any(name in n.inputs for n in g.nodes):
            g.values[name] = replace(weight.value, shape=(first, weight.value.elements // first))  # stored so
            return g.values[name]
        return self._reshaped(weight, (first, math.prod(a.size for a in weight.stored) // first))

    def vector(self, x: Tensor) -> Value:
        """Return a tensor as one dimension."""
        x = self.stored_in(self.declared(x), x.seen)
        return self._reshaped(x, (math.prod(a.size for a in x.stored),))

    def matmul(self, a: Operand, b: Operand, alpha: float = 1.0) -> Tensor:
        """``alpha·A·B`` over the last two dimensions, broadcast over the others."""
        left, right = self.lift(a), self.lift(b)
        if len(left.dims) == 1 or len(right.dims) == 1:
            raise UnfitError("a product with a vector")
        if not right.batched and len(right.dims) == 2 and left.batched and alpha == 1.0:
            return self.linear(left, right.permuted((1, 0)), None)
        left, right = self._same_inner(left, fresh(right))
        left, right = self.aligned_batches(left, right)
        m, k, n = left.dims[-2], left.dims[-1], right.dims[-1]
        if BATCH in k or (BATCH in m and BATCH in n):
            raise UnfitError("a product over the batch mixes images")
        if BATCH in m or BATCH in n:  # images become a dimension of their own, in front
            return self._image_by_image(left, right, alpha)
        dims = tuple(x or y for x, y in zip(left.dims[:-2], right.dims[:-2], strict=True))
        together = [a for dim in dims for a in dim if a in left.stored or a in right.stored]
        larger = left if sum(a in left.stored for a in together) >= sum(a in right.stored for a in together) else right
        here = [a for a in larger.stored if a in together]
        order = standard_order([*here, *(a for a in together if a not in here)])
        m_last = _ends(left, (*k, *m)) and not _ends(left, (*m, *k))
        n_last = _ends(right, (*k, *n)) or not _ends(right, (*n, *k))
        if m_last and not n_last:  # (A·B)ᵀ = Bᵀ·Aᵀ, and both lie so already
            return self._product(right, left, order, (n, k), (k, m), alpha, False, (*dims, m, n))
        if n_last:
            return self._product(left, right, order, (m, k), (k, n), alpha, False, (*dims, m, n))
        return self._product(left, right, order, (m, k), (n, k), alpha, True, (*dims, m, n))

    def _image_by_image(self, left: Tensor, right: Tensor, alpha: float) -> Tensor:
        """Multiply where the batch is among rows or columns: for that it becomes a dimension before the others."""
        m, n = left.dims[-2], right.dims[-1]
        rows, columns = (tuple(a for a in dim if a is not BATCH) for dim in (m, n))
        a = left.with_dims(((BATCH,) if BATCH in m else (), *left.dims[:-2], rows, left.dims[-1]))
        b = right.with_dims(((BATCH,) if BATCH in n else (), *right.dims[:-1], columns))
        out = self.matmul(a, b, alpha)
        back = dict(zip(rows, out.dims[-2], strict=True)) | dict(zip(columns, out.dims[-1], strict=True))
        placed = (tuple(back.get(axis, axis) for axis in dim) for dim in (m, n))
        return out.with_dims((*out.dims[1:-2], *placed))

    def aligned_batches(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return both with equal axes in the dimensions before the last two."""
        rank = max(len(a.dims), len(b.dims))
        a, b = (t.with_dims([()] * (rank - len(t.dims)) + list(t.dims)) for t in (a, b))
        for at in range(rank - 2):
            if a.dims[at] and b.dims[at] and a.dims[at] != b.dims[at]:
                a, b = self._same_axes(a, b, at)
        return a, b

    def _same_inner(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Give the last dimension of a and the last but one of b the same axes."""
        b = b.permuted((*range(len(b.dims) - 2), len(b.dims) - 1, len(b.dims) - 2))
        x, y = a, b
        if x.dims[-1] != y.dims[-1]:
            try:
                x, y = self._same_axes(x, y, -1)
            except UnfitError:
                x, y = self._same_axes(self.one_axis_a_dim(x), self.one_axis_a_dim(y), -1)
        return x, y.permuted((*range(len(y.dims) - 2), len(y.dims) - 1, len(y.dims) - 2))

    def _product(
        self,
        a: Tensor,
        b: Tensor,
        order: Dim,
        last_a: tuple[Dim, Dim],
        last_b: tuple[Dim, Dim],
        alpha: float,
        trans_b: bool,
        dims: Sequence[Dim],
    ) -> Tensor:
        placed = []
        for t, last in ((a, last_a), (b, last_b)):
            t = self.declared(t)
            batch = tuple(x for x in order if x in t.stored)
            tail = (*last[0], *last[1])
            placed.append(self.stored_in(t, (*batch, *tail)))
        groups: list[Dim] | None = None
        for t, last in zip(placed, (last_a, last_b), strict=True):
            found = self.partition(t)
            if found and [tuple(g) for g in found[-2:]] == [tuple(g) for g in last]:
                head = found[:-2]
                fits = tuple(x for g in head for x in g) == order
                fits = fits and all(len({x in o.stored for x in g}) <= 1 for g in head for o in placed)
                if fits and (groups is None or len(head) < len(groups)):
                    groups = head
        if groups is None:
            groups = []
            for x in order:
                same = (
                    groups
                    and groups[-1][-1] is not BATCH
                    and all((x in o.stored) == (groups[-1][-1] in o.stored) for o in placed)
                )
                if same:
                    groups[-1] = (*groups[-1], x)
                else:
                    groups.append((x,))
        values = []
        for t, last in zip(placed, (last_a, last_b), strict=True):
            shape = [math.prod(x.size for x in g) if g and g[0] in t.stored else 1 for g in groups]
            if not t.batched:
                while shape and shape[0] == 1:
                    shape = shape[1:]
            values.append(self._reshaped(t, (*shape, *(math.prod(x.size for x in g) for g in last))))
        left, right = values
        together = tuple(np.broadcast_shapes(left.shape[:-2], right.shape[:-2]))
        attributes: dict[str, Any] = {"transA": 0, "transB": int(trans_b), "alpha": alpha}
        columns = right.shape[-2] if trans_b else right.shape[-1]
        value = self.graph.node("MatMul", values, [(*together, left.shape[-2], columns)], **attributes)[0]
        return self.seen_as(value, (*order, *last_a[0], *last_b[0 if trans_b else 1]), dims)

    # -- along a dimension ----------------------------------------------------------------------------------

    def along_last(self, op: str, x: Tensor, dim: int, **attributes: Any) -> Tensor:
        """An operator along one dimension (Softmax …), which is stored last for it."""
        x = self.lift(x)
        dim %= len(x.dims)
        found = self.partition(x)
        if not (found and found[-1] == x.dims[dim]):
            x, _, groups = self.ending_in(x, [x.dims[dim]])
            head = [(BATCH,), tuple(a for a in groups[0] if a is not BATCH)] if x.batched else [groups[0]]
            value = self.shaped(x, [*head, groups[1]])
        else:
            value = x.value
        return replace(x, value=self.graph.unary(op, value, axis=-1, **attributes))

    def reduce(self, op: str, x: Tensor, over: Sequence[int], keep: bool) -> Tensor:
        """``ReduceMean``, ``ReduceSum`` or ``ReduceMax`` over some dimensions."""
        x = self.declared(self.lift(x))
        over = [d % len(x.dims) for d in over]
        axes = {a for d in over for a in x.dims[d]}
        if BATCH in axes:
            raise UnfitError("a reduction over the batch mixes images")
        seen = [() if d in over else dim for d, dim in enumerate(x.dims)]
        dims = seen if keep else [dim for d, dim in enumerate(seen) if d not in over]
        repeats = math.prod(a.size for a in axes if a not in x.stored)
        while waiting := [a for a in x.stored if a in axes]:
            start = x.stored.index(waiting[-1])
            end = start + 1
            while start > 0 and x.stored[start - 1] in axes:
                start -= 1
            run = x.stored[start:end]
            found = self.partition(x)
            if not (found and run in found):
                head, tail = x.stored[:start], x.stored[end:]
                found = [*([head] if head else []), run, *([tail] if tail else [])]
            value = self.shaped(x, found) if () not in found else x.value
            at = found.index(run)
            value = self.graph.reduce(op, value, at, keep=keep)
            x = replace(x, value=value, stored=(*x.stored[:start], *x.stored[end:]))
        result = x.with_dims(dims)
        if op == "ReduceSum" and repeats > 1:
            return self.mul(result, float(repeats))
        return result

    # -- pictures -------------------------------------------------------------------------------------------

    def picture(self, x: Tensor) -> Value:
        """Return a tensor stored as it is seen, each dimension one of the value (B, C, H, W)."""
        x = self.stored_in(self.declared(x), standard_order(x.seen))
        return self.shaped(x, list(x.dims))

    def new_picture(self, value: Value) -> Tensor:
        """Return a new value (B, C, H, W) as the model sees it."""
        return self.stored_tensor(value)


def _fixed(graph: Graph, t: Tensor) -> bool:
    return t.array is not None or t.value.name in graph.weights


def _number(t: Tensor) -> float | None:
    return float(t.array) if t.array is not None and t.array.ndim == 0 else None


def _ends(t: Tensor, axes: Dim) -> bool:
    return t.stored[len(t.stored) - len(axes) :] == axes
