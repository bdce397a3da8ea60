"""What travels: an update by name, as float32, float16 or int8, and what rounding left over for the next round.

An update is the difference between the weights that a device learned and those that it was sent. In int8 each row of a
matrix (each vector) has a scale of its own, its largest magnitude / 127, which travels beside it as ``<name>:scale``.
Error feedback (Seide et al. 2014; Karimireddy et al., arXiv 1901.09847): what rounding took away is added to the next
update, so that over the rounds nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgeplast.errors import DamagedError, one_of
from edgeplast_devices.tensors import read_arrays, read_metadata, write_arrays

TRAVEL = ("float32", "float16", "int8")
_SCALE = ":scale"
_LARGEST_HALF = 65504.0


class RefusedUpdateError(ValueError):
    """An update that is not taken; the text says why, without a word of what it holds."""


def packed(update: Mapping[str, np.ndarray], travel: str) -> dict[str, np.ndarray]:
    """Return an update as it travels.

    Args:
        update: float32 by name, finite.
        travel: one of :data:`TRAVEL`.

    Raises:
        UsageError: ``travel`` is none of them.
    """
    if travel not in TRAVEL:
        raise one_of("travel", travel, TRAVEL)
    if travel == "float32":
        return {name: np.asarray(array, np.float32) for name, array in update.items()}
    if travel == "float16":
        return {
            name: np.clip(array, -_LARGEST_HALF, _LARGEST_HALF).astype(np.float16) for name, array in update.items()
        }
    arrays: dict[str, np.ndarray] = {}
    for name, array in update.items():
        rows = _rows(array)
        scales = np.abs(rows).max(axis=1, initial=0.0).astype(np.float32) / np.float32(127)
        steps = rows / np.where(scales > 0, scales, 1)[:, None]
        arrays[name] = np.clip(np.rint(steps), -127, 127).astype(np.int8).reshape(array.shape)
        arrays[name + _SCALE] = scales
    return arrays


def unpacked(arrays: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Return an update as float32, in the order of ``shapes``.

    Args:
        arrays: as :func:`packed` returned them, from anyone.
        shapes: of every parameter that travels.

    Raises:
        RefusedUpdateError: names, kinds or shapes are others, or a number is not finite.
    """
    known = set(shapes) | {name + _SCALE for name in shapes}
    if missing := [name for name in shapes if name not in arrays]:
        raise RefusedUpdateError(f"{len(missing)} of {len(shapes)} arrays are missing, {missing[0]} first")
    if foreign := [name for name in arrays if name not in known]:
        raise RefusedUpdateError(f"{len(foreign)} arrays have names that the model does not know")
    update = {}
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != tuple(shape):
            raise RefusedUpdateError(f"{name} has shape {list(array.shape)} instead of {list(shape)}")
        if array.dtype == np.int8:
            update[name] = _scaled(name, array, arrays.get(name + _SCALE))
        elif array.dtype in (np.float32, np.float16):
            update[name] = array.astype(np.float32)
        else:
            raise RefusedUpdateError(f"{name} is {array.dtype}; {', '.join(TRAVEL)} are taken")
        if not np.isfinite(update[name]).all():
            raise RefusedUpdateError(f"{name} holds what is no finite number")
    return update


def norm(update: Mapping[str, np.ndarray]) -> float:
    """Return the Euclidean norm over all arrays."""
    return float(np.sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in update.values())))


class LeftOver:
    """What rounding took from the updates of one run, on disk, so that a device that starts anew does not lose it.

    Args:
        file: a safetensors file.
        run: of which it must be; what was left of another run is forgotten.
    """

    def __init__(self, file: Path, run: str) -> None:
        self._file, self._run = file, run

    def added(self, update: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return an update with what is left over from the ones before."""
        left = self._read()
        return {
            name: array + left[name] if name in left and left[name].shape == array.shape else array
            for name, array in update.items()
        }

    def keep(self, update: Mapping[str, np.ndarray], sent: Mapping[str, np.ndarray]) -> None:
        """Keep what was to be sent and was not."""
        shapes = {name: array.shape for name, array in update.items()}
        arrived = unpacked(sent, shapes)
        write_arrays(self._file, {name: update[name] - arrived[name] for name in update}, {"run": self._run})

    def _read(self) -> dict[str, np.ndarray]:
        try:
            if not self._file.is_file() or read_metadata(self._file).get("run") != self._run:
                return {}
            return read_arrays(self._file)
        except DamagedError:  # of no use then, and no reason not to learn
            return {}


def _rows(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1) if array.ndim > 1 else array.reshape(1, -1)


def _scaled(name: str, array: np.ndarray, scales: np.ndarray | None) -> np.ndarray:
    rows = _rows(array)
    if scales is None or scales.shape != (len(rows),) or scales.dtype != np.float32:
        raise RefusedUpdateError(f"{name} is int8 and has no scale for each of its {len(rows)} rows")
    return (rows.astype(np.float32) * scales[:, None]).reshape(array.shape)
