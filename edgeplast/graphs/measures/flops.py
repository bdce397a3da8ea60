"""Floating-point operations of a graph: those of its products, and what everything else costs in the same coin."""

from __future__ import annotations

from edgeplast.graphs.graph import Graph, Node
from edgeplast.graphs.operators import forms_of, operator


def node_flops(graph: Graph, node: Node) -> int:
    """Return the operations of a product (a convolution, an integer one too) for one image; 0 for everything else.

    Raises:
        InputError: the operator is not in the table.
    """
    record = operator(node.op, node.component)
    if record.operations is None:
        return 0
    call = graph.call(node)
    return record.operations(call, forms_of(call, node.component)[0])


def node_effort(graph: Graph, node: Node) -> int:
    """Return what a node costs for one image, in operations that a product does in that time."""
    return node_flops(graph, node) or graph.values[node.outputs[0]].elements * operator(node.op, node.component).effort


def flops_per_image(graph: Graph) -> float:
    """Return the operations of all products of a graph, for one image; the rest is a few percent."""
    return float(sum(node_flops(graph, node) for node in graph.nodes))
