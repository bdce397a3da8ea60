"""Graph pass: beside a matrix product, the same through a narrow waist: W·x + B·(A·x). Does not change its input.

LoRA (arXiv 2106.09685). What trains is A and B, or B alone (LoRA-FA, arXiv 2308.03303: of the layer's input only the
few numbers A·x are kept for the backward pass). With B at zero the model is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeplast.contract import low_rank_names
from edgeplast.graphs.graph import Graph, Node, Value


def with_low_rank(graph: Graph, ranks: Mapping[str, int]) -> Graph:
    """Return a forward graph with low-rank products beside some of its matrices.

    Args:
        graph: forward.
        ranks: weight name, of those that :func:`edgeplast.graphs.passes.dequantize.quantizable` returns, to rank.

    Returns:
        the graph; the factors, under the names of :func:`edgeplast.contract.low_rank_names`, are weights of it.
    """
    result = graph.copy()
    for weight in graph.weights:
        if weight in ranks:
            out, columns = graph.values[weight].shape
            a, b = low_rank_names(weight)
            result.weight(a, (ranks[weight], columns))
            result.weight(b, (out, ranks[weight]))
    for node in graph.nodes:
        if node.op == "Gemm" and node.inputs[1] in ranks:
            _add(result, node)
    return result


def _add(graph: Graph, node: Node) -> None:
    a, b = (graph.values[name] for name in low_rank_names(node.inputs[1]))
    read: list[Value | None] = [graph.values[name] if name else None for name in node.inputs]
    x = read[0]
    assert x is not None
    with graph.in_place_of(node):
        whole = graph.node("Gemm", read, **node.attributes)[0]
        waist = graph.gemm(x, a, trans_b=True)
        graph.add(whole, graph.gemm(waist, b, trans_b=True), name=node.outputs[0])
