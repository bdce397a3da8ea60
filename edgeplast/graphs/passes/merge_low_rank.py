"""Graph pass: add low-rank factors to the matrix that they stand beside, and multiply once: x·(W + B·A).

For graphs without a backward pass, matrices read as they are stored. Does not change its input. Beside the matrix the
factors pass over activations three times (A·x, B·(A·x), the sum); before it, once over the matrix. Which is less work
depends on how many rows an image has, tokens mostly: few rows leave the graph as it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeplast.graphs.graph import Graph, Node


@dataclass(frozen=True)
class _Beside:
    """``Add(Gemm(x, W, c), Gemm(Gemm(x, A), B))``."""

    whole: Node
    waist: Node
    up: Node
    add: Node


def merge_low_rank(graph: Graph) -> Graph:
    """Return a forward graph that computes the same with one product where three and a sum stood, where that is less.

    Args:
        graph: forward, as it will run.
    """
    made, readers = graph.producers(), Counter(name for n in graph.nodes for name in n.inputs)
    ends = (_beside(graph, node, made, readers) for node in graph.nodes if node.op == "Add")
    found = [beside for beside in ends if beside and _is_less(graph, beside)]
    if not found:
        return graph
    result = graph.copy()
    gone = {id(n) for b in found for n in (b.whole, b.waist, b.up)}
    at = {id(b.add): b for b in found}
    result.nodes = []
    for node in graph.nodes:
        if id(node) in at:
            result.nodes += _merged(result, at[id(node)])
        elif id(node) not in gone:
            result.nodes.append(node)
    for beside in found:
        for node in (beside.whole, beside.waist, beside.up):
            del result.values[node.outputs[0]]
    return result


def _beside(graph: Graph, add: Node, made: Mapping[str, Node], readers: Mapping[str, int]) -> _Beside | None:
    """Return the four nodes that end in a sum, where nobody else reads what they hand on."""
    whole, up = (made.get(name) for name in add.inputs)
    if not (_is_product(graph, whole) and _is_product(graph, up)):
        return None
    assert whole is not None and up is not None
    waist = made.get(up.inputs[0])
    if not _is_product(graph, waist) or (len(up.inputs) > 2 and up.inputs[2]):
        return None
    assert waist is not None
    between = [n.outputs[0] for n in (whole, up, waist)]
    alone = all(readers[name] == 1 and name not in graph.outputs for name in between)
    same = waist.inputs[0] == whole.inputs[0] and not (len(waist.inputs) > 2 and waist.inputs[2])
    return _Beside(whole, waist, up, add) if alone and same else None


def _is_product(graph: Graph, node: Node | None) -> bool:
    """Whether a node multiplies rows of images by a matrix (out, in)."""
    if node is None or node.op != "Gemm" or node.attributes != {"transB": 1}:
        return False
    return graph.values[node.inputs[0]].batched and not graph.values[node.inputs[1]].batched


def _is_less(graph: Graph, beside: _Beside) -> bool:
    """Compare multiplications and sums for one image: over its rows, or over the matrix."""
    rows = graph.values[beside.whole.inputs[0]].shape[0]
    out, columns = graph.values[beside.whole.inputs[1]].shape
    rank = graph.values[beside.up.inputs[1]].shape[1]
    return (rank + 1) * out * columns <= rows * (rank * (out + columns) + out)


def _merged(graph: Graph, beside: _Beside) -> list[Node]:
    matrix, a, b = beside.whole.inputs[1], beside.waist.inputs[1], beside.up.inputs[1]
    name = f"{beside.add.outputs[0]}/matrix"
    graph.values[name] = replace(graph.values[matrix], name=name)
    tags = {"component": beside.whole.component, "block": beside.whole.block, "phase": beside.whole.phase}
    product = Node("Gemm", (b, a, matrix), (name,), {}, **tags)  # type: ignore[arg-type]
    inputs = (beside.whole.inputs[0], name, *beside.whole.inputs[2:])
    return [product, replace(beside.whole, inputs=inputs, outputs=beside.add.outputs)]
