"""Protobuf by hand: the few messages of ONNX that are read and written on a device, without the onnx package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from edgeplast.errors import DamagedError

# Field numbers of onnx.proto3 (stable since IR version 3) and protobuf wire types.
MODEL_GRAPH, MODEL_METADATA = 7, 14
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OPERATOR = 1, 2, 3, 4
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
_VALUE_NAME, _VALUE_TYPE, _TYPE_TENSOR, _TENSOR_SHAPE, _SHAPE_DIMENSION, _DIMENSION_VALUE = 1, 2, 1, 2, 1, 1
FLOAT = 1
VARINT, BYTES = 0, 2


def fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Go through a message: number, start, start of the content, and end of each field that has a length."""
    at = 0
    while at < len(data):
        start = at
        tag_, at = read_varint(data, at)
        if tag_ & 7 == VARINT:
            _, at = read_varint(data, at)
            continue
        if tag_ & 7 != BYTES:
            return
        length, at = read_varint(data, at)
        yield tag_ >> 3, start, at, at + length
        at += length


def rewritten(data: bytes, number: int, change: Callable[[bytes], bytes]) -> bytes:
    """Return a message whose fields of one number have other contents; all else is as it was, byte for byte."""
    pieces, done = [], 0
    for found, start, content, end in fields(data):
        if found == number:
            pieces += [data[done:start], message(number, change(data[content:end]))]
            done = end
    return b"".join([*pieces, data[done:]])


def resized_values(model: bytes, axes: dict[str, int], before: int, after: int) -> bytes:
    """Return a serialised model some of whose inputs and outputs have another size along an axis.

    Args:
        model: a ModelProto.
        axes: name of an input or output to the axis; names that the model has not are passed over.
        before: the size that they have.
        after: the size that they get.

    Raises:
        DamagedError: one has another size, or the message ends in the middle.
    """

    def value(data: bytes) -> bytes:
        name = next((data[at:end].decode() for n, _, at, end in fields(data) if n == _VALUE_NAME), "")
        if name not in axes:
            return data
        count = -1

        def dimension(old: bytes) -> bytes:
            nonlocal count
            count += 1
            if count != axes[name]:
                return old
            if old != tag(_DIMENSION_VALUE, VARINT) + varint(before):
                raise DamagedError(f"A graph of the bundle does not have {before} classes in {name}. Export it again.")
            return tag(_DIMENSION_VALUE, VARINT) + varint(after)

        def shape(old: bytes) -> bytes:
            return rewritten(old, _SHAPE_DIMENSION, dimension)

        def tensor(old: bytes) -> bytes:
            return rewritten(old, _TENSOR_SHAPE, shape)

        return rewritten(data, _VALUE_TYPE, lambda old: rewritten(old, _TYPE_TENSOR, tensor))

    def graph(data: bytes) -> bytes:
        return rewritten(rewritten(data, GRAPH_INPUT, value), GRAPH_OUTPUT, value)

    return rewritten(model, MODEL_GRAPH, graph)


def tensor_header(name: str, shape: Iterable[int]) -> bytes:
    """Return what stands before the data of a float32 tensor."""
    dims = b"".join(tag(TENSOR_DIMS, VARINT) + varint(size) for size in shape)
    return dims + tag(TENSOR_TYPE, VARINT) + varint(FLOAT) + text(TENSOR_NAME, name)


def raw_length(shape: Iterable[int]) -> int:
    """Return the bytes of a float32 tensor's data as a field."""
    return field_length(TENSOR_RAW, 4 * math.prod(shape))


def field_length(field: int, content: int) -> int:
    """Return the bytes of a field whose content has so many."""
    return len(tag(field, BYTES)) + len(varint(content)) + content


def text(field: int, content: str) -> bytes:
    """Return a field that holds a text."""
    return message(field, content.encode())


def message(field: int, data: bytes) -> bytes:
    """Return a field that holds bytes."""
    return tag(field, BYTES) + varint(len(data)) + data


def tag(field: int, wire_type: int) -> bytes:
    """Return what a field begins with."""
    return varint(field << 3 | wire_type)


def varint(value: int) -> bytes:
    """Return a number, seven bits a byte."""
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*result, value])


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place, and the place behind it.

    Raises:
        DamagedError: the data end in it.
    """
    value = shift = 0
    while True:
        if at >= len(data):
            raise DamagedError("A graph of the bundle ends in the middle. Export the bundle again.")
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
