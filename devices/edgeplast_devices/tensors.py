"""Reading and writing named float32 arrays as safetensors, without a second copy in memory.

The safetensors package serialises into one bytes object; on a device that is a copy of everything that trains.
The format is an 8-byte length, a JSON header and the raw arrays, so it is streamed here array by array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from safetensors import SafetensorError, safe_open

from edgeplast.errors import DamagedError
from edgeplast.files import writing


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


def read_arrays(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Read float32 arrays one by one into memory of their own.

    Read and not mapped: mapped pages would count as resident beside the copies until the file is closed.

    Raises:
        DamagedError: the file is no safetensors file, lacks a name, or holds it as something else than float32.
    """
    try:
        with path.open("rb", buffering=0) as file:
            header, start = _header(file)
            return {name: _read_array(file, header, start, name) for name in (header if names is None else names)}
    except (KeyError, TypeError, ValueError, OSError) as error:
        reason = f"it has no array {error}" if isinstance(error, KeyError) else error
        raise DamagedError(f"{path} cannot be read: {reason}. Copy it again, or go back to the bundle.") from error


def _header(file: BinaryIO) -> tuple[dict[str, dict[str, Any]], int]:
    """Return the entries of a file's arrays and where their bytes start."""
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= 100 << 20:
        raise ValueError(f"its header would have {length} bytes")
    entries = json.loads(file.read(length))
    entries.pop("__metadata__", None)
    return entries, 8 + length


def _read_array(file: BinaryIO, header: dict[str, dict[str, Any]], start: int, name: str) -> np.ndarray:
    entry = header[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{name} is {entry['dtype']}, not F32")
    array = np.empty(entry["shape"], np.float32)
    first, end = entry["data_offsets"]
    if end - first != array.nbytes:
        raise ValueError(f"{name} has {end - first} bytes for shape {entry['shape']}")
    file.seek(start + first)
    into, done = memoryview(array.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
    while done < len(into):  # an unbuffered file may give less than was asked for
        got = file.readinto(into[done:])  # type: ignore[attr-defined]
        if not got:
            raise ValueError(f"it ends in the middle of {name}")
        done += got
    return array


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata that ``write_arrays`` stored.

    Raises:
        DamagedError: the file is no safetensors file.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} cannot be read: {error}.") from error
