"""Floating-point operations of a graph, counted over its matrix products."""

from __future__ import annotations

from edgeplast_exporters.graph import Graph


def flops_per_image(graph: Graph) -> float:
    """Return 2·m·n·k summed over matrix products, integer ones too, for one image; the rest is a few percent."""
    total = 0.0
    for node in graph.nodes:
        if node.op in ("Gemm", "MatMul", "MatMulIntegerToFloat"):
            a, out = graph.values[node.inputs[0]], graph.values[node.outputs[0]]
            inner = a.shape[-2] if node.attributes.get("transA") else a.shape[-1]
            total += 2.0 * out.elements * inner
    return total
