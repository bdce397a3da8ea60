"""Reading and writing named float32 arrays as safetensors, without a second copy in memory.

The safetensors package serialises into one bytes object; on a device that is a copy of everything that trains.
The format is an 8-byte length, a JSON header and the raw arrays, so it is streamed here array by array.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

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
    """Read arrays one by one into memory of their own.

    Raises:
        DamagedError: the file is no safetensors file or lacks a name.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in (file.keys() if names is None else names)}
    except (SafetensorError, OSError) as error:
        raise DamagedError(f"{path} cannot be read: {error}. Copy it again, or go back to the bundle.") from error


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
