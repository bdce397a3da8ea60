"""Numbers and arrays of a traced model as values of its graph: small ones in it, large ones in the weight file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from edgeplast.graphs.graph import Graph, Value
from edgeplast_exporters.capture.layouts import Layouts
from edgeplast_exporters.capture.tensors import BATCH, Axis, Dim, Tensor

SMALL_CONSTANT = 64
"""Elements of the largest array that is stored in the graph; larger ones lie in the weight file."""

Operand = Tensor | torch.Tensor | np.ndarray | float | int


class Constants(Layouts):
    """Declares constants, each once.

    Attributes:
        graph: what is written to.
        arrays: content of large constants, by the name of their weight.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph)
        self.arrays: dict[str, np.ndarray] = {}

    def stored_constant(self, array: np.ndarray) -> Value:
        """Return a value that holds an array: a small one in the graph, a large one as a weight named by its hash."""
        array = np.ascontiguousarray(array)
        if array.dtype.kind in "iub":
            array = array.astype(np.int64)
        if array.size <= SMALL_CONSTANT:
            return self.graph.constant(array)
        digest = hashlib.sha256(repr((array.shape, array.dtype.str)).encode() + array.tobytes()).hexdigest()[:16]
        name = f"constant.{digest}"
        if name not in self.arrays:
            self.arrays[name] = array
            self.graph.weight(name, array.shape, array.dtype.name)
        return self.graph.values[name]

    def lift(self, x: Operand) -> Tensor:
        """Return anything as a tensor; numbers and arrays become constants."""
        if isinstance(x, Tensor):
            return x
        array = (x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)).astype(np.float32)
        if array.size == 1:
            dims: tuple[Dim, ...] = ((),) * array.ndim
            return Tensor(Value("", ()), (), dims, array.reshape(()))
        axes = [Axis(n) if n > 1 else None for n in array.shape]
        dims = tuple((a,) if a is not None else () for a in axes)
        return Tensor(Value("", array.shape), tuple(a for a in axes if a is not None), dims, array)

    def stored_tensor(self, value: Value) -> Tensor:
        """Return a value of the graph as the model sees it: every dimension along an axis of its own."""
        axes = [Axis(n) if n > 1 else None for n in value.shape]
        dims = [(a,) if a is not None else () for a in axes]
        if value.batched:
            dims[0] = (BATCH, *dims[0])
        return Tensor(value, tuple(a for d in dims for a in d), tuple(dims))

    def seen_as(self, value: Value, stored: Dim, dims: Sequence[Dim]) -> Tensor:
        """Return a new value with known axes; those of size one are forgotten."""

        def kept(dim: Dim) -> Dim:
            return tuple(a for a in dim if a.size > 1 or a is BATCH)

        return Tensor(value, kept(stored), tuple(kept(d) for d in dims))
