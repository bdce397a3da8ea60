"""How many bytes a graph takes as an ONNX file, counted without writing one.

Follows the exporter's writer: values between inputs and outputs have numbers for names, nodes say which component they
serve. ``tests/graphs`` holds both together within two percent.
"""

from __future__ import annotations

from typing import Any

from edgeplast.graphs.graph import Graph, Node

_FIELD = 2
"""Tag and length of a protobuf field shorter than 128 bytes."""

_NUMBER_ATTRIBUTE = 4
"""Kind of an attribute and its number, tags included."""

_DOMAIN = len("com.microsoft") + _FIELD
_FUSED = {"Gelu", "QuickGelu", "FusedMatMul", "MatMulIntegerToFloat"}
_WHERE = (
    2 * (_FIELD + 2 * _FIELD) + len("locationfrozen.safetensors") + len("offset12345678") + len("length1234567") + 8
)
"""Where the data of a weight lie: three pairs of a key and a value."""

EMPTY_GRAPH_BYTES = 90
"""What every file has: versions, the producer's name, the graph's name."""


def serialized_bytes(graph: Graph) -> int:
    """Return about how many bytes the graph takes as an ONNX file, its weights outside."""
    kept = {*graph.inputs, *graph.outputs, *graph.weights}
    length = {"": 0} | {name: len(name) for name in kept} | dict.fromkeys(graph.unread_options(), 0)

    def named(name: str) -> int:
        if name not in length:
            length[name] = len(str(len(length) - len(kept)))
        return _FIELD + length[name]

    total = EMPTY_GRAPH_BYTES + sum(_node_bytes(node, named) for node in graph.nodes)
    for name, array in graph.constants.items():
        total += named(name) + array.nbytes + 2 * array.ndim + 4 * _FIELD
    for name in graph.weights:
        total += named(name) + 4 * len(graph.values[name].shape) + _WHERE + 3 * _FIELD
    for name in (*graph.inputs, *graph.outputs):
        total += named(name) + 12 + 6 * len(graph.values[name].shape)
    return total


def _node_bytes(node: Node, named: Any) -> int:
    attributes: dict[str, Any] = node.attributes
    op = node.op
    if op == "MatMul":
        plain = not (attributes["transA"] or attributes["transB"]) and attributes["alpha"] == 1.0
        op, attributes = ("MatMul", {}) if plain else ("FusedMatMul", attributes)
    names = sum(map(named, node.inputs)) + sum(map(named, node.outputs))
    label = _FIELD + len(node.component) + 1 + named(node.outputs[0]) - _FIELD
    content = sum(map(_attribute_bytes, attributes.items()))
    return _FIELD + 1 + names + label + _FIELD + len(op) + content + (_DOMAIN if op in _FUSED else _FIELD)


def _attribute_bytes(item: tuple[str, Any]) -> int:
    key, value = item
    size = 2 * len(value) if isinstance(value, list | tuple) else len(value) if isinstance(value, str) else 1
    return _FIELD + _FIELD + len(key) + _NUMBER_ATTRIBUTE + size
