"""A forward graph as a record in a file: what flows where, in which shapes, and no weights.

What the planner walks; ``edgeplast.graphs.recording`` turns it into the graph that it was made of, and back.
"""

from __future__ import annotations

import msgspec

Attribute = int | float | str | list[int | float]


class RecordedValue(msgspec.Struct, frozen=True, array_like=True):
    """One tensor: see :class:`edgeplast.graphs.graph.Value`."""

    name: str
    shape: tuple[int, ...]
    batched: bool = False
    dtype: str = "float32"


class RecordedNode(msgspec.Struct, frozen=True, array_like=True):
    """One operator call, its values by number: see :class:`edgeplast.graphs.graph.Node`; −1 is one left out."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attributes: dict[str, Attribute] = {}
    component: str = ""
    block: int | None = None


class RecordedGraph(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A forward graph.

    Attributes:
        values: all of them; what follows names them by their number.
        nodes: in the order in which they run.
        inputs: fed at every call.
        outputs: handed back.
        weights: parameters and large constants, whose data are not here.
        constants: value number to its content, as a flat list.
    """

    values: tuple[RecordedValue, ...]
    nodes: tuple[RecordedNode, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weights: tuple[int, ...]
    constants: dict[int, list[int | float]] = {}
