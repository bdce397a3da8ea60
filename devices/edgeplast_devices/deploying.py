"""The verb ``deploy``: a Bundle (usually adapted) in, one ONNX file for inference out.

The bundle carries the inference graph without its weights. They are appended here as protobuf bytes, one
parameter in memory at a time, so the device needs neither the onnx package nor a second copy of the model.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator
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
from edgeplast_devices.weights import all_parameters, deployed_shapes

# Field numbers of onnx.proto3 (stable since IR version 3) and protobuf wire types.
_MODEL_GRAPH, _MODEL_METADATA = 7, 14
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR = 1, 2, 3, 4
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_RAW = 1, 2, 8, 9
_FLOAT = 1
_VARINT, _BYTES = 0, 2

CLASSES_KEY, PREPROCESSING_KEY = "edgeplast.classes", "edgeplast.preprocessing"
TEMPERATURE_KEY = "edgeplast.temperature"
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
        _field_length(_GRAPH_INITIALIZER, len(_tensor_header(name, shape)) + _raw_length(shape))
        for name, shape in deployed_shapes(manifest).items()
    ]
    with writing(into) as file:
        file.write(before + _tag(_MODEL_GRAPH, _BYTES) + _varint(len(graph) + sum(sizes)) + graph)
        for done, (name, array) in enumerate(all_parameters(bundle)):
            progress("writing the model", done, len(sizes))
            header = _tensor_header(name, array.shape)
            file.write(_tag(_GRAPH_INITIALIZER, _BYTES) + _varint(len(header) + _raw_length(array.shape)) + header)
            file.write(_tag(_TENSOR_RAW, _BYTES) + _varint(array.nbytes))
            file.write(np.ascontiguousarray(array, "<f4").data)
        file.write(after)
        for key, value in (
            (CLASSES_KEY, json.dumps(manifest.classes, ensure_ascii=False)),
            (PREPROCESSING_KEY, msgspec.json.encode(manifest.preprocessing).decode()),
            (TEMPERATURE_KEY, json.dumps(temperature)),
            ("edgeplast.model", manifest.model),
        ):
            file.write(_message(_MODEL_METADATA, _text(1, key) + _text(2, value)))
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
    for number, start, content, end in _fields(model):
        if number == _MODEL_GRAPH:
            return model[:start], model[content:end], model[end:]
    raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle holds no graph. Export the bundle again.")


def _divided(graph: bytes, temperature: float) -> bytes:
    """Return a serialised graph whose logits are divided by the temperature.

    The node that makes them gets another name for what it makes, and one behind it multiplies that.
    """
    for number, start, content, end in _fields(graph):
        node = graph[content:end]
        if number != _GRAPH_NODE:
            continue
        for field, first, at, last in _fields(node):
            if field == _NODE_OUTPUT and node[at:last] == LOGITS.encode():
                renamed = node[:first] + _text(_NODE_OUTPUT, _UNSCALED) + node[last:]
                product = _text(_NODE_INPUT, _UNSCALED) + _text(_NODE_INPUT, _FACTOR) + _text(_NODE_OUTPUT, LOGITS)
                factor = np.float32(1 / temperature).tobytes()
                return b"".join(
                    (
                        graph[:start],
                        _message(_GRAPH_NODE, renamed),
                        graph[end:],
                        _message(
                            _GRAPH_NODE, product + _text(_NODE_NAME, "temperature") + _text(_NODE_OPERATOR, "Mul")
                        ),
                        _message(_GRAPH_INITIALIZER, _tensor_header(_FACTOR, ()) + _message(_TENSOR_RAW, factor)),
                    )
                )
    raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle makes no {LOGITS}. Export the bundle again.")


def _fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Go through a message: number, start, start of the content, and end of each field that has a length."""
    at = 0
    while at < len(data):
        start = at
        tag, at = _read_varint(data, at)
        if tag & 7 == _VARINT:
            _, at = _read_varint(data, at)
            continue
        if tag & 7 != _BYTES:
            return
        length, at = _read_varint(data, at)
        yield tag >> 3, start, at, at + length
        at += length


def _tensor_header(name: str, shape: Iterable[int]) -> bytes:
    dims = b"".join(_tag(_TENSOR_DIMS, _VARINT) + _varint(size) for size in shape)
    return dims + _tag(_TENSOR_TYPE, _VARINT) + _varint(_FLOAT) + _text(_TENSOR_NAME, name)


def _raw_length(shape: Iterable[int]) -> int:
    return _field_length(_TENSOR_RAW, 4 * math.prod(shape))


def _field_length(field: int, content: int) -> int:
    return len(_tag(field, _BYTES)) + len(_varint(content)) + content


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, data: bytes) -> bytes:
    return _tag(field, _BYTES) + _varint(len(data)) + data


def _tag(field: int, wire_type: int) -> bytes:
    return _varint(field << 3 | wire_type)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data):
            raise DamagedError(f"{DEPLOYMENT_GRAPH} of the bundle ends in the middle. Export the bundle again.")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
