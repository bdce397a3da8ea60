"""Graph pass: let products do the work of the batch normalizations behind them, whose statistics never change.

Does not change its input. ``y = (W∗x + b − m)·f + β`` with f = γ/√(v + ε) is one convolution with the kernel W·f and
the bias (b − m)·f + β: one pass over activations less in each direction, and one array less to keep.

* Kernel and norm frozen: the product reads folded arrays, under the names of the kernel and of the norm's shift β
  (a new name where the norm has none of its own).
* Kernel trained, norm frozen: the kernel is multiplied by f in the graph, and its gradient with it, where it is smaller
  than what it gives for one picture. Where it is larger, the norm stays: it would cost more memory than it saves.
* Norm trained: it stays.

What would break it: statistics that change on the device; they do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from edgeplast.graphs.graph import Graph, Node


def fold_batch_norms(graph: Graph, arrays: Mapping[str, np.ndarray]) -> tuple[Graph, dict[str, np.ndarray]]:
    """Return a graph with fewer batch normalizations, and the arrays of its weights.

    Args:
        graph: forward, what may train promoted to an input.
        arrays: of all weights, by name, float32.

    Returns:
        the graph, and the arrays with those of folded weights replaced and those no longer read left out.
    """
    result, found = graph.copy(), {**graph.constants, **arrays}
    still = {*graph.weights, *graph.constants}  # statistics of few channels are constants
    producers = graph.producers()
    reads = Counter(name for node in graph.nodes for name in node.inputs)
    gone: set[str] = set()
    for norm in graph.nodes:
        product = producers.get(norm.inputs[0]) if norm.op == "BatchNormalization" else None
        if product is None or product.op not in ("Conv", "Gemm") or reads[product.outputs[0]] != 1:
            continue
        if product.outputs[0] in graph.outputs or not set(norm.inputs[1:]) <= still:
            continue
        if product.op == "Gemm" and (product.attributes.get("transB") != 1 or product.attributes.get("alpha", 1) != 1):
            continue
        kernel, bias = product.inputs[1], (*product.inputs, "")[2]
        # Statistics and factors are only read, so norms may share them; a fresh model's are all zeros and ones.
        if any(reads[name] > 1 for name in (kernel, bias, norm.inputs[2]) if name and name not in graph.constants):
            continue
        frozen = kernel in graph.weights and bias in ("", *still)
        smaller = graph.values[kernel].bytes <= graph.values[norm.outputs[0]].bytes
        if frozen:
            gone |= _fold(result, found, product, norm)
        elif smaller and kernel in graph.inputs and bias in ("", *graph.inputs, *still):
            gone |= _multiply(result, found, product, norm)
    read = {name for node in result.nodes for name in node.inputs}
    gone = (gone | graph.constants.keys()) - read
    result.weights = [name for name in result.weights if name not in gone]
    result.constants = {name: array for name, array in result.constants.items() if name not in gone}
    result.values = {name: value for name, value in result.values.items() if name not in gone}
    return result, {name: array for name, array in found.items() if name not in gone | graph.constants.keys()}


def norm_factor(arrays: Mapping[str, np.ndarray], norm: Node) -> tuple[np.ndarray, np.ndarray]:
    """Return f and β − m·f of a batch normalization, each float64 (channels,)."""
    gamma, beta, mean, variance = (arrays[name].astype(np.float64) for name in norm.inputs[1:])
    factor = gamma / np.sqrt(variance + float(norm.attributes.get("epsilon", 1e-5)))
    return factor, beta - mean * factor


def _fold(graph: Graph, arrays: dict[str, np.ndarray], product: Node, norm: Node) -> set[str]:
    """Fold into arrays; return the weights that are read here no more."""
    kernel, bias = product.inputs[1], (*product.inputs, "")[2]
    factor, shift = norm_factor(arrays, norm)
    shift_name = norm.inputs[2]
    if shift_name in graph.constants:  # shared by norms without a shift of their own
        shift_name = graph.weight(f"{kernel}.shift", shift.shape).name
    if bias:
        shift = shift + arrays[bias] * factor
    column = (len(factor), *(1 for _ in arrays[kernel].shape[1:]))
    with np.errstate(over="ignore"):  # infinities are the caller's to see
        arrays[kernel] = (arrays[kernel] * factor.reshape(column)).astype(np.float32)
        arrays[shift_name] = shift.astype(np.float32)
    _replace(graph, product, norm, [replace(product, inputs=(*product.inputs[:2], shift_name), outputs=norm.outputs)])
    return {name for name in (norm.inputs[1], *norm.inputs[3:], bias) if name in graph.weights}


def _multiply(graph: Graph, arrays: dict[str, np.ndarray], product: Node, norm: Node) -> set[str]:
    """Multiply the kernel in the graph; return the weights that are read here no more."""
    kernel, bias = product.inputs[1], (*product.inputs, "")[2]
    factor, shift = norm_factor(arrays, norm)
    column = (len(factor), *(1 for _ in graph.values[kernel].shape[1:]))
    names = {"factor": f"{kernel}.factor", "shift": f"{kernel}.shift"}
    arrays[names["factor"]] = factor.reshape(column).astype(np.float32)
    arrays[names["shift"]] = shift.astype(np.float32)
    by = graph.weight(names["factor"], column)
    added = graph.weight(names["shift"], shift.shape)
    start = len(graph.nodes)
    with graph.serving(product.component, product.block, product.phase):
        scaled = graph.mul(graph.values[kernel], by)
        if bias:
            added = graph.add(graph.mul(graph.values[bias], graph.reshape(by, shift.shape)), added)
    before, graph.nodes = graph.nodes[start:], graph.nodes[:start]
    inputs = (product.inputs[0], scaled.name, added.name)
    _replace(graph, product, norm, [*before, replace(product, inputs=inputs, outputs=norm.outputs)])
    return {name for name in norm.inputs[1:] if name in graph.weights}


def _replace(graph: Graph, product: Node, norm: Node, nodes: list[Node]) -> None:
    at = next(i for i, node in enumerate(graph.nodes) if node is product)
    graph.nodes[at : at + 1] = nodes
    graph.nodes = [node for node in graph.nodes if node is not norm]
    del graph.values[product.outputs[0]]
