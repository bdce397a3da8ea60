"""Graph pass: let matrix products do the multiplications by a number that stand right before or after them.

Does not change its input. ``Gemm`` multiplies by ``alpha`` on its way, so a ``Mul`` by a scalar constant costs nothing
there, and a pass over memory of its own elsewhere: over the largest arrays of a block, in the derivative of GELU.

* ``c·Gemm(A, B, C)`` becomes ``Gemm(A, B, c·C)`` with ``alpha·c``, where C is a bias and nobody else reads the product;
* ``Gemm(c·A, B, C)`` becomes ``Gemm(A, B, C)`` with ``alpha·c``, where only products read ``c·A``.

What would break it: nothing that a runtime does; ``alpha`` has been part of Gemm since its first version.
"""

from __future__ import annotations

from dataclasses import replace

from edgeplast.graphs.graph import Graph, Node, Value


def fold_scales(graph: Graph) -> Graph:
    """Return a graph that computes the same with fewer multiplications by constants."""
    result = graph.copy()
    for node in graph.nodes:
        factor = _factor(graph, node)
        if factor is not None and not _into_producer(result, node, factor):
            _into_readers(result, node, factor)
    return result


def _factor(graph: Graph, node: Node) -> float | None:
    """Return the number that a node multiplies by, None if it does something else."""
    if node.op != "Mul" or node.inputs[1] not in graph.constants or graph.values[node.inputs[1]].shape:
        return None
    return float(graph.constants[node.inputs[1]])


def _into_producer(graph: Graph, scale: Node, factor: float) -> bool:
    """Scale the product that is read, and its bias with it; say whether that was possible."""
    source, out = scale.inputs[0], scale.outputs[0]
    made = next((i for i, n in enumerate(graph.nodes) if source in n.outputs), None)
    if made is None or graph.nodes[made].op != "Gemm" or source in graph.outputs:
        return False
    if any(source in n.inputs and n is not scale for n in graph.nodes):
        return False
    product = graph.nodes[made]
    inputs, before = list(product.inputs), []
    if len(inputs) > 2 and inputs[2]:
        bias = graph.values[inputs[2]]
        if len(bias.shape) != 1:
            return False
        inputs[2] = f"{out}/bias"
        graph.values[inputs[2]] = Value(inputs[2], bias.shape)
        before = [replace(scale, inputs=(bias.name, scale.inputs[1]), outputs=(inputs[2],))]
    attributes = {**product.attributes, "alpha": factor * product.attributes.get("alpha", 1.0)}
    scaled = replace(product, inputs=tuple(inputs), outputs=(out,), attributes=attributes)
    graph.nodes[made : made + 1] = [*before, scaled]
    graph.nodes = [n for n in graph.nodes if n is not scale]
    del graph.values[source]
    return True


def _into_readers(graph: Graph, scale: Node, factor: float) -> None:
    """Scale the products that read the scaled value instead of it, where nothing else does."""
    source, out = scale.inputs[0], scale.outputs[0]
    readers = [n for n in graph.nodes if out in n.inputs]
    if out in graph.outputs or any(n.op != "Gemm" or n.inputs.count(out) != 1 or out in n.inputs[2:] for n in readers):
        return
    for i, node in enumerate(graph.nodes):
        if out in node.inputs:
            attributes = {**node.attributes, "alpha": factor * node.attributes.get("alpha", 1.0)}
            graph.nodes[i] = replace(node.rewired({out: source}), attributes=attributes)
    graph.nodes = [n for n in graph.nodes if n is not scale]
    del graph.values[out]
