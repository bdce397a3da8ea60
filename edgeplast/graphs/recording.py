"""Forward graphs written down without weights, and read again."""

from __future__ import annotations

import math

import numpy as np

from edgeplast.errors import InputError
from edgeplast.graphs.checking import check
from edgeplast.graphs.graph import BYTES, Graph, Node, Value
from edgeplast.recorded_graph import RecordedGraph, RecordedNode, RecordedValue


def recorded(graph: Graph) -> RecordedGraph:
    """Write a forward graph down."""
    number = {name: i for i, name in enumerate(graph.values)} | {"": -1}
    return RecordedGraph(
        values=tuple(RecordedValue(v.name, v.shape, v.batched, v.dtype) for v in graph.values.values()),
        nodes=tuple(
            RecordedNode(
                n.op,
                tuple(number[name] for name in n.inputs),
                tuple(number[name] for name in n.outputs),
                dict(n.attributes),
                n.component,
                n.block,
            )
            for n in graph.nodes
        ),
        inputs=tuple(number[name] for name in graph.inputs),
        outputs=tuple(number[name] for name in graph.outputs),
        weights=tuple(number[name] for name in graph.weights),
        constants={number[name]: array.ravel().tolist() for name, array in graph.constants.items()},
    )


def restored(record: RecordedGraph) -> Graph:
    """Return the graph that was written down.

    Raises:
        InputError: the record is damaged: a value is read before it is made, twice made, or of no such kind.
    """
    try:
        names = [value.name for value in record.values]
        graph = Graph(
            values={v.name: Value(v.name, v.shape, v.batched, v.dtype) for v in record.values},
            nodes=[
                Node(n.op, _named(names, n.inputs), _named(names, n.outputs), dict(n.attributes), n.component, n.block)
                for n in record.nodes
            ],
            inputs=[names[i] for i in record.inputs],
            outputs=[names[i] for i in record.outputs],
            weights=[names[i] for i in record.weights],
            constants={
                names[i]: np.array(content, record.values[i].dtype).reshape(record.values[i].shape)
                for i, content in record.constants.items()
            },
            _fresh=max((int(tail) for name in names if (tail := name.rpartition(".")[2]).isdecimal()), default=0),
        )
    except (IndexError, ValueError, TypeError, OverflowError) as error:  # beyond 64 bits is an OverflowError
        raise InputError(f"The recorded graph is damaged: {error}. Score the model again.") from error
    _check(graph, len(names))
    try:
        return check(graph)
    except (ValueError, LookupError, TypeError, ArithmeticError, AssertionError) as error:
        # The rules of operators take attributes as the capture writes them; in a damaged record they are anything.
        reason = str(error) or "attributes that no operator has"
        raise InputError(f"The recorded graph is damaged: {reason}. Score the model again.") from error


def _named(names: list[str], numbers: tuple[int, ...]) -> tuple[str, ...]:
    return tuple("" if i == -1 else names[i] for i in numbers)


def _check(graph: Graph, count: int) -> None:
    """Raise unless every value is made once, before it is read, in a shape and kind that there is."""
    if len(graph.values) != count:
        raise InputError("The recorded graph names two values alike. Score the model again.")
    for value in graph.values.values():
        if value.dtype not in BYTES or any(n < 0 for n in value.shape) or math.prod(value.shape) > 2**53:
            raise InputError(
                f"The recorded graph has a value {value.name!r} of {value.dtype}, shape {value.shape}, which there is "
                "not. Score the model again."
            )
    named = [*graph.inputs, *graph.weights, *graph.constants]
    there = set(named)
    if len(there) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise InputError(f"The recorded graph lists {twice!r} twice. Score the model again.")
    for node in graph.nodes:
        missing = [name for name in node.inputs if name and name not in there]
        again = [name for name in node.outputs if name in there]
        if missing or again or not node.outputs or not node.inputs:
            what = f"reads {missing[0]!r} before it is made" if missing else "makes nothing new"
            raise InputError(f"The recorded graph is damaged: {node.op} {what}. Score the model again.")
        there.update(filter(None, node.outputs))
    if not set(graph.outputs) <= there:
        raise InputError("The recorded graph hands back what it does not make. Score the model again.")
