"""Tensors whose views are kept in mind instead of written: reshapes and permutations become nodes where one is needed.

A traced model reshapes and permutes all the time, and most of it cancels: attention alone does so seven times a block.
Here a tensor is a value of the graph, the *axes* its elements are stored along, in order, and the *dimensions* that the
model sees, each a run of axes. A reshape splits or regroups axes, a permutation reorders dimensions, and neither writes
a node. An operator asks for the order that it needs and gets at most one Reshape, one Transpose and one Reshape.
Dimensions of size one have no axes; an axis that is seen but not stored is a repetition (``expand``).

The batch is an axis of its own, ``BATCH``, and always the first one stored, wherever the model sees it
(``permute(2, 0, 3, 1, 4)`` puts it second): the graph's values have it in front.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edgeplast.graphs.graph import Graph, Value
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


class Layouts:
    """Writes the views that operators need into a graph, each once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._views: dict[tuple[object, ...], Value] = {}

    # -- views that cost nothing ----------------------------------------------------------------------------

    def reshape(self, t: Tensor, sizes: Sequence[Size]) -> Tensor:
        """Return the tensor in other dimensions of the same elements."""
        sizes = list(sizes)
        again = self._regrouped(t, sizes) or self._regrouped(self.flat(t), sizes)
        if again is None:
            raise UnfitError("a reshape mixes the batch with what lies before it")
        return again

    def _regrouped(self, t: Tensor, sizes: Sequence[Size]) -> Tensor | None:
        waiting, dims = list(t.seen), []
        for size in sizes:
            dim: list[Axis] = []
            need, batch = size.count, size.batched
            while need > 1 or batch:
                if not waiting:
                    return None
                axis = waiting.pop(0)
                if axis is BATCH:
                    if not batch:
                        return None
                    batch = False
                elif need % axis.size == 0:
                    need //= axis.size
                elif need > 1 and axis.size % need == 0:
                    t, axis, rest = t.split(axis, need)
                    waiting.insert(0, rest)
                    need = 1
                else:
                    return None
                dim.append(axis)
            dims.append(tuple(dim))
        return None if waiting else t.with_dims(dims)

    def one_axis_a_dim(self, t: Tensor) -> Tensor:
        """Return the tensor stored as it is seen (the batch in front), every dimension along a single axis."""
        t = self.stored_in(t, standard_order(t.seen))
        merged: dict[Dim, Dim] = {}
        for dim in t.dims:
            rest = tuple(a for a in dim if a is not BATCH)
            if len(rest) < 2:
                merged[dim] = dim
            elif rest == dim or dim[0] is BATCH:
                merged[dim] = (*dim[: len(dim) - len(rest)], Axis(math.prod(a.size for a in rest)))
            else:
                raise UnfitError("the batch does not come first in a dimension")
        stored = [a for dim in t.dims for a in merged[dim]]
        return replace(t, stored=standard_order(stored), dims=tuple(merged[d] for d in t.dims))

    def flat(self, t: Tensor) -> Tensor:
        """Return the tensor stored as it is seen, all but the batch along a single axis."""
        t = self.stored_in(t, standard_order(t.seen))
        if BATCH in t.seen and t.seen[0] is not BATCH:
            raise UnfitError("the batch does not come first where a tensor is reshaped")
        rest = tuple(a for a in t.seen if a is not BATCH)
        axis = (Axis(math.prod(a.size for a in rest)),) if len(rest) > 1 else rest
        stored = (*((BATCH,) if t.batched else ()), *axis)
        return replace(t, stored=stored, dims=(stored,))

    # -- views that may need a node -------------------------------------------------------------------------

    def stored_in(self, t: Tensor, order: Dim) -> Tensor:
        """Return the tensor with its elements along exactly these axes in this order.

        Axes that are not stored are repetitions (of any size) and are written out.
        """
        if order == t.stored:
            return t
        assert not any(a is BATCH for a in order[1:]), "the batch is stored first"
        missing = [a for a in order if a not in t.stored]
        assert all(a in order for a in t.stored), "no axis may be lost"
        here = tuple(a for a in order if a in t.stored)
        t = self._transposed(t, here)
        return self._written_out(t, order) if missing else t

    def _transposed(self, t: Tensor, order: Dim) -> Tensor:
        if order == t.stored:
            return t
        if t.array is not None:
            sizes = [a.size for a in t.stored]
            moved = t.array.reshape(sizes).transpose([t.stored.index(a) for a in order])
            return replace(t, array=np.ascontiguousarray(moved), stored=order)
        runs = _runs(t.stored, order)
        value = self.shaped(t, runs_in(t.stored, runs))
        here = runs_in(t.stored, runs)
        perm = [here.index(run) for run in runs]
        key = ("transpose", value.name, *perm)
        if key not in self._views:
            self._views[key] = self.graph.transpose(value, perm)
        return replace(t, value=self._views[key], stored=order)

    def _written_out(self, t: Tensor, order: Dim) -> Tensor:
        """Repeat elements along the axes of ``order`` that are not stored."""
        counts = [a.size for a in order]
        if t.array is not None and BATCH not in order:
            ones = [a.size if a in t.stored else 1 for a in order]
            return replace(t, array=np.broadcast_to(t.array.reshape(ones), counts), stored=order)
        t = self.declared(t)
        real = [a for a in order if a not in t.stored and a.size > 1 and a is not BATCH]
        groups: list[Dim] = []
        for axis in order:
            if (
                groups
                and axis not in real
                and axis is not BATCH
                and groups[-1][0] not in real
                and BATCH not in groups[-1]
            ):
                groups[-1] = (*groups[-1], axis)
            else:
                groups.append((axis,))
        once = tuple(1 if g[0] in real else math.prod(a.size for a in g) for g in groups)
        often = tuple(math.prod(a.size for a in g) for g in groups)
        g, value = self.graph, t.value
        if real or not value.shape or value.shape[0] != 1:
            value = self._reshaped(value, once)
        if real:
            repeats = g.constant([b // a for a, b in zip(once, often, strict=True)])
            value = g.node("Tile", [value, repeats], [often], batched=value.batched)[0]
        if BATCH in order and not t.batched:
            images = g.values[g.inputs[0]]
            value = g.expand_to_batch(value, images)
        return replace(t, value=value, stored=order, array=None)

    def shaped(self, t: Tensor, groups: Sequence[Dim]) -> Value:
        """Return the value in a shape of one dimension for each group of axes (consecutive as stored)."""
        assert tuple(itertools.chain.from_iterable(groups)) == tuple(
            a for a in t.stored if a.size > 1 or any(a in g for g in groups)
        ), "groups must follow the order in which a tensor is stored"
        return self._reshaped(t, tuple(math.prod(a.size for a in g) for g in groups))

    def _reshaped(self, t: Tensor | Value, shape: tuple[int, ...]) -> Value:
        if isinstance(t, Tensor):
            if t.array is not None:
                return self.stored_constant(t.array.reshape(shape))
            t = t.value
        if t.shape == shape:
            return t
        key = ("reshape", t.name, *shape)
        if key not in self._views:
            self._views[key] = self.graph.reshape(t, shape)
        return self._views[key]

    def declared(self, t: Tensor) -> Tensor:
        """Return the tensor with a value in the graph (a constant has none before somebody reads it)."""
        if t.array is None:
            return t
        shape = tuple(a.size for a in t.stored)
        return replace(t, value=self.stored_constant(t.array.reshape(shape)), array=None)

    def stored_constant(self, array: np.ndarray) -> Value:
        """Return a value of the graph that holds an array."""
        raise NotImplementedError

    def partition(self, t: Tensor) -> list[Dim] | None:
        """Return which axes each dimension of the value's shape is made of; None where they do not match."""
        if t.array is not None:
            return None
        waiting, groups = list(t.stored), []
        for i, size in enumerate(t.value.shape):
            group: list[Axis] = []
            need = size
            if i == 0 and t.batched:
                group.append(waiting.pop(0))
            while need > 1:
                if not waiting or need % waiting[0].size:
                    return None
                need //= waiting[0].size
                group.append(waiting.pop(0))
            groups.append(tuple(group))
        return None if waiting else groups

    # -- several tensors ------------------------------------------------------------------------------------

    def aligned(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors of equally many dimensions, whose equal dimensions lie along the same axes."""
        rank = max(len(t.dims) for t in tensors)
        padded = [t.with_dims([()] * (rank - len(t.dims)) + list(t.dims)) for t in tensors]
        padded[1:] = [fresh(t) for t in padded[1:]]
        try:
            return self._unified(padded)
        except UnfitError:
            return self._unified([self.one_axis_a_dim(t) for t in padded])

    def _unified(self, tensors: list[Tensor]) -> list[Tensor]:
        tensors = list(tensors)
        for at in range(len(tensors[0].dims)):
            first: int | None = None
            for i in range(len(tensors)):
                if not tensors[i].dims[at]:
                    continue
                if first is None:
                    first = i
                elif tensors[i].dims[at] != tensors[first].dims[at]:
                    before = tensors[first]
                    tensors[first], tensors[i] = self._same_axes(before, tensors[i], at)
                    if tensors[first] is not before:  # refined: those before it must follow
                        for j in range(first + 1, i):
                            if tensors[j].dims[at]:
                                _, tensors[j] = self._same_axes(tensors[first], tensors[j], at)
        return tensors

    def _same_axes(self, a: Tensor, b: Tensor, at: int) -> tuple[Tensor, Tensor]:
        i = 0
        while i < max(len(a.dims[at]), len(b.dims[at])):
            if i >= min(len(a.dims[at]), len(b.dims[at])):
                raise UnfitError("sizes differ")
            x, y = a.dims[at][i], b.dims[at][i]
            if (x is BATCH) != (y is BATCH):
                raise UnfitError("one dimension is batched and the other is not")
            if x.size > y.size and x.size % y.size == 0:
                a, x, _ = a.split(x, y.size)
            elif y.size > x.size and y.size % x.size == 0:
                b, y, _ = b.split(y, x.size)
            elif x.size != y.size:
                raise UnfitError("axes do not match")
            if x is not y:
                b = renamed(b, y, a.dims[at][i])
            i += 1
        return a, b

    def broadcast(self, tensors: Sequence[Tensor]) -> tuple[list[Value], Dim, tuple[Dim, ...]]:
        """Return values that broadcast against each other as the model's tensors do.

        Returns:
            the values, and axes and dimensions of what an element-by-element operator makes of them.
        """
        tensors = self.aligned(tensors)
        dims = tuple(next((t.dims[i] for t in tensors if t.dims[i]), ()) for i in range(len(tensors[0].dims)))
        stored = {a for t in tensors for a in t.stored}
        everything = [a for dim in dims for a in dim if a in stored]
        full = [t for t in tensors if len(t.stored) == len(everything)]
        order = self._best_order(full, standard_order(everything))
        tensors = [self._transposed(_without_repeats(t), tuple(a for a in order if a in t.stored)) for t in tensors]
        groups = self._groups(tensors, order)
        return [self._against(t, groups) for t in tensors], order, dims

    @staticmethod
    def _best_order(full: Sequence[Tensor], standard: Dim) -> Dim:
        moving = [t for t in full if t.array is None]
        orders = [t.stored for t in [*(t for t in moving if t.batched), *moving]]
        return standard if not orders or standard in orders else orders[0]

    def _groups(self, tensors: Sequence[Tensor], order: Dim) -> list[Dim]:
        """Return the dimensions in which values meet: as one of them is already, or as few as possible."""

        def uniform(group: Dim) -> bool:
            return all(len({a in t.stored for a in group}) <= 1 for t in tensors)

        whole = [p for t in tensors if len(t.stored) == len(order) and (p := self.partition(t)) is not None]
        whole = sorted((p for p in whole if tuple(a for g in p for a in g) == order), key=len)
        for groups in whole:
            if all(uniform(g) for g in groups):
                return groups
        runs: list[Dim] = []
        for group in whole[0] if whole else [order]:
            run: Dim = ()
            for axis in group:
                if run and not uniform((*run, axis)):
                    runs.append(run)
                    run = ()
                run = (*run, axis)
            runs.append(run)
        return runs

    def _against(self, t: Tensor, groups: Sequence[Dim]) -> Value:
        shape = [math.prod(a.size for a in g) if g and g[0] in t.stored else 1 for g in groups]
        if not t.batched:
            while shape and shape[0] == 1:
                shape = shape[1:]
            if t.array is None and _without_ones(t.value.shape) == tuple(shape) and len(t.value.shape) <= len(groups):
                return t.value
        return self._reshaped(t, tuple(shape))


def _without_repeats(t: Tensor) -> Tensor:
    return t.with_dims(tuple(a for a in dim if a in t.stored) for dim in t.dims)


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _runs(stored: Dim, order: Dim) -> list[Dim]:
    """Return ``order`` as runs of axes that also stand together as stored; the batch is a run of its own."""
    runs: list[Dim] = []
    for axis in order:
        follows = runs and runs[-1][-1] is not BATCH and stored.index(axis) == stored.index(runs[-1][-1]) + 1
        if follows:
            runs[-1] = (*runs[-1], axis)
        else:
            runs.append((axis,))
    return runs


def runs_in(stored: Dim, runs: Sequence[Dim]) -> list[Dim]:
    """Return runs in the order in which they are stored."""
    return sorted(runs, key=lambda run: stored.index(run[0]))
