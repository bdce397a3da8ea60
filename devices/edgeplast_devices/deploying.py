"""The verb ``deploy``: a Bundle (usually adapted) in, one ONNX file for inference out.

The bundle carries the inference graph without its weights. They are appended here as protobuf bytes, one
parameter in memory at a time, so the device needs neither the onnx package nor a second copy of the model.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.bundle import DEPLOYMENT_GRAPH, MOST_GRAPH_BYTES, Bundle
from edgeplast.contract import LOGITS
from edgeplast.errors import DamagedError
from edgeplast.files import writing
from edgeplast.outputs import only_writer, refuse_existing
from edgeplast.progress import Progress, silent
from edgeplast.stamps import opened, read_up_to
from edgeplast.stored_files import signatures_beside
from edgeplast_devices.protobuf import (
    BYTES,
    GRAPH_INITIALIZER,
    GRAPH_NODE,
    MODEL_GRAPH,
    MODEL_METADATA,
    NODE_INPUT,
    NODE_NAME,
    NODE_OPERATOR,
    NODE_OUTPUT,
    TENSOR_RAW,
    field_length,
    fields,
    message,
    raw_length,
    tag,
    tensor_header,
    text,
    varint,
)
from edgeplast_devices.weights import all_parameters, deployed_shapes

CLASSES_KEY, PREPROCESSING_KEY = "edgeplast.classes", "edgeplast.preprocessing"
TEMPERATURE_KEY, UNKNOWN_KEY = "edgeplast.temperature", "edgeplast.unknown"
_UNSCALED, _FACTOR = "logits.unscaled", "logits.factor"


def deploy(
    bundle: Bundle,
    into: Path,
    *,
    temperature: bool = True,
    force: bool = False,
    progress: Progress = silent,
    seal: Callable[[Path], None] | None = None,
) -> Path:
    """Write the model as one ONNX file (opset 17, float32) with class names and preprocessing in its metadata.

    Args:
        bundle: fresh or adapted.
        into: the file to write.
        temperature: let the model divide its logits by the bundle's temperature, where it has one.
        force: replace what is there.
        progress: told of each parameter.
        seal: signs the finished file.

    Raises:
        UsageError: ``into`` exists and ``force`` is not given, or another process writes it.
        InputError: the disk is full.
        DamagedError: files of the bundle changed since they were verified; nothing was written.
    """
    refuse_existing(into, force=force)
    with only_writer(into):
        _write(bundle, into, bundle.manifest.temperature if temperature else None, progress)
        if seal is not None:
            seal(into)
        else:
            signatures_beside(into).unlink(missing_ok=True)  # of another file of that name
        return into


def _write(bundle: Bundle, into: Path, temperature: float | None, progress: Progress) -> None:
    manifest = bundle.manifest
    before, graph, after = _split(_deployment_graph(bundle))
    if temperature is not None:
        graph = _divided(graph, temperature)
    sizes = [
        field_length(GRAPH_INITIALIZER, len(tensor_header(name, shape)) + raw_length(shape))
        for name, shape in deployed_shapes(manifest).items()
    ]
    with writing(into) as file:
        file.write(before + tag(MODEL_GRAPH, BYTES) + varint(len(graph) + sum(sizes)) + graph)
        for done, (name, array) in enumerate(all_parameters(bundle)):
            progress("writing the model", done, len(sizes))
            header = tensor_header(name, array.shape)
            file.write(tag(GRAPH_INITIALIZER, BYTES) + varint(len(header) + raw_length(array.shape)) + header)
            file.write(tag(TENSOR_RAW, BYTES) + varint(array.nbytes))
            file.write(np.ascontiguousarray(array, "<f4").data)
        file.write(after)
        for key, value in (
            (CLASSES_KEY, json.dumps(manifest.classes, ensure_ascii=False)),
            (PREPROCESSING_KEY, msgspec.json.encode(manifest.preprocessing).decode()),
            (TEMPERATURE_KEY, json.dumps(temperature)),
            (UNKNOWN_KEY, msgspec.json.encode(manifest.unknown).decode()),
            ("edgeplast.model", manifest.model),
        ):
            file.write(message(MODEL_METADATA, text(1, key) + text(2, value)))
    progress("writing the model", len(sizes), len(sizes))


def _deployment_graph(bundle: Bundle) -> bytes:
    """Read the graph, whose content was hashed when the bundle was opened: those bytes and no others.

    Raises:
        DamagedError: they are others, or none.
    """
    try:
        with opened(bundle.path / DEPLOYMENT_GRAPH) as file:
            data = read_up_to(file, MOST_GRAPH_BYTES)
    except OSError as error:
        raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest() != bundle.manifest.files[DEPLOYMENT_GRAPH].sha256:
        raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle was changed. Copy the bundle again, or export it again.")
    return data


def _split(model: bytes) -> tuple[bytes, bytes, bytes]:
    """Cut a serialised model into what stands before its graph, the graph's own bytes, and what follows."""
    for number, start, content, end in fields(model):
        if number == MODEL_GRAPH:
            return model[:start], model[content:end], model[end:]
    raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle holds no graph. Export the bundle again.")


def _divided(graph: bytes, temperature: float) -> bytes:
    """Return a serialised graph whose logits are divided by the temperature.

    The node that makes them gets another name for what it makes, and one behind it multiplies that.
    """
    for number, start, content, end in fields(graph):
        node = graph[content:end]
        if number != GRAPH_NODE:
            continue
        for field, first, at, last in fields(node):
            if field == NODE_OUTPUT and node[at:last] == LOGITS.encode():
                renamed = node[:first] + text(NODE_OUTPUT, _UNSCALED) + node[last:]
                product = text(NODE_INPUT, _UNSCALED) + text(NODE_INPUT, _FACTOR) + text(NODE_OUTPUT, LOGITS)
                factor = np.float32(1 / temperature).tobytes()
                return b"".join(
                    (
                        graph[:start],
                        message(GRAPH_NODE, renamed),
                        graph[end:],
                        message(GRAPH_NODE, product + text(NODE_NAME, "temperature") + text(NODE_OPERATOR, "Mul")),
                        message(GRAPH_INITIALIZER, tensor_header(_FACTOR, ()) + message(TENSOR_RAW, factor)),
                    )
                )
    raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle makes no {LOGITS}. Export the bundle again.")
