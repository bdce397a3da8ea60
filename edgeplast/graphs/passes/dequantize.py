"""Graph pass: store frozen matrices in 8 or 4 bits and turn them into float32 where they are read, just in time.

Does not change its input. 8 bits have a scale a row, 4 bits one for 32 inputs of a row. Each reader gets a
DequantizeLinear of its own, placed right before it, so that the float32 copy of one layer lives only while that layer
computes, in the forward pass, in the second forward pass of recomputation and in the backward pass. In the two latter,
the int8 weight (of 4 bits, whose type few operators know, the scales) passes through a reshape whose shape is read off
the incoming gradient, so no runtime can share the float32 copy of the forward pass (which would have to be kept) or
compute it early.

What would break it: a runtime that folds DequantizeLinear of a constant into a float32 constant. onnxruntime
does not, and the device runs these graphs with graph optimization off. 4 bits need opset 21 (onnxruntime ≥ 1.18).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from edgeplast.bundle import BLOCK_OF_4_BITS as BLOCK
from edgeplast.contract import packed_name, quantized_name, scale_name
from edgeplast.graphs.graph import Graph, Node
from edgeplast.graphs.passes.anchoring import anchored


def quantizable(graph: Graph) -> list[str]:
    """Return the frozen weights that are read as matrices by Gemm and nothing else."""
    by_gemm = {n.inputs[1] for n in graph.nodes if n.op == "Gemm"}
    otherwise = {name for n in graph.nodes for i, name in enumerate(n.inputs) if n.op != "Gemm" or i != 1}
    return [name for name in graph.weights if name in by_gemm and name not in otherwise]


def quantize_frozen(graph: Graph, weights: Collection[str], *, four_bits: Collection[str] = ()) -> Graph:
    """Return the graph reading the given frozen matrices as int8, or in 4 bits.

    Args:
        graph: forward or training graph, recomputation already done.
        weights: names among ``quantizable(graph)``; those the graph does not read are ignored.
        four_bits: likewise, of those in 4 bits.
    """
    small = set(four_bits)
    wanted = set(weights) | small
    chosen = [name for name in quantizable(graph) if name in wanted]  # in the graph's order: same plan, same bytes
    result = graph.copy()
    result.weights = [name for name in graph.weights if name not in chosen]
    for name in chosen:
        shape = graph.values[name].shape
        if name in small:
            result.weight(packed_name(name), shape, "int4")
            result.weight(scale_name(name), (shape[0], -(-shape[1] // BLOCK)))
        else:
            result.weight(quantized_name(name), shape, "int8")
            result.weight(scale_name(name), shape[:1])
    result.nodes = []
    for node in graph.nodes:
        name = node.inputs[1] if node.op == "Gemm" else ""
        if name in chosen:
            node = _with_dequantized(result, node, name, name in small)
        result.nodes.append(node)
    return result


def _with_dequantized(graph: Graph, node: Node, weight: str, four_bits: bool) -> Node:
    read = [
        graph.values[packed_name(weight) if four_bits else quantized_name(weight)],
        graph.values[scale_name(weight)],
    ]
    attributes: dict[str, Any] = {"axis": 1, "block_size": BLOCK} if four_bits else {"axis": 0}
    name = f"{weight}/float/{node.outputs[0]}"
    with graph.serving(node.component, node.block, node.phase):
        if node.phase != "forward":
            late = read[four_bits]
            read[four_bits] = anchored(
                graph, late, graph.values[node.inputs[0]], f"{late.name}/anchor/{node.outputs[0]}"
            )
        graph.node("DequantizeLinear", read, [graph.values[weight].shape], names=[name], **attributes)
    return replace(node, inputs=(node.inputs[0], name, *node.inputs[2:]))
