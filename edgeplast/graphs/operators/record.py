"""What the table says of one operator, and what its rules get to see.

A record answers every question that the rest of the room asks about an operator: which shapes come out
(``forms``), how gradients go back (``gradient``), what a call costs (``operations``), what its kernel takes beside its
outputs (``workspace``), and of which kind it is. Passes and measures ask the record; none of them knows names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from edgeplast.graphs.nodes import Value
from edgeplast.recomputation import ELEMENT_FLOPS

if TYPE_CHECKING:
    from edgeplast.graphs.graph import Graph

Kind = Literal["view", "product", "pointwise", "norm", "reduction", "layout", "lookup", "shape"]
"""``view``: the same bytes under another shape. ``product``: multiplies and adds along a dimension, the work of a
model. ``pointwise``: each element by itself. ``norm``: elements by statistics of their neighbours. ``reduction``: fewer
elements. ``layout``: moves elements. ``lookup``: moves those that an index names. ``shape``: computes int64 shapes."""


class Form(NamedTuple):
    """What a shape rule says of one output; see :class:`edgeplast.graphs.nodes.Value`."""

    shape: tuple[int, ...]
    batched: bool = False
    dtype: str = "float32"


class Extent(NamedTuple):
    """One number in a shape: ``size``, or ``size`` times the batch size."""

    size: int
    batched: bool = False


class ShapeError(ValueError):
    """Inputs and attributes of a node do not go together; the text says how."""


@dataclass(frozen=True)
class Call:
    """One node as the rules see it.

    Attributes:
        op: operator name.
        inputs: values read, None for an optional one left out.
        attributes: of the node.
        known: from the name of an int64 value to its content, None where that is not known before a run.
        outputs: how many outputs the node has; 0 where it is not made yet.
    """

    op: str
    inputs: tuple[Value | None, ...]
    attributes: Mapping[str, Any]
    known: Callable[[str], tuple[Extent, ...] | None] = lambda _name: None
    outputs: int = 0

    def value(self, index: int = 0) -> Value:
        """Return an input that must be there."""
        if index >= len(self.inputs) or (value := self.inputs[index]) is None:
            raise ShapeError(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        """Return an input, None where it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def extents(self, index: int) -> tuple[Extent, ...]:
        """Return the content of a shape that an input holds."""
        found = self.known(self.value(index).name)
        if found is None:
            raise ShapeError(f"{self.value(index)} must be known before a run (a constant, or computed from shapes)")
        return found

    def numbers(self, index: int) -> tuple[int, ...]:
        """Return the content of a constant int64 input."""
        found = self.extents(index)
        if any(extent.batched for extent in found):
            raise ShapeError(f"input {index} must not depend on the batch size")
        return tuple(extent.size for extent in found)

    def axis(self, number: int, rank: int | None = None) -> int:
        """Return a dimension counted from the front; negative numbers count from the end."""
        rank = len(self.value().shape) if rank is None else rank
        if not -rank <= number < rank:
            raise ShapeError(f"axis {number} of {rank} dimensions")
        return number % rank

    def along(self, number: int) -> int:
        """Return a dimension of the first input that is not the one that images share."""
        axis = self.axis(number)
        if axis == 0 and self.value().batched:
            raise ShapeError("the first dimension holds images, which do not mix")
        return axis


Forms = Callable[[Call], Sequence[Form]]
Write = Callable[[], Value]


@dataclass(frozen=True)
class Onto:
    """A gradient that the product itself adds to what there is already.

    Attributes:
        write: from (what to add to, or None; name of the result, or None) to the sum.
    """

    write: Callable[[Value | None, str | None], Value]


Rule = Callable[["Backward"], Mapping[int, "Write | Onto"]]
"""From a forward node and its incoming gradients to how the gradient of each input is written, by input index, in the
order of writing. Only those that lead to a trainable parameter are written, then summed over what was broadcast."""


@dataclass(frozen=True)
class Backward:
    """A forward node on the way back, as gradient rules see it.

    Attributes:
        graph: to write to.
        call: the forward node.
        outputs: its outputs, None where left out.
        gradients: of its outputs, None where none arrives.
        wanted: for each input, whether its gradient leads to a trainable parameter.
        reader: from the name of a forward value to the only forward node that reads it, or None.
        gradient_of: from the name of a forward value visited before to its gradient.
        slope: declares a value that the forward pass computes beside its output (see ``Operator.curve``).
    """

    graph: Graph
    call: Call
    outputs: tuple[Value | None, ...]
    gradients: tuple[Value | None, ...]
    wanted: tuple[bool, ...]
    reader: Callable[[str], Any] = field(default=lambda _name: None)
    gradient_of: Mapping[str, Value] = field(default_factory=dict)
    slope: Callable[[], Value] | None = None

    @property
    def d(self) -> Value:
        """The gradient of the only output that has one."""
        (gradient,) = (g for g in self.gradients if g is not None)
        return gradient

    @property
    def y(self) -> Value:
        """The first output."""
        output = self.outputs[0]
        assert output is not None
        return output

    def x(self, index: int = 0) -> Value:
        """An input."""
        return self.call.value(index)


@dataclass(frozen=True)
class Operator:
    """One row of the table.

    Attributes:
        name: as in ``Node.op``.
        kind: what passes and measures go by.
        forms: the shape rule: from a call to its outputs; raises ShapeError.
        gradient: None where there is none.
        operations: of a product, from a call and its first output: floating-point operations for one image.
        effort: of everything else, for each element returned, in operations that a matrix product does in that time
            (rounded; onnxruntime 1.19 and 1.32, AVX-512).
        workspace: from a call and its first output to what the kernel allocates while it runs: bytes in all and bytes
            for each image; None for none.
        curve: of an activation: writes it in plain operators, from (graph, x, name of y, name of the slope or None,
            attributes); with a name for the slope it is computed as well.
        kernel: whether runtimes have one for it; if not, ``curve`` stands for it.
        unread_options: outputs from the second on are only computed where somebody reads them.
    """

    name: str
    kind: Kind
    forms: Forms
    gradient: Rule | None = None
    operations: Callable[[Call, Form], int] | None = None
    effort: int = ELEMENT_FLOPS
    workspace: Callable[[Call, Form], tuple[int, int]] | None = None
    curve: Callable[[Graph, Value, str, str | None, Mapping[str, Any]], None] | None = None
    kernel: bool = True
    unread_options: bool = False


def broadcast(*values: Value, dtype: str | None = None) -> Form:
    """Return numpy's broadcast of some inputs; a batched one must be as long in front as all others of its rank."""
    rank = max(len(v.shape) for v in values)
    batched = any(v.batched for v in values)
    shape = [1] * rank
    for v in values:
        offset = rank - len(v.shape)
        for i, size in enumerate(v.shape, offset):
            if size != shape[i] and 1 not in (size, shape[i]):
                raise ShapeError(" and ".join(map(str, values)) + " do not broadcast")
            shape[i] = max(size, shape[i]) if 0 not in (size, shape[i]) else 0
    for v in values:
        front = v.shape[0] if len(v.shape) == rank and v.shape else 1
        if (
            batched
            and not (front == 1 and not v.batched)
            and not (v.batched and front == shape[0] and len(v.shape) == rank)
        ):
            raise ShapeError(f"{v} does not go along with the images of " + " and ".join(map(str, values)))
    return Form(tuple(shape), batched, dtype or values[0].dtype)


def product(shape: Sequence[int]) -> int:
    """Return the number of elements."""
    return math.prod(shape)


def same(call: Call) -> list[Form]:
    """Shape rule: as the first input."""
    x = call.value()
    return [Form(x.shape, x.batched, x.dtype)]
