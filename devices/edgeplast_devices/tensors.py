"""Reading and writing named arrays as safetensors, without a second copy in memory and from a file opened once.

The safetensors package serialises into one bytes object; on a device that is a copy of everything that trains. It
reads from a path, which may lead to another file than the one whose hash was checked. The format is an 8-byte length,
a JSON header and the raw arrays, so it is streamed here array by array.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from edgeplast.documents import Count
from edgeplast.errors import DamagedError
from edgeplast.files import writing
from edgeplast.stamps import hashed, opened
from edgeplast.units import format_bytes

MOST_HEADER_BYTES = 4 << 20
"""Of files of weights: some hundred bytes an array."""

_DTYPES = {"F32": "<f4", "I8": "i1", "U8": "u1"}


def write_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, str] | None = None,
    *,
    rename: Callable[[Path], Path] | None = None,
) -> None:
    """Write float32 arrays as one safetensors file, whole or not at all.

    Args:
        path: the file.
        arrays: by name, written in this order.
        metadata: texts for the file's header.
        rename: given the finished temporary file, returns the name it shall have instead of ``path``.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, array in arrays.items():
        size = 4 * math.prod(array.shape)
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with writing(path, rename) as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for array in arrays.values():
            file.write(np.ascontiguousarray(array, np.float32).data)


@contextlib.contextmanager
def open_arrays(path: Path, *, most_header_bytes: int = MOST_HEADER_BYTES, checksum: str = "") -> Iterator[TensorFile]:
    """Open a safetensors file once, for its header and for as many of its arrays as are wanted.

    Args:
        path: the file, which is neither a link nor a pipe.
        most_header_bytes: a longer header is refused before it is read.
        checksum: first hexadecimal digits of the SHA-256 that this very file must have; none: it is not looked at.

    Raises:
        DamagedError: the file is no safetensors file; also of whatever is read from it while it is open.
    """
    try:
        with opened(path) as file:
            if checksum and not hashed(file).startswith(checksum):
                raise ValueError("its content does not match its checksum")
            file.seek(0)
            yield TensorFile(file, most_header_bytes)
    except (KeyError, TypeError, ValueError, OSError, RecursionError) as error:  # msgspec's are ValueErrors
        reason = (
            f"it has no array {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        )
        raise DamagedError(f"{path} cannot be read: {reason}. Copy it again, or go back to the bundle.") from error


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read float32 arrays one by one into memory of their own; without ``names`` all of them.

    Read and not mapped: mapped pages would count as resident beside the copies until the file is closed.

    Raises:
        DamagedError: the file is no safetensors file, lacks a name, or holds it as something else than float32.
    """
    with open_arrays(path) as file:
        return {name: file.read(name) for name in (file.names if names is None else names)}


def fill_arrays(
    path: Path,
    arrays: Mapping[str, np.ndarray],
    *,
    partly: bool = False,
    most_header_bytes: int = MOST_HEADER_BYTES,
    checksum: str = "",
) -> None:
    """Read float32 arrays into the memory in which they stand: a second copy would be one that no budget counted.

    Args:
        path: the file.
        arrays: contiguous float32, by name.
        partly: those that the file lacks stay as they are.
        most_header_bytes: as in :func:`open_arrays`.
        checksum: as in :func:`open_arrays`.

    Raises:
        DamagedError: as of :func:`read_arrays`, or an array has another shape in the file. What was read until then has
            been written.
    """
    with open_arrays(path, most_header_bytes=most_header_bytes, checksum=checksum) as file:
        for name, array in arrays.items():
            if not partly or name in file.names:
                file.read_into(name, array)


def read_metadata(path: Path, *, most_header_bytes: int = MOST_HEADER_BYTES, checksum: str = "") -> dict[str, str]:
    """Return the metadata that ``write_arrays`` stored.

    Raises:
        DamagedError: the file is no safetensors file.
    """
    with open_arrays(path, most_header_bytes=most_header_bytes, checksum=checksum) as file:
        return file.metadata()


class TensorFile:
    """An open safetensors file whose header was read.

    Attributes:
        names: of its arrays, in the order of the header.
    """

    def __init__(self, file: BinaryIO, most_header_bytes: int = MOST_HEADER_BYTES) -> None:
        self._file, self._size = file, os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= most_header_bytes:
            most = format_bytes(most_header_bytes)
            raise ValueError(f"its header would have {format_bytes(length)}, where {most} are allowed")
        self._header = bytearray(min(length, max(self._size - 8, 0)))
        _fill(file, self._header, "its header")
        if len(self._header) < length:
            raise ValueError("it ends in the middle of its header")
        self._start = 8 + length
        self._entries = msgspec.json.decode(self._header, type=dict[str, msgspec.Raw])  # what is not wanted stays text
        self._entries.pop("__metadata__", None)
        self.names = tuple(self._entries)

    def metadata(self) -> dict[str, str]:
        """Return the texts in the header."""
        return msgspec.json.decode(self._header, type=_Described).metadata

    def read(self, name: str, kind: str = "F32") -> np.ndarray:
        """Return one array, in memory of its own; its dtype is named in the format's words: F32, I8 or U8.

        Raises:
            KeyError: there is none of that name.
            ValueError: it is of another dtype, or its bytes are not there.
        """
        dtype, shape, first = self._found(name, kind)
        array = np.empty(shape, dtype)
        self._file.seek(first)
        _fill(self._file, memoryview(array.reshape(-1).view(np.uint8)), name)  # type: ignore[arg-type]
        return array

    def read_into(self, name: str, array: np.ndarray) -> None:
        """Read one float32 array into contiguous memory of its shape.

        Raises:
            KeyError: there is none of that name.
            ValueError: as of :meth:`read`, or its shape is another one.
        """
        dtype, shape, first = self._found(name, "F32")
        if (array.dtype, array.shape) != (dtype, shape):
            raise ValueError(f"{name} has shape {list(shape)}, not {list(array.shape)}")
        self._file.seek(first)
        _fill(self._file, memoryview(array.reshape(-1).view(np.uint8)), name)  # type: ignore[arg-type]

    def pieces(self, name: str, most: int) -> Iterator[np.ndarray]:
        """Yield one float32 array in flat pieces of so many numbers at most; each is gone when the next one is read.

        Raises:
            KeyError: there is none of that name.
            ValueError: as of :meth:`read`.
        """
        dtype, shape, first = self._found(name, "F32")
        size = math.prod(shape)
        piece = np.empty(min(most, size), dtype)
        for start in range(0, size, most):
            part = piece[: size - start]
            self._file.seek(first + start * dtype.itemsize)
            _fill(self._file, memoryview(part.view(np.uint8)), name)  # type: ignore[arg-type]
            yield part

    def _found(self, name: str, kind: str) -> tuple[np.dtype[Any], tuple[int, ...], int]:
        """Return dtype, shape and place in the file of one array, which is there as a whole."""
        entry = msgspec.json.decode(self._entries[name], type=_Entry)
        if entry.dtype != kind:
            raise ValueError(f"{name} is {entry.dtype}, not {kind}")
        dtype = np.dtype(_DTYPES[kind])
        (first, end), size = entry.data_offsets, math.prod(entry.shape) * dtype.itemsize
        if end - first != size:
            raise ValueError(f"{name} has {end - first} bytes for shape {list(entry.shape)}")
        if self._start + end > self._size:
            raise ValueError(f"it ends in the middle of {name}")
        return dtype, entry.shape, self._start + first


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[Count, ...]
    data_offsets: tuple[Count, Count]


class _Described(msgspec.Struct):
    metadata: dict[str, str] = msgspec.field(name="__metadata__", default_factory=dict)


def _fill(file: BinaryIO, into: bytearray | memoryview, what: str) -> None:
    """Read as many bytes as there is room for; an unbuffered file may give less than was asked for at once."""
    view, done = memoryview(into), 0
    while done < len(view):
        got = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            raise ValueError(f"it ends in the middle of {what}")
        done += got
