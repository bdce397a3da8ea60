"""Lookups: elements that an index names, rows that one of each image does, what is put back, the largest in order."""

from __future__ import annotations

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import Backward, Call, Form, Onto, Operator, ShapeError, Write, same

Writes = dict[int, "Write | Onto"]


def _gather_forms(call: Call) -> list[Form]:
    x, places = call.value(0), call.value(1)
    axis = call.along(int(call.attributes.get("axis", 0)))
    if places.batched or places.dtype != "int64":
        raise ShapeError(f"{places} names no places")
    return [Form((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]), x.batched, x.dtype)]


def _gather(s: Backward) -> Writes:
    """d, added up in the places that it was taken from.

    By ``ScatterElements``, which goes through them one after another: ``ScatterND`` adds in several threads at once.
    """
    g, x, places = s.graph, s.x(0), s.x(1)
    axis = s.call.along(int(s.call.attributes.get("axis", 0)))

    def dx() -> Value:
        if x.batched:
            raise ShapeError("only of parameters there is a gradient")
        count = places.elements
        spread = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        column = g.reshape(places, [count if i == axis else 1 for i in range(len(x.shape))])
        everywhere = g.node("Expand", [column, g.constant(list(spread))])[0]
        zeros = g.node("Expand", [g.constant(0.0), g.constant(list(x.shape))])[0]
        updates = g.reshape(s.d, spread)
        return g.node("ScatterElements", [zeros, everywhere, updates], axis=axis, reduction="add")[0]

    return {0: dx}


def _scatter_forms(call: Call) -> list[Form]:
    places, updates = call.value(1), call.value(2)
    if places.shape != updates.shape or places.dtype != "int64" or places.batched != updates.batched:
        raise ShapeError(f"{updates} do not go to {places}")
    return same(call)


def _top_forms(call: Call) -> list[Form]:
    x, (count,) = call.value(0), call.numbers(1)
    axis = call.along(int(call.attributes.get("axis", -1)))
    if not 1 <= count <= x.shape[axis]:
        raise ShapeError(f"{count} of {x.shape[axis]} are not to be had")
    shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    return [Form(shape, x.batched, x.dtype), Form(shape, x.batched, "int64")]


def _rows_forms(call: Call) -> list[Form]:
    """Rows of each image that its own numbers (images, n, 1) name."""
    x, places = call.value(0), call.value(1)
    own = x.batched and places.batched and x.shape[0] == places.shape[0] and call.attributes.get("batch_dims") == 1
    if not own or places.dtype != "int64" or len(places.shape) != 3 or places.shape[2] != 1:
        raise ShapeError(f"{places} names no rows of each image of {x}")
    return [Form((*places.shape[:2], *x.shape[2:]), True, x.dtype)]


OPERATORS = (
    Operator("Gather", "lookup", _gather_forms, _gather),
    Operator("GatherND", "lookup", _rows_forms),
    Operator("ScatterElements", "lookup", _scatter_forms),
    Operator("TopK", "lookup", _top_forms),
)
