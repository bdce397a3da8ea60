"""From a Bundle to the files of ONNX Runtime's own on-device training API: its plan, its graphs, another runtime.

What that API (``onnxruntime.training.api`` in Python, ``Ort::TrainingSession`` in C++; 1.19.2) asks of graphs that it
did not generate: inputs are what the user gives, then every name of the checkpoint, a buffer for the gradient of each,
and ``lazy_reset_grad`` last; the first output is the loss. Gradients are added onto their buffers in place by
``InPlaceAccumulatorV2``, which overwrites them in the first call after a reset. What trains is in the checkpoint; what
is frozen stays an initializer in ``frozen.safetensors``, which sessions map into memory.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, TRAINABLE, Bundle, TrainingGraph, describe_file
from edgeplast.contract import IMAGES, LOGITS, LOSS, TARGETS, gradient_input, gradient_output
from edgeplast.errors import MissingExtraError, UsageError, one_of
from edgeplast.outputs import OWN_ARTIFACTS, building_folder, refuse_existing
from edgeplast.prefixes import PREFIX_GRAPH
from edgeplast.progress import Progress, silent
from edgeplast.quiet_runtime import import_quietly
from edgeplast.recomputation import RECOMPUTE, Recompute
from edgeplast.training_artifacts import (
    CHECKPOINT,
    EVAL_MODEL,
    OPTIMIZER_MODEL,
    TRAINING_MODEL,
    ArtifactsRecord,
    TrainingArtifacts,
)
from edgeplast_exporters.joining import join

LABELS, RESET = "labels", "lazy_reset_grad"
"""Inputs: class indices int64 (b,), and whether this call starts the gradients anew, bool (1,)."""

_MICROSOFT = "com.microsoft"


def export_ort_training(
    bundle: Bundle,
    *,
    into: Path,
    recompute: Recompute | None = None,
    weight_decay: float = 0.0,
    force: bool = False,
    progress: Progress = silent,
) -> TrainingArtifacts:
    """Write training, eval and optimizer model and checkpoint of a bundle's plan.

    The loss is the mean cross-entropy over the pictures of a call; calls before a step add their gradients up. Models
    take ``images`` float32 (b, C, H, W), prepared, and ``labels`` int64 (b,); the eval model gives the loss and
    ``logits`` (b, classes).

    Args:
        bundle: fresh or adapted.
        into: the folder to write; ``frozen.safetensors`` and ``artifacts.json`` lie there too.
        recompute: how much of the blocks is computed again in the backward pass; by default what the plan says. Where
            the bundle has no such graph, because it would save nothing, the next one that keeps more.
        weight_decay: of AdamW. ONNX Runtime's decays every parameter alike, also biases and norms, which
            :func:`edgeplast.adapt` spares.
        force: replace what is there.
        progress: told of each file.

    Raises:
        UsageError: ``into`` exists and ``force`` is not given, ``recompute`` is none of the three, or the bundle has
            alternatives.
        MissingExtraError: onnxruntime's training build, which writes checkpoints, is not installed.
    """
    if recompute is not None and recompute not in RECOMPUTE:
        raise one_of("recompute", recompute, RECOMPUTE)
    refuse_existing(into, force=force)
    manifest = bundle.manifest
    if manifest.alternatives:
        raise UsageError(
            f"{bundle.path} has alternatives beside its plan, and ONNX Runtime's training API takes one plan. Export "
            "the model without --alternatives."
        )
    activity, files = "writing training artifacts", 5
    progress(activity, 0, files)
    onnxblock = _import_onnxblock()
    parameters = load_file(bundle.path / TRAINABLE)
    chosen = _graph_of(bundle, recompute or manifest.plan.recompute)
    training = _whole(bundle, chosen.file)
    evaluation = _whole(bundle, EVALUATION_GRAPH)
    with building_folder(into, force=force) as folder:
        shutil.copyfile(bundle.path / FROZEN, folder / FROZEN)
        bundle.check_unchanged()  # not before: it is the copy that counts
        progress(activity, 1, files)
        _write(_trainable(training, parameters, len(manifest.classes)), folder / TRAINING_MODEL)
        progress(activity, 2, files)
        _write(_with_loss(evaluation, parameters, len(manifest.classes)), folder / EVAL_MODEL)
        progress(activity, 3, files)
        tensors = [numpy_helper.from_array(array, name) for name, array in parameters.items()]
        onnxblock.save_checkpoint((tensors, []), folder / CHECKPOINT)
        progress(activity, 4, files)
        _write(_optimizer(onnxblock, tensors, manifest.plan.optimizer, weight_decay), folder / OPTIMIZER_MODEL)
        progress(activity, 5, files)
        record = ArtifactsRecord(
            model=manifest.model,
            classes=manifest.classes,
            preprocessing=manifest.preprocessing,
            plan=manifest.plan,
            recompute=chosen.recompute,
            weight_decay=weight_decay if manifest.plan.optimizer == "adamw" else 0.0,
            files={p.name: describe_file(p) for p in sorted(folder.iterdir())},
            versions=manifest.versions | {"onnxruntime": str(import_quietly().__version__)},
        )
        record.write(folder / OWN_ARTIFACTS)
    return TrainingArtifacts(into, record)


def check_training_build() -> None:
    """Raise unless artifacts can be written here, before there is a bundle.

    Raises:
        MissingExtraError: onnxruntime's training build is not installed.
    """
    _import_onnxblock()


def _import_onnxblock() -> Any:
    try:
        return import_quietly("training.onnxblock")
    except ImportError as error:
        raise MissingExtraError(
            "ONNX Runtime's training artifacts are written by its training build, which is not installed here. On the "
            "workstation: pip uninstall onnxruntime, then pip install 'edgeplast[offline,train]'"
        ) from error


def _graph_of(bundle: Bundle, wanted: Recompute) -> TrainingGraph:
    """Return the graph of the whole plan with as much recomputation as is wanted, or the next one below."""
    graphs = {graph.recompute: graph for graph in bundle.manifest.tiers[0].graphs}
    below = RECOMPUTE[: RECOMPUTE.index(wanted) + 1]
    return next((graphs[how] for how in reversed(below) if how in graphs), bundle.manifest.tiers[0].graphs[0])


def _whole(bundle: Bundle, file: str) -> onnx.ModelProto:
    """Return a graph of the bundle from images on, its prefix in front where it has one."""
    model = onnx.load_from_string((bundle.path / file).read_bytes())
    if bundle.manifest.prefix is None:
        return model
    return join(onnx.load_from_string((bundle.path / PREFIX_GRAPH).read_bytes()), model)


def _trainable(model: onnx.ModelProto, parameters: dict[str, np.ndarray], classes: int) -> onnx.ModelProto:
    """Let gradients go onto ONNX Runtime's buffers, right where they are computed, instead of ours."""
    graph, ours = model.graph, {gradient_input(name): name for name in parameters}
    sums = {gradient_output(name): name for name in parameters}
    nodes = []
    for node in graph.node:
        accumulators = [name for name in node.input if name in ours]
        if accumulators and node.op_type == "Gemm":  # adds its product onto the accumulator
            assert node.input[2] == accumulators[0]
            del node.input[2:]
        elif accumulators:
            assert node.op_type == "Add", node.op_type
            (gradient,) = (name for name in node.input if name not in ours)
            node.CopyFrom(helper.make_node("Identity", [gradient], node.output, name=node.name))
        nodes.append(node)
        for name in (sums[output] for output in node.output if output in sums):
            nodes.append(
                helper.make_node(
                    "InPlaceAccumulatorV2",
                    [_buffer_of(name), gradient_output(name), RESET],
                    [_done(name)],
                    name=f"{name}/accumulate",
                    domain=_MICROSOFT,
                )
            )
    _replace(graph.node, [*_targets(graph, classes), *_in_turn(nodes, {_done(name) for name in parameters})])
    buffers = [_float(_buffer_of(name), array.shape) for name, array in parameters.items()]
    reset = helper.make_tensor_value_info(RESET, TensorProto.BOOL, [1])
    _replace(graph.input, [*_given(graph, parameters), *buffers, reset])
    done = [helper.make_tensor_value_info(_done(name), TensorProto.BOOL, [1]) for name in parameters]
    _replace(graph.output, [_float(LOSS, ()), *done])
    return _tidy(model)


def _in_turn(nodes: Sequence[onnx.NodeProto], done: set[str]) -> list[onnx.NodeProto]:
    """Let no block be computed again before the gradients of parameters behind it are on their buffers.

    Only Python can tell sessions to keep to the order of nodes. In their own order all gradients of parameters come
    last, and what was computed again for them lives until then. So the incoming gradient, whose ``Shape`` recomputation
    waits for, goes through a Reshape that needs the flags of those buffers.
    """
    result: list[onnx.NodeProto] = []
    waiting: list[str] = []
    later: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Shape" and waiting:
            source = node.input[0]
            gradient = later.get(source, source)
            stem = f"{gradient}/in_turn"
            for i, flag in enumerate(waiting[1:]):
                result.append(helper.make_node("And", [waiting[0], flag], [f"{stem}/{i}"]))
                waiting[0] = f"{stem}/{i}"
            shape = [f"{stem}/shape"] * 2
            result.append(helper.make_node("Shape", [gradient], shape[:1]))
            result.append(helper.make_node("Where", [waiting[0], *shape], [f"{stem}/same_shape"]))
            result.append(helper.make_node("Reshape", [gradient, f"{stem}/same_shape"], [stem]))
            later[source], waiting = stem, []
        node.input[:] = [later.get(name, name) for name in node.input]
        result.append(node)
        waiting += done.intersection(node.output)
    return result


def _with_loss(model: onnx.ModelProto, parameters: dict[str, np.ndarray], classes: int) -> onnx.ModelProto:
    """Append the loss to an evaluation graph; it comes first, then the logits."""
    graph = model.graph
    loss = [
        helper.make_node("LogSoftmax", [LOGITS], ["loss/log_probabilities"], axis=-1),
        helper.make_node("Mul", [TARGETS, "loss/log_probabilities"], ["loss/weighted"]),
        helper.make_node("ReduceSum", ["loss/weighted"], ["loss/sum"], keepdims=0),
        helper.make_node("Neg", ["loss/sum"], [LOSS]),
    ]
    _replace(graph.node, [*_targets(graph, classes), *graph.node, *loss])
    _replace(graph.input, _given(graph, parameters))
    _replace(graph.output, [_float(LOSS, ()), *(o for o in graph.output if o.name == LOGITS)])
    return _tidy(model)


def _targets(graph: onnx.GraphProto, classes: int) -> list[onnx.NodeProto]:
    """Nodes that turn labels into the weighted targets of our graphs: one-hot rows over the size of the batch."""
    for name, array in (("depth", np.array(classes)), ("values", np.array([0, 1], np.float32))):
        graph.initializer.append(numpy_helper.from_array(array, f"{LABELS}/{name}"))
    return [
        helper.make_node("OneHot", [LABELS, f"{LABELS}/depth", f"{LABELS}/values"], [f"{LABELS}/one_hot"]),
        helper.make_node("Shape", [LABELS], [f"{LABELS}/shape"]),
        helper.make_node("Cast", [f"{LABELS}/shape"], [f"{LABELS}/count"], to=TensorProto.FLOAT),
        helper.make_node("Div", [f"{LABELS}/one_hot", f"{LABELS}/count"], [TARGETS]),
    ]


def _given(graph: onnx.GraphProto, parameters: dict[str, np.ndarray]) -> list[onnx.ValueInfoProto]:
    """What the user gives, and what trains: in one order in both models, since the API feeds both from one list."""
    images = next(i for i in graph.input if i.name == IMAGES)
    labels = helper.make_tensor_value_info(LABELS, TensorProto.INT64, ["batch"])
    return [images, labels, *(_float(name, array.shape) for name, array in parameters.items())]


def _optimizer(onnxblock: Any, tensors: Sequence[onnx.TensorProto], name: str, weight_decay: float) -> onnx.ModelProto:
    # SGD of that API has no momentum. AdamW is written as Hugging Face once did it, epsilon before the bias correction;
    # mode 0 is torch's way, which a device follows.
    block = onnxblock.optim.SGD() if name == "sgd" else onnxblock.optim.AdamW(eps=1e-8, weight_decay=weight_decay)
    with onnxblock.empty_base(opset_version=17):
        block((tensors, []))
        model: onnx.ModelProto = block.to_model_proto()
    for attribute in (a for node in model.graph.node for a in node.attribute if a.name == "adam_mode"):
        attribute.i = 0
    model.ir_version = 8
    return model


def _buffer_of(parameter: str) -> str:
    """Return the name under which that API feeds the gradient of a parameter."""
    return f"{parameter}_grad.accumulation.buffer"


def _done(parameter: str) -> str:
    return f"{parameter}_grad.accumulation.out"


def _float(name: str, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def _replace(field: Any, entries: Sequence[Any]) -> None:
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]  # some lie in the field itself
    del field[:]
    field.extend(kept)


def _tidy(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave out what no output needs, and constants that nobody reads: the runtime warns of them."""
    graph = model.graph
    wanted, nodes = {output.name for output in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(node.input)
    _replace(graph.node, nodes[::-1])
    _replace(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in wanted])
    if not any(opset.domain == _MICROSOFT for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
    return model


def _write(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())
