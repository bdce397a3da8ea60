"""From a Graph to ONNX bytes: operators named as the target runtime knows them, frozen weights by reference.

Frozen weights are external data: name, offset and length inside the bundle's safetensors file, which a session
maps into memory instead of copying.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeplast.graphs.checking import check
from edgeplast.graphs.graph import Graph, Node, Value
from edgeplast.graphs.passes.expand_activations import expand_activations

OPSET, IR_VERSION = 17, 8
"""Read by onnxruntime ≥ 1.14 and TensorRT ≥ 8.6; nothing newer is needed by a vision transformer."""

OPSET_OF_4_BITS, IR_VERSION_OF_4_BITS = 21, 10
"""The first with 4-bit integers and scales by block; onnxruntime ≥ 1.18. Only graphs that read 4-bit weights use it."""

_TYPES = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "int8": TensorProto.INT8,
          "uint8": TensorProto.UINT8, "int32": TensorProto.INT32, "bool": TensorProto.BOOL,
          "int4": TensorProto.INT4}  # fmt: skip


@dataclass(frozen=True)
class StoredTensor:
    """Where the data of one frozen weight lies: file name beside the graph, offset and length in bytes."""

    file: str
    offset: int
    length: int


def to_onnx(
    graph: Graph,
    name: str,
    weights: Mapping[str, StoredTensor | None],
    *,
    plain: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Serialise a graph.

    Args:
        graph: what to write.
        name: graph name, for people.
        weights: where each of ``graph.weights`` lies; None leaves its initializer out (the deployed model's
            are appended on the device).
        plain: only operators of the ONNX standard (for TensorRT and other readers), instead of
            onnxruntime's fused ``FusedMatMul`` and ``Gelu``; and every value under a telling name. Otherwise what
            lies between inputs and outputs is numbered, and nodes say which component they serve: a
            training graph has a thousand values, and their names were two thirds of its bytes.
        metadata: of the model.

    Raises:
        ShapeError: a node does not fit what it reads; nothing is written that the table of operators does not hold for.
    """
    graph = check(expand_activations(graph))
    nodes: list[onnx.NodeProto] = []
    constants = dict(graph.constants)
    four_bits = any(graph.values[key].dtype == "int4" for key in graph.weights)
    lowering = _Lowering(
        plain=plain,
        exact=any(node.op == "MatMulIntegerToFloat" for node in graph.nodes),
        axes_as_input=four_bits,
        constants=constants,
        values=graph.values,
        left_out=graph.unread_options(),
    )
    named = _ShortNames({*graph.inputs, *graph.outputs, *graph.weights}) if not plain else None
    for node in graph.nodes:
        for op, domain, inputs, outputs, attributes in lowering.lower(node):
            label = outputs[0]
            if named is not None:
                inputs, outputs = named.all(inputs), named.all(outputs)
                label = f"{node.component}:{outputs[0]}"
            nodes.append(helper.make_node(op, inputs, outputs, name=label, domain=domain, **attributes))
    if named is not None:
        constants = dict(zip(named.all(constants), constants.values(), strict=True))
    initializers = [numpy_helper.from_array(array, key) for key, array in constants.items()]
    for key in graph.weights:
        stored = weights[key]
        if stored is not None:
            initializers.append(_external(graph.values[key], stored))
    proto = helper.make_graph(
        nodes,
        name,
        [_info(graph.values[key]) for key in graph.inputs],
        [_info(graph.values[key]) for key in graph.outputs],
        initializers,
    )
    opsets = [helper.make_opsetid("", OPSET_OF_4_BITS if four_bits else OPSET)]
    if any(node.domain for node in nodes):
        opsets.append(helper.make_opsetid("com.microsoft", 1))
    model = helper.make_model(proto, opset_imports=opsets, producer_name="edgeplast")
    helper.set_model_props(model, dict(metadata or {}))
    model.ir_version = IR_VERSION_OF_4_BITS if four_bits else IR_VERSION
    return bytes(model.SerializeToString())


class _ShortNames:
    """Numbers for values, but for some that keep their names."""

    def __init__(self, kept: set[str]) -> None:
        self._known = {name: name for name in ("", *kept)}
        self._next = iter(range(1 << 30))

    def all(self, names: Iterable[str]) -> list[str]:
        """Return the name of each in the file."""
        return [self._known[name] if name in self._known else self._new(name) for name in names]

    def _new(self, name: str) -> str:
        short = next(number for i in self._next if (number := str(i)) not in self._known)
        self._known[name] = short
        return short


_Lowered = tuple[str, str, list[str], list[str], dict[str, Any]]


@dataclass(frozen=True)
class _Lowering:
    """Turns nodes into operators that exist.

    Attributes:
        plain: only operators of the ONNX standard.
        exact: plain operators round as the fused ones do, also where other readers would fuse another form of them.
        axes_as_input: ReduceMean and its kin take their axes as an input (opset 18 and later).
        constants: of the graph; added to.
        values: of the graph.
        left_out: optional outputs that nobody reads.
    """

    plain: bool
    exact: bool
    axes_as_input: bool
    constants: dict[str, np.ndarray]
    values: Mapping[str, Value]
    left_out: set[str]

    def lower(self, node: Node) -> list[_Lowered]:
        """Return the operators of one node."""
        inputs, outputs, attributes = list(node.inputs), list(node.outputs), dict(node.attributes)
        if node.op == "MatMul":
            return self._matmul(node)
        if node.op == "Gelu":
            return self._erf_gelu(node) if self.plain else [("Gelu", "com.microsoft", inputs, outputs, {})]
        if node.op == "MatMulIntegerToFloat":
            return self._integer(node) if self.plain else [(node.op, "com.microsoft", inputs, outputs, {})]
        if node.op == "LayerNormalization":
            outputs = ["" if name in self.left_out else name for name in outputs]
            while not outputs[-1]:
                outputs.pop()
            if self.plain and not any(
                inputs[2:]
            ):  # onnxruntime (1.19 to 1.32) fuses Add with it and reads a null shift
                width = self.values[inputs[1]].elements
                inputs[2:] = [f"layer_norm.no_shift.{width}"]
                self.constants[inputs[2]] = np.zeros(width, np.float32)
        if node.op in ("ReduceMean", "ReduceMax", "ReduceMin") and self.axes_as_input:
            axes = attributes.pop("axes")
            inputs.append(f"axes.{'.'.join(map(str, axes))}")
            self.constants[inputs[-1]] = np.array(axes, np.int64)
        if node.op == "Cast":
            attributes["to"] = _TYPES[attributes["to"]]
        return [(node.op, "", inputs, outputs, attributes)]

    def _matmul(self, node: Node) -> list[_Lowered]:
        a, b = node.inputs
        trans_a, trans_b, alpha = (node.attributes[key] for key in ("transA", "transB", "alpha"))
        if not self.plain:
            if not (trans_a or trans_b) and alpha == 1.0:
                return [("MatMul", "", [a, b], list(node.outputs), {})]
            fused = {"transA": trans_a, "transB": trans_b, "alpha": alpha}
            return [("FusedMatMul", "com.microsoft", [a, b], list(node.outputs), fused)]
        out = node.outputs[0]
        lowered: list[_Lowered] = []
        operands = []
        for name, transposed, tag in ((a, trans_a, "a"), (b, trans_b, "b")):
            if transposed:
                rank = len(self.values[name].shape)
                perm = [*range(rank - 2), rank - 1, rank - 2]
                lowered.append(("Transpose", "", [name], [f"{out}/{tag}"], {"perm": perm}))
                name = f"{out}/{tag}"
            operands.append(name)
        if alpha == 1.0:
            return [*lowered, ("MatMul", "", operands, [out], {})]
        self.constants[f"{out}/alpha"] = np.array(alpha, np.float32)
        if self.exact:  # the fused product is scaled once it is summed
            product: _Lowered = ("MatMul", "", operands, [f"{out}/unscaled"], {})
            return [*lowered, product, ("Mul", "", [f"{out}/unscaled", f"{out}/alpha"], [out], {})]
        lowered.append(("Mul", "", [operands[0], f"{out}/alpha"], [f"{out}/scaled"], {}))
        return [*lowered, ("MatMul", "", [f"{out}/scaled", operands[1]], [out], {})]

    def _erf_gelu(self, node: Node) -> list[_Lowered]:
        """``x · (1 + erf(x/√2)) / 2`` in the shape that onnxruntime and TensorRT fuse back into one kernel."""
        x, out = node.inputs[0], node.outputs[0]
        for key, value in (("gelu.root2", math.sqrt(2)), ("gelu.one", 1.0), ("gelu.half", 0.5)):
            self.constants[key] = np.array(value, np.float32)
        scaled: _Lowered = ("Div", "", [x, "gelu.root2"], [f"{out}/scaled"], {})
        if self.exact:  # the fused kernel multiplies
            self.constants["gelu.root_half"] = np.array(math.sqrt(0.5), np.float32)
            scaled = ("Mul", "", [x, "gelu.root_half"], [f"{out}/scaled"], {})
        return [
            scaled,
            ("Erf", "", [f"{out}/scaled"], [f"{out}/erf"], {}),
            ("Add", "", [f"{out}/erf", "gelu.one"], [f"{out}/one"], {}),
            ("Mul", "", [x, f"{out}/one"], [f"{out}/twice"], {}),
            ("Mul", "", [f"{out}/twice", "gelu.half"], [out], {}),
        ]

    def _integer(self, node: Node) -> list[_Lowered]:
        """The sum of integers as int32, turned into float32, scaled by the product of both scales, and shifted."""
        x, matrix, scale, scales, zero, matrix_zero, *bias = node.inputs
        out = node.outputs[0]
        both = f"{out}/scales"
        self.constants[both] = self.constants[scale] * self.constants[scales]
        scaled = f"{out}/scaled" if bias else out
        steps: list[_Lowered] = [
            ("MatMulInteger", "", [x, matrix, zero, matrix_zero], [f"{out}/integers"], {}),
            ("Cast", "", [f"{out}/integers"], [f"{out}/sum"], {"to": int(TensorProto.FLOAT)}),
            ("Mul", "", [f"{out}/sum", both], [scaled], {}),
        ]
        return [*steps, ("Add", "", [scaled, *bias], [out], {})] if bias else steps


def _info(value: Value) -> onnx.ValueInfoProto:
    first: int | str = value.shape[0] if value.shape else 0
    if value.batched:
        first = "batch" if value.shape[0] == 1 else f"{value.shape[0]}*batch"
    shape = [first, *value.shape[1:]] if value.shape else []
    return helper.make_tensor_value_info(value.name, _TYPES[value.dtype], shape)


def _external(value: Value, stored: StoredTensor) -> onnx.TensorProto:
    tensor = TensorProto(name=value.name, data_type=_TYPES[value.dtype], dims=value.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, entry in (("location", stored.file), ("offset", stored.offset), ("length", stored.length)):
        tensor.external_data.add(key=key, value=str(entry))
    return tensor


def safetensors_layout(path: Path) -> dict[str, StoredTensor]:
    """Return where each tensor of a safetensors file lies (8-byte little-endian header length, JSON, data)."""
    import json

    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    return {
        name: StoredTensor(
            path.name,
            8 + header_bytes + entry["data_offsets"][0],
            entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
        if name != "__metadata__"
    }
