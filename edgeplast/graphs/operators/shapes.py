"""Shapes as values: int64 vectors that are known before a run, but for the batch size."""

from __future__ import annotations

from edgeplast.graphs.operators.record import Call, Extent, Form, Operator, ShapeError

Content = tuple[Extent, ...] | None


def _bounds(call: Call) -> tuple[int, int]:
    rank = len(call.value().shape)
    start, end, _ = slice(call.attributes.get("start", 0), call.attributes.get("end", rank)).indices(rank)
    return start, end


def _shape_forms(call: Call) -> list[Form]:
    start, end = _bounds(call)
    if end <= start:
        raise ShapeError(f"nothing is asked for of the shape of {call.value()}")
    return [Form((end - start,), False, "int64")]


def content(call: Call) -> Content:
    """Return what a node's first output holds, where it is a vector of integers that can be known before a run.

    Args:
        call: the node.
    """
    if call.op == "Shape":
        x = call.value()
        start, end = _bounds(call)
        return tuple(Extent(size, x.batched and i == 0) for i, size in enumerate(x.shape))[start:end]
    if call.op not in ("Concat", "Mul", "Slice", "Gather", "Reshape", "Identity") or call.value().dtype != "int64":
        return None
    vectors = [None if value is None else call.known(value.name) for value in call.inputs]
    if None in vectors:
        return None
    first, *others = [vector for vector in vectors if vector is not None]
    if call.op == "Concat":
        return tuple(extent for vector in (first, *others) for extent in vector)
    if call.op == "Mul":
        return _times(first, others[0])
    if call.op == "Slice" and len(others) == 3:
        return first[others[0][0].size : others[1][0].size]
    if call.op == "Gather":
        return tuple(first[extent.size] for extent in others[0])
    return first


def _times(a: tuple[Extent, ...], b: tuple[Extent, ...]) -> Content:
    length = max(len(a), len(b))
    a, b = (v * length if len(v) == 1 else v for v in (a, b))
    if len(a) != len(b) or any(x.batched and y.batched for x, y in zip(a, b, strict=True)):
        return None
    return tuple(
        Extent(x.size * y.size, (x.batched or y.batched) and x.size * y.size != 0) for x, y in zip(a, b, strict=True)
    )


OPERATORS = (Operator("Shape", "shape", _shape_forms),)
