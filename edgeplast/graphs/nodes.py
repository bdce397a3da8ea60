"""Value and Node: the two records that a graph consists of."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Phase = Literal["forward", "recompute", "backward"]

BYTES = {"float32": 4, "int64": 8, "int8": 1, "uint8": 1, "int32": 4, "bool": 1, "int4": 0.5}
"""Bytes per element of every dtype that occurs in a graph."""


@dataclass(frozen=True)
class Value:
    """One tensor of the graph.

    Attributes:
        name: unique in the graph; parameters carry the module's name.
        shape: dimensions; of a batched value the first is a count per image.
        batched: whether the first dimension is multiplied by the batch size.
        dtype: a key of ``BYTES``.
    """

    name: str
    shape: tuple[int, ...]
    batched: bool = False
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """Elements per image (batched) or in all."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes per image (batched) or in all."""
        return math.ceil(self.elements * BYTES[self.dtype])

    def __str__(self) -> str:
        batch = "B·" if self.batched else ""
        dtype = "" if self.dtype == "float32" else f" {self.dtype}"
        return f"{self.name}({batch}{'×'.join(map(str, self.shape))}{dtype})"


@dataclass(frozen=True)
class Node:
    """One operator call.

    Attributes:
        op: a name in the table of operators (``operators``): ONNX's, but for a few that the writer turns into several
            (``MatMul`` with ``transA``, ``transB`` and ``alpha``, activations without a kernel of their own).
        inputs: value names, ``""`` for an optional input left out.
        outputs: value names, ``""`` for an optional output left out.
        attributes: operator attributes.
        component: the component served, for messages and the footprint.
        block: index of the block it belongs to, None before, after and between blocks.
        phase: whether it computes the prediction, computes it again, or computes gradients.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    component: str = ""
    block: int | None = None
    phase: Phase = "forward"

    def rewired(self, names: dict[str, str]) -> Node:
        """Return this node reading other values, by ``names`` (old name to new)."""
        if not any(i in names for i in self.inputs):
            return self
        return replace(self, inputs=tuple(names.get(i, i) for i in self.inputs))
