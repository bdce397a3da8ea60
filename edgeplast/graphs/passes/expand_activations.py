"""Graph pass: write activations that runtimes have no kernel for in plain operators.

Does not change its input. Differentiation has done so already for those that are trained through, together with their
slope; what is left are those of frozen parts, of evaluation and of deployment.
"""

from __future__ import annotations

from edgeplast.graphs.graph import Graph
from edgeplast.graphs.operators import operator


def expand_activations(graph: Graph) -> Graph:
    """Return a graph without activations such as ``Silu`` or ``HardSwish``."""
    result = graph.copy()
    for node in graph.nodes:
        record = operator(node.op, node.component)
        if record.curve is not None and not record.kernel:
            with result.in_place_of(node):
                record.curve(result, graph.values[node.inputs[0]], node.outputs[0], None, node.attributes)
    return result
