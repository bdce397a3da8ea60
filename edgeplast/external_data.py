"""Which other files an ONNX model reads weights from, found without the onnx package and before a runtime opens it.

onnxruntime follows the names in a model's external data: builds of 2024 to any file of the system, later ones to any
file below the model's folder. So the names are read first, from the protobuf wire format (protobuf.dev, "Encoding";
field numbers of onnx.proto3): the fields that can hold a tensor are walked, all others skipped, and a model of two
gigabytes costs its headers alone.

On the way each tensor is asked whether it has as many bytes as its shape says: runtimes of 2024 believe it, read past
the end, and take the process with them.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from edgeplast.errors import InputError
from edgeplast.stamps import opened

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING, _ENTRY = range(9)

# What is walked: of each message the fields that hold, directly or further down, an entry of external data.
_INSIDE: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _TENSOR: {13: _ENTRY},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY, _VALUE = 1, 2
_LOCATION = b"location"
_WORTH_A_WALK = re.compile(rb"location|\xa0\x01[\x04\x05\x09-\x0c]")
"""An entry that names a file, or an attribute whose type is a tensor or a graph, or several: few nodes have one."""

_MOSTLY_WITHOUT = (_NODE, _ATTRIBUTE, _FUNCTION, _ENTRY)
_DIMS, _DATA_TYPE, _RAW_DATA, _PLACE = 1, 2, 9, 14
_BITS = dict.fromkeys((2, 3, 9, 17, 18, 19, 20), 8) | dict.fromkeys((4, 5, 10, 16), 16) | dict.fromkeys((1, 6, 12), 32)
_BITS |= dict.fromkeys((7, 11, 13, 14), 64) | {15: 128, 21: 4, 22: 4, 23: 4}
"""Bits of an element by ``TensorProto.DataType``."""

_DEEPEST = 100
"""protobuf's own limit of messages inside messages."""

_MOST_FIELDS = 4_000_000
"""Ten times those of the largest model tried (ViT-L with its gradients: 0.3 million); five seconds."""

_LONGEST_NAME = 4096
_READ_BYTES = 1 << 16


def external_files(model: Path) -> set[str]:
    """Return the names, as written, of all files that a model reads tensors from.

    Raises:
        InputError: the file cannot be read, or is no ONNX model.
    """
    try:
        with opened(model) as file:
            return external_files_in(file, str(model))
    except OSError as error:
        raise InputError(f"Cannot read the model {model}: {error.strerror or error}.") from error
    except InputError as error:
        raise InputError(f"{error}. Export or deploy it again.") from error


def external_files_in(file: BinaryIO, where: str) -> set[str]:
    """Return the same of an unbuffered open file; ``where`` names it in messages.

    Raises:
        InputError: it is no ONNX model.
    """
    file.seek(0)
    try:
        return _Walk(file, os.fstat(file.fileno()).st_size).names()
    except _NotOnnxError as error:
        raise InputError(f"{where} is no ONNX model: {error}") from error


def check_external_files(model: Path, allowed: Collection[str] = ()) -> None:
    """Raise if a model reads weights from any other file than those of its own folder that are allowed.

    Raises:
        InputError: it does, cannot be read, or is no ONNX model.
    """
    foreign = sorted(external_files(model).difference(allowed))
    if foreign:
        only = f"only {', '.join(sorted(allowed))} is allowed" if allowed else "a deployed model holds all of its own"
        raise InputError(
            f"{model} reads weights from other files ({', '.join(map(repr, foreign[:5]))}); {only}. "
            "Nothing was read from them. Take a model made by edgeplast."
        )


class _NotOnnxError(Exception):
    """The bytes are no message of the kind that they should be."""


class _Tensor:
    """What the fields of a tensor say, as far as they were read."""

    def __init__(self) -> None:
        self.shape: list[int] = []
        self.kind, self.raw_bytes, self.is_elsewhere = 0, -1, False

    def check(self) -> None:
        """Raise where there are not as many bytes as the shape says."""
        if self.raw_bytes >= 0 and self.kind in _BITS and not self.is_elsewhere:
            needed = -(-math.prod(self.shape) * _BITS[self.kind] // 8)
            if needed != self.raw_bytes:
                shown = f"{self.shape[:8]} … ({len(self.shape)})" if len(self.shape) > 8 else str(self.shape)
                raise _NotOnnxError(f"a tensor of shape {shown} has {self.raw_bytes} bytes instead of {needed}")


class _Walk:
    """One pass over a file, from front to back, that holds a window of it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._size = file, size
        self._window, self._start, self._at = b"", 0, 0  # bytes, where in the file they begin, and the next one in them
        self._number = 0  # the content of the last field that was one
        self._tensor = _Tensor()

    def names(self) -> set[str]:
        """Return the locations of all entries of external data."""
        found: set[str] = set()
        stack = [(_MODEL, self._size)]  # message and where it ends
        entry = [b"", b""]
        for _ in range(_MOST_FIELDS):
            while self._position == stack[-1][1]:
                kind, _ = stack.pop()
                if kind == _ENTRY and entry[0] == _LOCATION:
                    found.add(entry[1].decode("utf-8", "replace"))
                if kind == _TENSOR:
                    self._tensor.check()
                if not stack:
                    return found
            kind, end = stack[-1]
            field, wire, length = self._field(end)
            inner = _INSIDE.get(kind, {}).get(field) if wire == _BYTES else None
            if inner is not None and (inner not in _MOSTLY_WITHOUT or not self._lacks_key(length)):
                if len(stack) == _DEEPEST:
                    raise _NotOnnxError(f"more than {_DEEPEST} messages lie inside one another")
                stack.append((inner, self._position + length))
                entry = [b"", b""]
                # Twice the same attribute's tensor is one: parsers merge them.
                if inner == _ATTRIBUTE or (inner == _TENSOR and (kind, field) != (_ATTRIBUTE, 5)):
                    self._tensor = _Tensor()
            elif kind == _TENSOR and field in (_DIMS, _DATA_TYPE, _RAW_DATA, _PLACE):
                self._note(field, wire, length)
            elif kind == _ENTRY and wire == _BYTES and field in (_KEY, _VALUE):
                entry[field - _KEY] = self._take(length)
            else:
                self._skip(length)
        raise _NotOnnxError(f"it has more than {_MOST_FIELDS:,} fields")

    def _note(self, field: int, wire: int, length: int) -> None:
        """Take up what a field says of the tensor that is walked."""
        if field == _RAW_DATA and wire == _BYTES:
            self._tensor.raw_bytes = length
        elif field == _DATA_TYPE and wire == _VARINT:
            self._tensor.kind = self._number
        elif field == _PLACE and wire == _VARINT:
            self._tensor.is_elsewhere = self._number == 1
        elif field == _DIMS and wire == _VARINT:
            self._tensor.shape.append(self._number)
        elif field == _DIMS and wire == _BYTES:
            end = self._position + length
            while self._position < end:
                self._tensor.shape.append(self._varint(10))
            return
        self._skip(length)

    @property
    def _position(self) -> int:
        return self._start + self._at

    def _field(self, end: int) -> tuple[int, int, int]:
        """Read a tag; return field number, wire type and the bytes that follow, which lie before ``end``."""
        tag = self._varint(5)
        field, wire = tag >> 3, tag & 7
        if not 0 < field < 1 << 29:
            raise _NotOnnxError(f"it has a field number {field}")
        if wire == _VARINT:
            self._number = self._varint(10)
            length = 0
        elif wire == _BYTES:
            length = self._varint(5)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise _NotOnnxError(f"it has a field of type {wire}")
        if self._position + length > end:
            raise _NotOnnxError("a part of it ends in the middle")
        return field, wire, length

    def _varint(self, longest: int) -> int:
        value = 0
        for place in range(longest):
            if self._at == len(self._window):
                self._fill()
            byte = self._window[self._at]
            self._at += 1
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise _NotOnnxError("a number in it has too many bytes")

    def _lacks_key(self, length: int) -> bool:
        """Whether the next bytes cannot hold a tensor that matters: true of nearly all nodes, and quickly seen."""
        if length > _READ_BYTES:
            return False
        self._hold(length)
        return _WORTH_A_WALK.search(self._window, self._at, self._at + length) is None

    def _take(self, length: int) -> bytes:
        if length > _LONGEST_NAME:
            raise _NotOnnxError(f"it names a file with {length} characters")
        self._hold(length)
        self._at += length
        return self._window[self._at - length : self._at]

    def _skip(self, length: int) -> None:
        self._at += length
        if self._at > len(self._window):  # what lies between is not read
            self._start, self._at, self._window = self._position, 0, b""
            self._file.seek(self._start)

    def _hold(self, length: int) -> None:
        while len(self._window) - self._at < length:
            self._fill()

    def _fill(self) -> None:
        more = self._file.read(_READ_BYTES)
        if not more:
            raise _NotOnnxError("it ends in the middle")
        self._window = self._window[self._at :] + more
        self._start, self._at = self._position, 0
