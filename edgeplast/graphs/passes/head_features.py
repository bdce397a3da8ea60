"""Graph pass: hand back what the head multiplies, beside the logits. Does not change its input.

With it a device fits a head in one pass over its pictures. Where logits are more than one linear layer of a vector an
image (two heads whose means they are, a layer that every token passes), there is no such vector and nothing changes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from edgeplast.contract import FEATURES, IMAGES, LOGITS
from edgeplast.graphs.graph import Graph


def with_features(graph: Graph, head: Collection[str], owner: Mapping[str, str]) -> Graph:
    """Return the graph with a second output, float32 (b, width), where its last node is the head's product.

    Args:
        graph: a forward graph.
        head: components that make the logits.
        owner: parameter to its component.
    """
    last = next(node for node in graph.nodes if LOGITS in node.outputs)
    read, *parameters = last.inputs
    linear = last.op == "Gemm" and last.attributes == {"transB": 1} and all(owner.get(p) in head for p in parameters)
    if not linear or FEATURES in graph.values or read == IMAGES:
        return graph
    result = graph.copy()
    value = result.values[read]
    if read in result.inputs:  # nothing but the head is left of the model here
        value = result.node("Identity", [value])[0]
    result.output(value, FEATURES)
    return result
