"""Floating-point operations of a graph, counted over its matrix products."""

from __future__ import annotations

from edgeplast.graphs.graph import Graph, Node


def node_flops(graph: Graph, node: Node) -> int:
    """Return 2·m·n·k of a matrix product, integer ones too, for one image; 0 for everything else."""
    if node.op not in ("Gemm", "MatMul", "MatMulIntegerToFloat"):
        return 0
    a, out = graph.values[node.inputs[0]], graph.values[node.outputs[0]]
    inner = a.shape[-2] if node.attributes.get("transA") else a.shape[-1]
    return 2 * out.elements * inner


def flops_per_image(graph: Graph) -> float:
    """Return the operations of all matrix products of a graph, for one image; the rest is a few percent."""
    return float(sum(node_flops(graph, node) for node in graph.nodes))
