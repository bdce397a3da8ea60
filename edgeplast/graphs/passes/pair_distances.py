"""Graph pass: for two pictures at a time, how far each of some values moves from one to the other.

Does not change its input. What counts as one image in the graph becomes a pair: every batched value has twice the rows,
those of the first picture before those of the second. Distances are computed where the values are, so that each value
lives as long as in inference and what is handed back is two numbers for it.

What would break it: a runtime that moves these nodes to the end, where every value would wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgeplast.contract import DISTANCES, PAIRS
from edgeplast.graphs.graph import Graph, Value

_DIFFERENCE_AND_FIRST = np.array([[1, -1], [1, 0]], np.float32)


@dataclass(frozen=True)
class Heard:
    """A value whose distance is wanted.

    Attributes:
        value: its name.
        times: squares are counted so often.
        factor: each channel (dimension 1, or the last of a matrix) is divided by these numbers first; None for none.
    """

    value: str
    times: int = 1
    factor: np.ndarray | None = None


def pair_distances(graph: Graph, heard: Sequence[Heard]) -> Graph:
    """Return a graph from pairs of images to squared distances.

    Args:
        graph: forward; its outputs are of no importance.
        heard: what to listen to.

    Returns:
        a graph with the input ``pairs`` (2b, C, H, W), pictures of a pair one after the other, in place of images, the
        parameters that it still reads, and the output ``distances`` (b, 2 · len(heard)): for each value the squared
        distance of the two, and the squared norm of the first.
    """
    wanted: dict[str, list[int]] = {}
    for i, each in enumerate(heard):
        wanted.setdefault(each.value, []).append(i)
    result = Graph(constants=dict(graph.constants), _fresh=graph._fresh)
    for name in graph.constants:
        result.values[name] = graph.values[name]
    columns: dict[int, Value] = {}
    images = graph.inputs[0]
    for name in graph.inputs:
        value = graph.values[name]
        if name == images:
            result.input(PAIRS, (2 * value.shape[0], *value.shape[1:]), batched=True)
        else:
            result.input(name, value.shape, dtype=value.dtype)
    for name in graph.weights:
        result.weight(name, graph.values[name].shape, graph.values[name].dtype)
    at = dict(zip(graph.inputs, [PAIRS, *graph.inputs[1:]], strict=True))

    def listen(name: str) -> None:
        for i in wanted.get(name, ()):
            columns[i] = _squares(result, result.values[at.get(name, name)], heard[i])

    listen(images)
    for node in graph.nodes:
        with result.serving(node.component, node.block, node.phase):
            inputs = [result.values[at.get(name, name)] if name else None for name in node.inputs]
            result.node(
                node.op, inputs, outputs=len(node.outputs), names=[n or None for n in node.outputs], **node.attributes
            )
            for name in filter(None, node.outputs):
                listen(name)
    with result.serving("scores"):
        result.output(result.concat([columns[i] for i in range(len(heard))], 1), DISTANCES)
    result.remove_dead()
    read = {name for node in result.nodes for name in node.inputs}
    result.inputs = [PAIRS, *(name for name in result.inputs if name in read and name != PAIRS)]
    result.weights = [name for name in result.weights if name in read]
    result.constants = {name: array for name, array in result.constants.items() if name in read}
    kept = {*read, *result.outputs, *result.inputs, *(o for n in result.nodes for o in n.outputs)}
    result.values = {name: value for name, value in result.values.items() if name in kept}
    return result


def _squares(g: Graph, value: Value, heard: Heard) -> Value:
    """Return (b, 2): the squared distance of the two halves of a pair, and the squared norm of the first."""
    if heard.factor is not None:
        shape = (-1, *(1 for _ in value.shape[2:])) if len(value.shape) > 2 else (-1,)
        value = g.mul(value, g.constant((1 / heard.factor).astype(np.float32).reshape(shape)))
    elements = value.elements // 2
    rows = value.shape[-1] if len(value.shape) > 1 else 1
    flat = g.reshape(value, (1, 2, elements))
    both = g.matmul(g.constant(_DIFFERENCE_AND_FIRST), flat)
    apart = g.reshape(both, (1, 2, elements // rows, rows))
    # In two steps: float32 that is added up one by one is off in the fifth digit after some thousand numbers.
    summed = g.reduce("ReduceSum", g.reduce("ReduceSum", g.mul(apart, apart), 3, keep=False), 2, keep=False)
    return g.scale(summed, float(heard.times))
