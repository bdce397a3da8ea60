"""Where a forward graph can be cut: values through which every path from images to logits goes.

A path follows data: what a parameter, a constant or a shape alone decides is not on one. The number of paths through
a value, over the number of all paths, tells: counted from both ends, exactly, in whole numbers. In residual networks
these values are the sums after each branch.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from edgeplast.graphs.graph import Graph, Node

_NOT_DATA = {"Shape"}


@dataclass(frozen=True)
class GraphSegment:
    """Nodes between two neighbouring values that everything goes through.

    Attributes:
        start: the value it reads.
        end: the value it hands on.
        nodes: indices into the graph's nodes, in order; what only prepares parameters for it is among them.
    """

    start: str
    end: str
    nodes: tuple[int, ...]


def articulation_values(graph: Graph, source: str, target: str) -> list[str]:
    """Return the values through which every path from ``source`` to ``target`` goes, in order, both included."""
    forward = _data_nodes(graph, source)
    to: dict[str, int] = defaultdict(int, {source: 1})
    for node in forward:
        for name in filter(None, node.outputs):
            to[name] = sum(to[i] for i in node.inputs if i)
    onward: dict[str, int] = defaultdict(int, {target: 1})
    for node in reversed(forward):
        paths = sum(onward[name] for name in node.outputs if name)
        for name in node.inputs:
            if name:
                onward[name] += paths
    total = to[target]
    names = [source, *(name for node in forward for name in node.outputs if name)]
    return [name for name in names if total and to[name] * onward[name] == total]


def segments(graph: Graph, source: str, target: str) -> list[GraphSegment]:
    """Return the finest segments of a forward graph, in order."""
    cuts = articulation_values(graph, source, target)
    place = {name: i for i, name in enumerate(cuts)}
    behind: dict[str, int] = {source: 0}  # the last cut that lies before or at a value
    at: dict[int, int] = {}
    for i, node in enumerate(graph.nodes):
        before = [behind[name] for name in node.inputs if name in behind and node.op not in _NOT_DATA]
        if before:
            at[i] = max(before)
            for name in filter(None, node.outputs):
                behind[name] = place.get(name, at[i])
    readers: dict[str, list[int]] = defaultdict(list)
    for i, node in enumerate(graph.nodes):
        for name in filter(None, node.inputs):
            readers[name].append(i)
    for i in reversed(range(len(graph.nodes))):
        if i not in at:  # prepares a parameter: goes with its first reader
            at[i] = min((at[r] for n in graph.nodes[i].outputs for r in readers.get(n, ()) if r in at), default=0)
    inside: dict[int, list[int]] = defaultdict(list)
    for i in range(len(graph.nodes)):
        inside[min(at[i], len(cuts) - 2)].append(i)
    return [GraphSegment(cuts[k], cuts[k + 1], tuple(inside[k])) for k in range(len(cuts) - 1)]


def _data_nodes(graph: Graph, source: str) -> list[Node]:
    live, found = {source}, []
    for node in graph.nodes:
        if node.op not in _NOT_DATA and any(name in live for name in node.inputs):
            found.append(node)
            live.update(filter(None, node.outputs))
    return found
