"""Graph pass: compute parts of each block again in the backward pass instead of keeping them.

Does not change its input. Gradients stay bit-identical: the clones are the same operators on the same data.

What is kept and what is computed again is decided block by block as a minimum cut. A value that the backward pass
reads must be kept or computed again, which needs the inputs of its operator in turn; keeping costs its bytes,
computing again costs operations, and a *rate* says how many operations a byte is worth. The cheapest choice is a cut
through the block's graph of values, found exactly (for the idea Chen et al. 2016, arXiv 1604.06174; for the cut
PyTorch's ``min_cut_rematerialization_partition``):

* ``full``: bytes are all that counts, so that of each block its input is kept (B·N·D floats) and nothing else;
* ``selective``: norms, activations and attention weights are computed again, products with parameters are not
  (Korthikanti et al. 2022, arXiv 2205.05198).

Clones stand right before the backward pass of the component that reads them. Those that start a chain read a kept
value through ``Reshape(x, Shape(d))``, where d is the gradient of the block's output. The reshape is free, but it
cannot run before d exists, so no scheduler can move the second computation forward, and to a common-subexpression pass
it is another expression (``anchoring.py``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from edgeplast.errors import missing_offline
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.measures.flops import node_effort
from edgeplast.graphs.operators import operator
from edgeplast.graphs.passes.anchoring import anchored
from edgeplast.recomputation import FLOPS_PER_BYTE, Recompute

_ANY_PRICE = 1 << 20
"""A rate at which bytes are all that counts."""


def recompute(graph: Graph, how: Recompute = "full") -> Graph:
    """Return a training graph that keeps less of its blocks between the forward and the backward pass.

    The last block is left alone: its backward pass follows its forward pass at once, so nothing is gained.
    """
    blocks = sorted({n.block for n in graph.nodes if n.phase == "backward" and n.block is not None})
    result = graph.copy()
    for block in blocks[:-1] if how != "none" else []:
        result = _recompute_block(result, block, how)
    return result


def _recompute_block(graph: Graph, block: int, how: Recompute) -> Graph:
    before = [n for n in graph.nodes if n.phase == "forward"]
    inside = [n for n in before if n.block == block]
    made = {name for n in before for name in n.outputs if name}
    backward = [i for i, n in enumerate(graph.nodes) if n.block == block and n.phase == "backward"]
    read = dict.fromkeys(name for i in backward for name in graph.nodes[i].inputs if name in made)
    clones = _computed_again(graph, inside, read, how)
    if not clones:
        return graph
    result = graph.copy()
    writing = _Clones(result, clones, _incoming_gradient(graph, backward), block)
    result.nodes = graph.nodes[: backward[0]]
    for _, run in itertools.groupby(graph.nodes[backward[0] :], lambda n: n.component):
        nodes = list(run)
        again = writing.ahead_of([n for n in nodes if n.block == block])
        result.nodes += [n.rewired(again) for n in nodes]
    result.remove_dead()
    return result


def _computed_again(graph: Graph, nodes: list[Node], read: Iterable[str], how: Recompute) -> list[Node]:
    """Return the nodes to compute again, so that bytes kept and operations repeated together cost least.

    Nodes on the sink's side of the cut are computed again. Edges that a cut may go through: from the source to a node
    (its operations), from a node to a value (its bytes are kept, for whoever on the other side reads it). A view stands
    for what it views, whose bytes it keeps; it is made again where that is.
    """
    networkx = _import_networkx()
    network = networkx.DiGraph()
    rate = _ANY_PRICE if how == "full" else FLOPS_PER_BYTE
    viewed: dict[str, str] = {}
    for node in nodes:
        if operator(node.op, node.component).kind == "view":
            viewed[node.outputs[0]] = viewed.get(node.inputs[0], node.inputs[0])
    computing = [node for node in nodes if node.outputs[0] not in viewed]
    made = {name: i for i, n in enumerate(computing) for name in n.outputs if name}
    standing = {*graph.inputs, *graph.weights, *graph.constants}
    source, sink = "source", "sink"

    def keep(name: str) -> str:
        value = graph.values[name]
        start = ("node", made[name]) if name in made else source
        network.add_edge(start, ("value", name), capacity=rate * value.bytes)
        return ("value", name)  # type: ignore[return-value]

    for i, node in enumerate(computing):
        if how == "selective" and _multiplies_parameter(graph, node):
            network.add_edge(source, ("node", i))  # no capacity: unlimited
        else:
            network.add_edge(source, ("node", i), capacity=node_effort(graph, node))
        for name in (viewed.get(name, name) for name in node.inputs if name):
            if name not in standing:
                network.add_edge(keep(name), ("node", i))
    for name in (viewed.get(name, name) for name in read):
        if name not in standing:
            network.add_edge(keep(name), sink)
    if sink not in network or source not in network:
        return []
    _, (kept, _) = networkx.minimum_cut(network, source, sink)
    again = {name for i, node in enumerate(computing) if ("node", i) not in kept for name in node.outputs}
    return [node for node in nodes if viewed.get(node.outputs[0], node.outputs[0]) in again]


def _import_networkx() -> Any:
    try:
        import networkx
    except ModuleNotFoundError as error:
        raise missing_offline(error, "planning and exporting need it (adapting on a device does not)") from error
    return networkx


def _multiplies_parameter(graph: Graph, node: Node) -> bool:
    """Whether a node is a product with something that is the same for all images: the work of a model."""
    return operator(node.op, node.component).kind == "product" and not graph.values[node.inputs[1]].batched


class _Clones:
    """Writes second computations to the end of a graph, each once, in the order of the first."""

    def __init__(self, graph: Graph, nodes: list[Node], gradient: Value, block: int) -> None:
        self._graph, self._gradient, self._block = graph, gradient, block
        self._waiting = nodes
        self._again = {name: f"{name}/again" for n in nodes for name in n.outputs if name}
        self._standing = {*graph.inputs, *graph.weights, *graph.constants}

    def ahead_of(self, readers: list[Node]) -> dict[str, str]:
        """Write what some nodes need and is not there yet; return the new names of what they read."""
        wanted = {name for n in readers for name in n.inputs if name}
        due = []
        for node in reversed(self._waiting):
            if not wanted.isdisjoint(node.outputs):
                due.append(node)
                wanted.update(filter(None, node.inputs))
        for node in reversed(due):
            self._write(node)
        self._waiting = [n for n in self._waiting if not any(n is other for other in due)]
        return self._again

    def _write(self, node: Node) -> None:
        inputs = {name: self._again[name] for name in node.inputs if name in self._again}
        if not inputs:  # one input that waits for the gradient is enough
            read = [name for name in node.inputs if name]  # an optional one may be left out
            first = next((name for name in read if name not in self._standing), read[0])
            inputs = {first: self._anchored(first, node)}
        for name in filter(None, node.outputs):
            self._graph.values[self._again[name]] = replace(self._graph.values[name], name=self._again[name])
        outputs = tuple(self._again.get(name, name) for name in node.outputs)
        self._graph.nodes.append(replace(node.rewired(inputs), outputs=outputs, phase="recompute"))

    def _anchored(self, name: str, reader: Node) -> str:
        """Return a view of a kept value that does not exist before the gradient does."""
        g, new = self._graph, f"{name}/kept.{self._block}"
        if new not in g.values:
            with g.serving(reader.component, self._block, "recompute"):
                anchored(g, g.values[name], self._gradient, new)
        return new


def _incoming_gradient(graph: Graph, backward: list[int]) -> Value:
    """Return the gradient of the block's output: what its first backward node reads from outside."""
    own = {name for i in backward for name in graph.nodes[i].outputs}
    made = {name for n in graph.nodes[: backward[0]] if n.phase == "backward" for name in n.outputs}
    for i in backward:
        for name in graph.nodes[i].inputs:
            if name in made and name not in own and graph.values[name].batched:
                return graph.values[name]
    raise AssertionError("a block's backward pass reads no gradient")
