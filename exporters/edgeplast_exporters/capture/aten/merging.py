"""Token merging: the one operator of :mod:`edgeplast.compression.merging`, in the fewest bytes moved.

Indices stay indices: ``TopK`` finds partners and orders, ``GatherND`` copies whole rows of each image. Only what joins
is added by a product with a matrix of zeros and ones, of as many columns as tokens are merged: ``ScatterND`` adds in
several threads at once. ``TopK`` takes the lower place where two are equal, as torch's maximum and stable sort do.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from edgeplast.graphs.graph import Graph, Value
from edgeplast_exporters.capture.aten.table import writes
from edgeplast_exporters.capture.tensors import Tensor

_LEAST_SQUARE = 1e-12
"""As in the module."""


@writes("merge_tokens")
def merge_tokens(
    s: Any, tokens: Tensor, keys: Tensor, sizes: Tensor | None, protected: int, count: int
) -> tuple[Tensor, Tensor]:
    """Pairs of similar tokens become one each; returns the tokens and how many patches each stands for."""
    e, g = s.emit, s.emit.graph
    x, k = _by_image(e, tokens), _by_image(e, keys)
    of = None if sizes is None else _by_image(e, sizes)
    squares = g.add(g.reduce("ReduceSum", g.mul(k, k), 2), g.constant(_LEAST_SQUARE))
    k = g.div(k, g.unary("Sqrt", squares))
    similarity = g.matmul(*_sets(g, k, protected), trans_b=True)  # (1, first, second)
    best, partner = g.node("TopK", [similarity, g.constant([1])], axis=2)
    first, second = similarity.shape[1:]
    order = _top(g, g.reshape(best, (1, first)), largest=True)[1]
    gone = g.reshape(g.slice(order, 1, 0, count), (1, count, 1))
    stay = g.reshape(_top(g, g.slice(order, 1, count, first), largest=False)[0], (1, first - count, 1))
    onto = g.reshape(_rows(g, partner, gone), (1, 1, count))
    joins = g.node("Cast", [g.node("Equal", [onto, _places(g, second)])[0]], to="float32")[0]  # (1, second, count)
    a, b = _sets(g, x, protected)
    if of is None:
        total = g.add(g.reduce("ReduceSum", joins, 2), g.constant(1.0))
        own = g.unary("Reciprocal", total)
        ones = g.constant([0, protected + first - count, 0, 0, 0, 0])
        sized = g.node("Pad", [total, ones, g.constant(1.0)])[0]
    else:
        a_size, b_size = _sets(g, of, protected)
        joins = g.mul(joins, g.reshape(_rows(g, a_size, gone), (1, 1, count)))
        total = g.add(g.reduce("ReduceSum", joins, 2), b_size)
        own = g.div(b_size, total)
        sized = _joined(g, of, protected, _rows(g, a_size, stay), total)
    merged = g.add(g.mul(b, own), g.matmul(g.div(joins, total), _rows(g, a, gone)))
    out = _joined(g, x, protected, _rows(g, a, stay), merged)
    return e.stored_tensor(out), e.stored_tensor(sized)


def _by_image(e: Any, t: Tensor) -> Value:
    """Return a tensor as a value (1, N, D) of each image."""
    t = e.one_axis_a_dim(e.declared(t))
    value: Value = e.shaped(t, t.dims)
    return value


def _sets(g: Graph, x: Value, protected: int) -> tuple[Value, Value]:
    """Return every second row after the protected ones, and those between."""
    first, second = (g.slice(x, 1, start, x.shape[1], steps=[2]) for start in (protected, protected + 1))
    return first, second


def _joined(g: Graph, x: Value, protected: int, *rest: Value) -> Value:
    """Return the protected rows of x with others after them."""
    return g.concat([g.slice(x, 1, 0, protected), *rest] if protected else list(rest), 1)


def _top(g: Graph, x: Value, *, largest: bool) -> list[Value]:
    return g.node("TopK", [x, g.constant([x.shape[1]])], axis=1, largest=int(largest))


def _rows(g: Graph, x: Value, places: Value) -> Value:
    return g.node("GatherND", [x, places], batch_dims=1)[0]


def _places(g: Graph, count: int) -> Value:
    return g.constant(np.arange(count).reshape(count, 1))
