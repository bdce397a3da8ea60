"""Tensors as a traced model sees them: a value of the graph, the axes it is stored along, and the dimensions seen."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgeplast.graphs.graph import Value


@dataclass(frozen=True, eq=False)
class Axis:
    """A direction along which elements lie, of one size; two axes are the same only if they are one object."""

    size: int


BATCH = Axis(1)
"""The images of a micro-batch: size 1 for each image."""


@dataclass(frozen=True)
class Size:
    """A dimension as the model sees it: ``count``, times the number of images if ``batched``."""

    count: int
    batched: bool = False


Dim = tuple[Axis, ...]


class UnfitError(Exception):
    """A view that has no form with the batch in front."""


@dataclass(frozen=True)
class Tensor:
    """A value of the graph and how the model sees it.

    Attributes:
        value: of the graph; its elements lie along ``stored``.
        stored: axes, the slowest first; ``BATCH`` is the first one if and only if the value is batched.
        dims: what the model sees.
        array: the data, where they are known (a constant): its views cost nothing, ``value`` is not looked at.
    """

    value: Value
    stored: Dim
    dims: tuple[Dim, ...]
    array: np.ndarray | None = None

    @property
    def batched(self) -> bool:
        """Whether the value is batched."""
        return bool(self.stored) and self.stored[0] is BATCH

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The dimensions that the model sees."""
        return tuple(Size(math.prod(a.size for a in dim), BATCH in dim) for dim in self.dims)

    @property
    def seen(self) -> Dim:
        """All axes that the model sees, in its order."""
        return tuple(itertools.chain.from_iterable(self.dims))

    @property
    def repeated(self) -> bool:
        """Whether some elements are seen more often than they are stored."""
        return any(a not in self.stored for a in self.seen)

    def split(self, axis: Axis, outer: int) -> tuple[Tensor, Axis, Axis]:
        """Return the tensor with one axis cut in two, the outer one of the given size."""
        first, second = Axis(outer), Axis(axis.size // outer)
        assert first.size * second.size == axis.size
        parts = tuple(a for a in (first, second) if a.size > 1) if axis.size > 1 else ()

        def cut(dim: Dim) -> Dim:
            return tuple(itertools.chain.from_iterable(parts if a is axis else (a,) for a in dim))

        return replace(self, stored=cut(self.stored), dims=tuple(cut(d) for d in self.dims)), first, second

    def permuted(self, order: Sequence[int]) -> Tensor:
        """Return the tensor with its dimensions in another order."""
        return replace(self, dims=tuple(self.dims[i] for i in order))

    def with_dims(self, dims: Iterable[Dim]) -> Tensor:
        """Return the same elements seen in other dimensions."""
        return replace(self, dims=tuple(dims))


def standard_order(axes: Iterable[Axis]) -> Dim:
    """Return axes with the batch in front."""
    axes = tuple(axes)
    return (BATCH, *(a for a in axes if a is not BATCH)) if BATCH in axes else axes


def renamed(t: Tensor, old: Axis, new: Axis) -> Tensor:
    """Return the tensor with one axis called by another name."""

    def change(dim: Dim) -> Dim:
        return tuple(new if a is old else a for a in dim)

    return replace(t, stored=change(t.stored), dims=tuple(change(d) for d in t.dims))


def fresh(t: Tensor, axes: Iterable[Axis] | None = None) -> Tensor:
    """Return the tensor with new axes for those it sees (or some of them): no other tensor has them."""
    for axis in t.seen if axes is None else tuple(axes):
        if axis is not BATCH:
            t = renamed(t, axis, Axis(axis.size))
    return t
