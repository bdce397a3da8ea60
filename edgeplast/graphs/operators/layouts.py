"""Layouts: the same elements under other shapes, in another order, cut, joined, padded, repeated.

``Reshape`` is the only view; everything else copies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edgeplast.graphs.nodes import Value
from edgeplast.graphs.operators.record import Backward, Call, Extent, Form, Onto, Operator, ShapeError, Write, broadcast

Writes = dict[int, "Write | Onto"]


def _reshape_forms(call: Call) -> list[Form]:
    """-1 stands for what is left, 0 for the dimension of the input in the same place."""
    x = call.value()
    target: list[Extent | None] = []
    for i, extent in enumerate(call.extents(1)):
        if extent.size == 0:
            if i >= len(x.shape):
                raise ShapeError(f"{x} has no dimension {i} to keep")
            extent = Extent(x.shape[i], x.batched and i == 0)
        target.append(None if extent.size == -1 else extent)
    if target.count(None) > 1:
        raise ShapeError("more than one dimension is left open")
    known = [extent for extent in target if extent is not None]
    carried = [i for i, extent in enumerate(target) if extent is not None and extent.batched]
    if None in target:
        count = x.elements // max(math.prod(extent.size for extent in known), 1)
        open_at = target.index(None)
        target[open_at] = Extent(count, x.batched and not carried)
    shape = [extent.size for extent in target if extent is not None]
    first = target[0] if target else None
    batched = [i for i, extent in enumerate(target) if extent is not None and extent.batched]
    if math.prod(shape) != x.elements or bool(batched) != x.batched or batched not in ([], [0]):
        raise ShapeError(f"{x} does not take the shape {_shown(target)}")
    return [Form(tuple(shape), bool(first and first.batched), x.dtype)]


def _shown(extents: Sequence[Extent | None]) -> str:
    return "×".join("?" if e is None else f"{'B·' if e.batched else ''}{e.size}" for e in extents)


def _reshape(s: Backward) -> Writes:
    """d in the shape of the input."""
    return {0: lambda: s.graph.reshape(s.d, s.x().shape)}


def _transpose_forms(call: Call) -> list[Form]:
    x, perm = call.value(), list(call.attributes["perm"])
    if sorted(perm) != list(range(len(x.shape))) or (x.batched and perm[0] != 0):
        raise ShapeError(f"{x} cannot be permuted by {perm}; images stay in front")
    return [Form(tuple(x.shape[i] for i in perm), x.batched, x.dtype)]


def _transpose(s: Backward) -> Writes:
    """d, permuted back."""
    perm = list(s.call.attributes["perm"])
    return {0: lambda: s.graph.transpose(s.d, [perm.index(i) for i in range(len(perm))])}


def cuts_of(call: Call) -> dict[int, tuple[int, int, int]]:
    """Return start, end and step of a Slice for each dimension that it cuts, counted from the front."""
    x = call.value()
    starts, ends, axes = (call.numbers(i) for i in (1, 2, 3))
    steps = call.numbers(4) if call.optional(4) is not None else (1,) * len(starts)
    cuts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[call.along(axis)] = (*slice(start, end, step).indices(x.shape[axis])[:2], step)
    return cuts


def _slice_forms(call: Call) -> list[Form]:
    x, cuts = call.value(), cuts_of(call)
    shape = [len(range(*cuts[i])) if i in cuts else size for i, size in enumerate(x.shape)]
    if 0 in shape:
        raise ShapeError(f"nothing is left of {x}")
    return [Form(tuple(shape), x.batched, x.dtype)]


def _slice(s: Backward) -> Writes:
    """d, with zeros around it, and between its elements where the cut took steps."""
    g, x = s.graph, s.x()
    cuts = cuts_of(s.call)

    def dx() -> Value:
        d = s.d
        if any(step < 1 for _, _, step in cuts.values()):
            raise ShapeError("a reversed dimension has no gradient")
        for axis, (_, _, step) in cuts.items():
            if step > 1:
                d = spread(s, d, axis, step)
        before, after = {}, {}
        for axis, (start, _, _) in cuts.items():
            before[axis], after[axis] = start, x.shape[axis] - start - d.shape[axis]
        if any(n < 0 for n in after.values()):
            ends = [min(d.shape[axis], x.shape[axis] - cuts[axis][0]) for axis in cuts]
            d = g.slice(d, list(cuts), [0] * len(cuts), ends)
            after = {axis: x.shape[axis] - cuts[axis][0] - d.shape[axis] for axis in cuts}
        return g.pad(d, before, after)

    return {0: dx}


def spread(s: Backward, value: Value, axis: int, step: int) -> Value:
    """Put ``step − 1`` zeros after each element along one dimension."""
    g, shape = s.graph, value.shape
    apart = g.reshape(value, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    padded = g.pad(apart, {}, {axis + 1: step - 1})
    return g.reshape(padded, (*shape[:axis], shape[axis] * step, *shape[axis + 1 :]))


def _split_forms(call: Call) -> list[Form]:
    x, sizes, axis = call.value(), call.numbers(1), call.along(int(call.attributes.get("axis", 0)))
    if sum(sizes) != x.shape[axis] or min(sizes) < 1:
        raise ShapeError(f"{x} does not fall into pieces of {sizes}")
    return [Form((*x.shape[:axis], size, *x.shape[axis + 1 :]), x.batched, x.dtype) for size in sizes]


def _split(s: Backward) -> Writes:
    """The pieces' gradients, joined; zeros around them where a piece has none."""
    g, axis = s.graph, s.call.along(int(s.call.attributes.get("axis", 0)))

    def dx() -> Value:
        pieces: list[Value] = []
        waiting = 0
        for size, d in zip(s.call.numbers(1), s.gradients, strict=True):
            if d is not None:
                if waiting and pieces:
                    pieces[-1] = g.pad(pieces[-1], {}, {axis: waiting})
                elif waiting:
                    d = g.pad(d, {axis: waiting}, {})
                pieces.append(d)
                waiting = 0
            else:
                waiting += size
        if waiting:
            pieces[-1] = g.pad(pieces[-1], {}, {axis: waiting})
        return pieces[0] if len(pieces) == 1 else g.concat(pieces, axis)

    return {0: dx}


def _concat_forms(call: Call) -> list[Form]:
    parts = [value for value in call.inputs if value is not None]
    first = parts[0]
    axis = call.axis(int(call.attributes["axis"]))
    for part in parts:
        alike = len(part.shape) == len(first.shape) and part.batched == first.batched and part.dtype == first.dtype
        if not alike or any(i != axis and a != b for i, (a, b) in enumerate(zip(part.shape, first.shape, strict=True))):
            raise ShapeError(f"{first} and {part} do not join along dimension {axis}")
    if axis == 0 and first.batched:
        raise ShapeError("the first dimension holds images, which do not mix")
    return [
        Form(
            tuple(sum(p.shape[i] for p in parts) if i == axis else n for i, n in enumerate(first.shape)),
            first.batched,
            first.dtype,
        )
    ]


def _concat(s: Backward) -> Writes:
    """d, cut where the parts met."""
    axis, at = s.call.axis(int(s.call.attributes["axis"])), 0
    writes: Writes = {}
    for index, part in enumerate(s.call.inputs):
        assert part is not None
        end = at + part.shape[axis]
        writes[index] = lambda at=at, end=end: s.graph.slice(s.d, axis, at, end)  # type: ignore[misc]
        at = end
    return writes


def pads_of(call: Call) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a Pad puts before and after each dimension."""
    pads, rank = call.numbers(1), len(call.value().shape)
    if len(pads) != 2 * rank or min(pads) < 0 or (call.value().batched and (pads[0] or pads[rank])):
        raise ShapeError(f"{call.value()} is not padded by {pads}")
    return pads[:rank], pads[rank:]


def _pad_forms(call: Call) -> list[Form]:
    x, (before, after) = call.value(), pads_of(call)
    shape = tuple(size + b + a for size, b, a in zip(x.shape, before, after, strict=True))
    return [Form(shape, x.batched, x.dtype)]


def _pad(s: Backward) -> Writes:
    """d, the padding cut off."""
    x, (before, after) = s.x(), pads_of(s.call)
    if s.call.attributes.get("mode", "constant") != "constant":
        raise ShapeError("only padding with a number has a gradient")
    axes = [i for i in range(len(x.shape)) if before[i] or after[i]]
    starts, ends = [before[i] for i in axes], [before[i] + x.shape[i] for i in axes]
    return {0: lambda: s.graph.slice(s.d, axes, starts, ends)}


def _tile_forms(call: Call) -> list[Form]:
    x, repeats = call.value(), call.numbers(1)
    if len(repeats) != len(x.shape) or (x.batched and repeats[0] != 1):
        raise ShapeError(f"{x} is not repeated {repeats} times")
    return [Form(tuple(n * r for n, r in zip(x.shape, repeats, strict=True)), x.batched, x.dtype)]


def _tile(s: Backward) -> Writes:
    """d, summed over the repetitions."""
    g, x, repeats = s.graph, s.x(), s.call.numbers(1)

    def dx() -> Value:
        shape: list[int] = []
        axes: list[int] = []
        for size, often in zip(x.shape, repeats, strict=True):
            if often > 1:
                axes.append(len(shape))
                shape.append(often)
            shape.append(size)
        return g.reduce("ReduceSum", g.reshape(s.d, shape), axes, keep=False) if axes else s.d

    return {0: dx}


def _expand_forms(call: Call) -> list[Form]:
    x, target = call.value(), call.extents(1)
    if any(extent.batched for extent in target[1:]):
        raise ShapeError("images come first")
    wanted = Value("target", tuple(extent.size for extent in target), bool(target) and target[0].batched)
    return [broadcast(x, wanted, dtype=x.dtype)]


def _expand(s: Backward) -> Writes:
    """d (summed, as everywhere, over what was repeated)."""
    return {0: lambda: s.d}


OPERATORS = (
    Operator("Reshape", "view", _reshape_forms, _reshape, effort=0),
    Operator("Transpose", "layout", _transpose_forms, _transpose),
    Operator("Slice", "layout", _slice_forms, _slice),
    Operator("Split", "layout", _split_forms, _split),
    Operator("Concat", "layout", _concat_forms, _concat),
    Operator("Pad", "layout", _pad_forms, _pad),
    Operator("Tile", "layout", _tile_forms, _tile),
    Operator("Expand", "layout", _expand_forms, _expand),
)
