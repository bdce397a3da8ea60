"""Two graphs of a bundle as one: the prefix, and what goes on from its latents."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeplast.contract import LATENTS

_IN_PREFIX = "prefix/"


def join(prefix: onnx.ModelProto, rest: onnx.ModelProto) -> onnx.ModelProto:
    """Return one model from images on: the nodes of the prefix, then those of the rest, each in their order.

    Both number what lies between their inputs and outputs; the numbers of the prefix get a name of its own before them.
    Weights keep their names, and one that both read is there once. Where one of them is of an opset with 4-bit
    integers, the other is written in that.

    Args:
        prefix: from images to latents; not changed.
        rest: from latents on; not changed.
    """
    opset, ir_version = max(_opset(prefix), _opset(rest)), max(prefix.ir_version, rest.ir_version)
    prefix, rest = _raised(prefix, opset), _raised(rest, opset)
    kept = {LATENTS, "", *(i.name for i in prefix.graph.input), *_stored(prefix)}
    graph = onnx.GraphProto(name=rest.graph.name)
    for node in prefix.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if name in kept else f"{_IN_PREFIX}{name}" for name in names]
        node.name = f"{_IN_PREFIX}{node.name}"
    for tensor in prefix.graph.initializer:
        tensor.name = tensor.name if tensor.name in kept else f"{_IN_PREFIX}{tensor.name}"
    graph.node.extend([*prefix.graph.node, *rest.graph.node])
    both = {tensor.name: tensor for tensor in (*prefix.graph.initializer, *rest.graph.initializer)}
    graph.initializer.extend(both.values())
    graph.input.extend([*prefix.graph.input, *(i for i in rest.graph.input if i.name != LATENTS)])
    graph.output.extend(rest.graph.output)
    domains = {o.domain for model in (prefix, rest) for o in model.opset_import if o.domain}
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in sorted(domains))]
    return helper.make_model(graph, opset_imports=opsets, producer_name=rest.producer_name, ir_version=ir_version)


def _opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if not o.domain)


def _stored(model: onnx.ModelProto) -> list[str]:
    """Names of the weights, which lie in a file beside the graph."""
    return [t.name for t in model.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Return a copy whose operators are those of an opset; of those that graphs use, reductions alone changed."""
    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    if _opset(model) >= 18 or opset < 18:
        return raised
    for node in raised.graph.node:
        axes = next((a for a in node.attribute if a.name == "axes" and node.op_type.startswith("Reduce")), None)
        if axes is not None:
            name = f"{node.output[0]}/axes"
            raised.graph.initializer.append(numpy_helper.from_array(np.array(axes.ints, np.int64), name))
            node.input.append(name)
            node.attribute.remove(axes)
    return raised
