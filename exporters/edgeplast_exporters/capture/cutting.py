"""Pieces of tensors: cut, taken out, padded, joined."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from edgeplast.graphs.graph import Value
from edgeplast_exporters.capture.constants import Constants, Operand
from edgeplast_exporters.capture.tensors import (
    BATCH,
    Axis,
    Dim,
    Size,
    Tensor,
    UnfitError,
    fresh,
    renamed,
    standard_order,
)


class Cutting(Constants):
    """Writes operators that cut and join."""

    def _cuttable(self, t: Tensor, dim: int, steps: Sequence[int]) -> tuple[Tensor, Axis, int]:
        """Return the tensor with an axis outermost in a dimension that cuts at ``steps`` go through.

        Returns:
            the tensor, that axis, and how many elements of the dimension one step of it covers.
        """
        for attempt in (t, None):
            t = attempt if attempt is not None else self.one_axis_a_dim(t)
            axes = t.dims[dim]
            if not axes or axes[0] is BATCH:
                raise UnfitError("a cut through the batch")
            inner = math.prod(a.size for a in axes[1:])
            if all(step % inner == 0 for step in steps):
                return t, axes[0], inner
        raise UnfitError("a cut through a dimension in unequal steps")

    def pieces(self, x: Tensor, dim: int, sizes: Sequence[int]) -> list[Tensor]:
        """Cut a dimension into consecutive pieces."""
        x = self.declared(x)
        dim %= len(x.dims)
        if len(sizes) == 1:
            return [x]
        bounds = np.cumsum(sizes).tolist()
        equal = len(set(sizes)) == 1
        if not x.dims[dim] or x.dims[dim][0] not in x.stored:
            return [self.slice(x, dim, end - size, end) for size, end in zip(sizes, bounds, strict=True)]
        if equal and len(x.dims[dim]) == 1 and x.dims[dim][0].size > len(sizes):
            x, axis, _ = x.split(x.dims[dim][0], len(sizes))
            counts, inner = [1] * len(sizes), sizes[0]
        else:
            x, axis, inner = self._cuttable(x, dim, bounds)
            counts = [size // inner for size in sizes]
        if x.stored.index(axis) > 1 and self._pending(x):
            rest = [a for a in standard_order(x.seen) if a not in (axis, BATCH)]
            x = self.stored_in(x, standard_order((axis, *rest)) if BATCH not in x.seen else (BATCH, axis, *rest))
        x, groups, at = self._with_outer(x, axis)
        value = self.shaped(x, groups)
        inside = math.prod(a.size for a in groups[at][1:])
        parts = [(*value.shape[:at], count * inside, *value.shape[at + 1 :]) for count in counts]
        lengths = self.graph.constant([p[at] for p in parts])
        values = self.graph.node("Split", [value, lengths], parts, batched=value.batched, axis=at)
        return [self._piece(x, axis, v, count) for v, count in zip(values, counts, strict=True)]

    @staticmethod
    def _pending(x: Tensor) -> bool:
        return x.stored != standard_order(x.seen)

    def _with_outer(self, x: Tensor, axis: Axis) -> tuple[Tensor, list[Dim], int]:
        """Return groups of what is stored in which an axis is the outermost of one, and the number of that."""
        found = self.partition(x) or []
        for i, group in enumerate(found):
            if group and group[0] is axis:
                return x, found, i
            if axis in group:
                at = group.index(axis)
                return x, [*found[:i], group[:at], group[at:], *found[i + 1 :]], i + 1
        at = x.stored.index(axis)
        groups = [g for g in (x.stored[:at], (axis,), x.stored[at + 1 :]) if g]
        return x, groups, groups.index((axis,))

    def _piece(self, x: Tensor, axis: Axis, value: Value, count: int) -> Tensor:
        kept = Axis(count)
        cut = renamed(x, axis, kept)
        return self.seen_as(value, cut.stored, cut.dims)

    def slice(self, x: Tensor, dim: int, start: int, end: int, step: int = 1) -> Tensor:
        """``x[start:end:step]`` along one dimension."""
        dim %= len(x.dims)
        size = x.sizes[dim].count
        start, end = (min(v + size if v < 0 else v, size) for v in (start, end))
        if step > 1:
            return self._strided(x, dim, start, end, step)
        if (start, end) == (0, size) or not x.dims[dim]:
            return x
        axis = x.dims[dim][0]
        if len(x.dims[dim]) == 1 and axis not in x.stored:
            kept = (Axis(end - start),) if end - start > 1 else ()
            return x.with_dims([kept if d == dim else old for d, old in enumerate(x.dims)])
        x, axis, inner = self._cuttable(x, dim, (start, end))
        if x.array is not None:
            x = self.declared(x)
        x, groups, at = self._with_outer(x, axis)
        rest = math.prod(a.size for a in groups[at][1:])
        value = self.shaped(x, groups)
        count = (end - start) // inner
        value = self.graph.slice(value, at, start // inner * rest, end // inner * rest)
        return self._piece(x, axis, value, count)

    def _strided(self, x: Tensor, dim: int, start: int, end: int, step: int) -> Tensor:
        size, count = x.sizes[dim].count, -(-(end - start) // step)
        if size % step:  # as if it were longer: pad, then as below
            x = self.pad(x, dim, 0, -size % step, 0.0)
            size += -size % step
        x = self.reshape(x, [*x.sizes[:dim], Size(size // step), Size(step), *x.sizes[dim + 1 :]])
        x = self.select(x, dim + 1, start % step)
        return self.slice(x, dim, start // step, start // step + count)

    def select(self, x: Tensor, dim: int, index: int) -> Tensor:
        """``x[index]`` along one dimension, which is dropped."""
        dim %= len(x.dims)
        index %= x.sizes[dim].count
        piece = self.slice(x, dim, index, index + 1)
        return piece.with_dims(d for i, d in enumerate(piece.dims) if i != dim)

    def pad(self, x: Tensor, dim: int, before: int, after: int, number: float) -> Tensor:
        """Put a number before and after one dimension (negative: cut off)."""
        x, dim = self.declared(x), dim % len(x.dims)
        size = x.sizes[dim].count
        x = self.slice(x, dim, max(-before, 0), size - max(-after, 0))
        before, after = max(before, 0), max(after, 0)
        if not before and not after:
            return x
        if x.repeated or not x.dims[dim]:
            parts = [self._full(x, dim, n, number) for n in (before, after)]
            return self.concat([t for t in (parts[0], x, parts[1]) if t is not None], dim)
        x = x if len(x.dims[dim]) == 1 else self.one_axis_a_dim(x)
        axis = x.dims[dim][0]
        x, groups, at = self._with_outer(x, axis)
        if groups[at] != (axis,):
            i = x.stored.index(axis)
            groups = [g for g in (x.stored[:i], (axis,), x.stored[i + 1 :]) if g]
            at = groups.index((axis,))
        value = self.shaped(x, groups)
        pads = [0] * (2 * len(groups))
        pads[at], pads[len(groups) + at] = before, after
        longer = Axis(axis.size + before + after)
        shape = [longer.size if i == at else n for i, n in enumerate(value.shape)]
        inputs = [value, self.graph.constant(pads)]
        if number:
            inputs.append(self.graph.constant(float(number)))
        padded = self.graph.node("Pad", inputs, [tuple(shape)], batched=value.batched)[0]
        new = renamed(x, axis, longer)
        return self.seen_as(padded, new.stored, new.dims)

    def _full(self, like: Tensor, dim: int, count: int, number: float) -> Tensor | None:
        if not count:
            return None
        shape = [count if d == dim else 1 for d in range(len(like.dims))]
        t = self.lift(np.full(shape, number, np.float32))
        return t.with_dims(
            t.dims[d] if d == dim else tuple(a if a is BATCH else Axis(a.size) for a in old)
            for d, old in enumerate(like.dims)
        )

    def concat(self, parts: Sequence[Operand], dim: int) -> Tensor:
        """Join along one dimension."""
        tensors = [self.lift(p) for p in parts]
        dim %= len(tensors[0].dims)
        if any(BATCH in t.dims[dim] for t in tensors):
            raise UnfitError("a concatenation along the batch")
        tensors = [fresh(t if len(t.dims[dim]) < 2 else self.one_axis_a_dim(t)) for t in tensors]
        own = [t.dims[dim] or (Axis(1),) for t in tensors]
        rest = self.aligned([t.with_dims(() if d == dim else x for d, x in enumerate(t.dims)) for t in tensors])
        dims = [next((t.dims[d] for t in rest if t.dims[d]), ()) for d in range(len(rest[0].dims))]
        lead = max(range(len(tensors)), key=lambda i: (not rest[i].repeated, rest[i].batched, own[i][0].size))
        everything = {a for d in dims for a in d}
        model = [a for a in rest[lead].stored if a in everything or a is own[lead][0]]
        if own[lead][0] in model and everything <= {*model}:
            order: list[Axis] = model
        else:
            order = list(standard_order(a for d in (*dims[:dim], own[lead], *dims[dim + 1 :]) for a in d))
        at = order.index(own[lead][0])
        placed = []
        for t, mine in zip(rest, own, strict=True):
            full = t.with_dims((mine if mine[0] in t.stored else ()) if d == dim else x for d, x in enumerate(dims))
            mine_at = tuple(mine[0] if a is own[lead][0] else a for a in order)
            placed.append(self.stored_in(full, mine_at))
        found = self.partition(placed[lead])
        if found is None or own[lead] not in found:
            found = [g for g in (tuple(order[:at]), own[lead], tuple(order[at + 1 :])) if g]
        groups = [[mine if g == own[lead] else g for g in found] for mine in own]
        values = [self.shaped(t, g) for t, g in zip(placed, groups, strict=True)]
        joined = Axis(sum(a[0].size for a in own))
        value = self.graph.concat(values, found.index(own[lead]))
        stored = tuple(joined if a is own[lead][0] else a for a in order)
        return self.seen_as(value, stored, [(joined,) if d == dim else x for d, x in enumerate(dims)])
