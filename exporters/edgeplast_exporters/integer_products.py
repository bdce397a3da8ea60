"""Graph pass: integer arithmetic for frozen matrix products that no gradient crosses.

Does not change its input. Where ``Gemm(x, W, b)`` stood, x is quantized to uint8 with one scale that was fixed on
calibration images, and multiplied with the 8-bit matrix in integers (``QuantizeLinear``, ``MatMulIntegerToFloat`` of
onnxruntime: it adds up in int32 and scales the sum once). Scales do not depend on the batch, so results do not
depend on the micro-batch. The matrix lies transposed, (in, out), as the kernel reads it, with one scale a column, as
int8 of which 7 bits are used: x86 processors without VNNI add up pairs of uint8·int8 products in 16 bits, which two
times 255·63 fit and two times 255·127 overflow, so that the sums are the same everywhere. (A uint8 matrix is safe too,
but onnxruntime 1.32 takes twice the time for it.)

The graph for deployment has plain operators (:func:`with_float_matrices`): the matrix comes as float32 like all others
and is quantized where it is read, to the same integers, which a runtime that folds constants does once; the product is
``MatMulInteger``, ``Cast``, ``Mul``, ``Add``. Everything else rounds there as it does in the evaluation graph, bit for
bit, because a difference in the last bit takes some value across the border between two steps, and from there on the
two part.

What would break it: a runtime without ``com.microsoft.MatMulIntegerToFloat`` (onnxruntime's CPU and CUDA builds have
had it since 1.5).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgeplast.contract import IMAGES, factor_name, matrix_name, scale_name
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast_exporters.quantization import quantize_rows

MOST = 63
"""The largest int8 in a matrix: two products of it with 255 fit into 16 bits."""


@dataclass(frozen=True)
class IntegerProduct:
    """How one product reads its input: ``q = clip(round(x / divisor / scale) + zero_point, 0, 255)``.

    Attributes:
        scale: of the activation, one for the whole tensor.
        zero_point: 0..255, the integer that stands for 0.
        divisor: float32 (columns,) by which columns are divided first (their matrix columns are multiplied by it),
            or None where there is nothing to divide or the layer before does it.
    """

    scale: float
    zero_point: int
    divisor: np.ndarray | None = None


def integer_candidates(promoted: Graph) -> list[str]:
    """Return the frozen matrices that are multiplied before anything that may train, in the graph's order.

    Args:
        promoted: the forward graph, everything that may train turned into an input.
    """
    changes = set(promoted.inputs) - {IMAGES}
    chosen: list[str] = []
    frozen = set(promoted.weights)
    for node in promoted.nodes:
        if any(name in changes for name in node.inputs):
            changes.update(node.outputs)
        elif node.op == "Gemm" and node.inputs[1] in frozen:
            chosen.append(node.inputs[1])
    return chosen


def compute_in_integers(graph: Graph, products: Mapping[str, IntegerProduct]) -> Graph:
    """Return the graph with the products of the given frozen matrices in integer arithmetic.

    Args:
        graph: forward or training graph, recomputation already done.
        products: weight name to how its input is read; each weight is read by Gemm alone and no gradient
            crosses its product.
    """
    result, present = _without(graph, products)
    for weight in present:
        rows, columns = graph.values[weight].shape
        result.weight(matrix_name(weight), (columns, rows), "int8")
        result.weight(scale_name(weight), (rows,))
        if products[weight].divisor is not None:
            result.weight(factor_name(weight), (columns,))
    middle = _constant(result, "integer.matrix.zero", np.array(0, np.int8)) if present else ""
    for node in graph.nodes:
        weight = _weight_of(node)
        if weight in present:
            node = _integer_node(result, node, weight, products[weight], middle)
        result.nodes.append(node)
    return result


def with_float_matrices(
    graph: Graph, products: Mapping[str, IntegerProduct], scales: Mapping[str, np.ndarray]
) -> Graph:
    """Return a forward graph of the same integer products that reads its matrices as float32, under their own names.

    Args:
        graph: the forward graph.
        products: weight name to how its input is read.
        scales: weight name to the scales of its columns.
    """
    result = graph.copy()
    result.nodes = []
    middle = _constant(result, "integer.matrix.zero", np.array(0, np.int8))
    for node in graph.nodes:
        weight = _weight_of(node)
        if weight not in products:
            result.nodes.append(node)
            continue
        scale = _constant(result, scale_name(weight), scales[weight])
        zeros = _constant(result, f"{weight}.zero", np.zeros(len(scales[weight]), np.int8))
        values = result.values[weight]
        integers = replace(values, name=f"{weight}/integers", dtype="int8")
        turned = replace(integers, name=matrix_name(weight), shape=values.shape[::-1])
        result.values |= {integers.name: integers, turned.name: turned}
        _add(result, node, "QuantizeLinear", (weight, scale, zeros), integers.name, axis=0)
        _add(result, node, "Transpose", (integers.name,), turned.name, perm=[1, 0])
        if (divisor := products[weight].divisor) is not None:
            _constant(result, factor_name(weight), input_factor(divisor))
        result.nodes.append(_integer_node(result, node, weight, products[weight], middle))
    return result


def input_factor(divisor: np.ndarray) -> np.ndarray:
    """Return what the graph multiplies columns by in order to divide them."""
    return (1 / divisor).astype(np.float32)


def quantize_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantize a float32 matrix (out, in) to int8 of 7 bits, symmetrically, one scale an output.

    Returns:
        int8 (in, out), transposed, in −63..63, and float32 scales (out,); an output of zeros gets the scale 1.
    """
    quantized, scale = quantize_rows(weight, MOST)
    return np.ascontiguousarray(quantized.T), scale


def float_matrix(quantized: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return the float32 matrix (out, in) that a quantized one stands for."""
    return np.ascontiguousarray(quantized.T.astype(np.float32) * scale[:, None])


def _weight_of(node: Node) -> str:
    return node.inputs[1] if node.op == "Gemm" else ""


def _without(graph: Graph, products: Mapping[str, IntegerProduct]) -> tuple[Graph, list[str]]:
    """Return a copy without nodes and without the float32 matrices that integers replace, and their names."""
    present = [name for name in graph.weights if name in products]
    for node in graph.nodes:
        for name in set(node.inputs) & set(present):
            crossed = node.phase == "backward" or _weight_of(node) != name or node.attributes.get("transB") != 1
            assert not crossed, f"{name} is read by a {node.op} that cannot be integer arithmetic"
    result = graph.copy()
    result.nodes = []
    result.weights = [name for name in graph.weights if name not in set(present)]
    return result, present


def _reading(graph: Graph, how: IntegerProduct, stem: str) -> tuple[str, str]:
    """Declare scale and zero point of an activation as constants and return their names."""
    scale = _constant(graph, f"{stem}/scale", np.array(how.scale, np.float32))
    return scale, _constant(graph, f"{stem}/zero", np.array(how.zero_point, np.uint8))


def _constant(graph: Graph, name: str, array: np.ndarray) -> str:
    graph.constants[name] = array
    graph.values[name] = Value(name, array.shape, dtype=array.dtype.name)
    return name


def _integer_node(graph: Graph, node: Node, weight: str, how: IntegerProduct, middle: str) -> Node:
    """Add what quantizes the input of ``node`` and return the integer product that replaces it."""
    x, y = node.inputs[0], node.outputs[0]
    shape = graph.values[x]
    if how.divisor is not None:
        graph.values[f"{y}/divided"] = replace(shape, name=f"{y}/divided")
        x = _add(graph, node, "Mul", (x, factor_name(weight)), f"{y}/divided")
    scale, zero = _reading(graph, how, f"{weight}/input")
    graph.values[f"{y}/quantized"] = replace(shape, name=f"{y}/quantized", dtype="uint8")
    quantized = _add(graph, node, "QuantizeLinear", (x, scale, zero), f"{y}/quantized")
    bias = filter(None, node.inputs[2:3])
    inputs = (quantized, matrix_name(weight), scale, scale_name(weight), zero, middle, *bias)
    return replace(node, op="MatMulIntegerToFloat", inputs=inputs, attributes={})


def _add(graph: Graph, like: Node, op: str, inputs: tuple[str, ...], output: str, **attributes: Any) -> str:
    """Add a node with the tags of another and return the name of what it makes."""
    graph.nodes.append(replace(like, op=op, inputs=inputs, outputs=(output,), attributes=attributes))
    return output
