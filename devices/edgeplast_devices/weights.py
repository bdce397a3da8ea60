"""The weights of a bundle on the device: what may change, and every parameter as float32 for deployment."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from edgeplast.bundle import BLOCK_OF_4_BITS, FROZEN, TRAINABLE, Bundle, StoredParameter
from edgeplast_devices.tensors import read_arrays


def read_trainable(bundle: Bundle) -> dict[str, np.ndarray]:
    """Return every parameter that the plan trains, float32, as fresh writable arrays."""
    names = [name for name, stored in bundle.manifest.parameters.items() if stored.trainable]
    return read_arrays(bundle.path / TRAINABLE, names)


def all_parameters(bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter of the model, float32 as the graphs compute with it, one in memory at a time."""
    frozen: Path = bundle.path / FROZEN
    with (
        safe_open(frozen, framework="numpy") as fixed,
        safe_open(bundle.path / TRAINABLE, framework="numpy") as changed,
    ):
        for name, stored in bundle.manifest.parameters.items():
            if stored.trainable:
                yield name, changed.get_tensor(name)
            elif stored.weight_bits == 32:
                yield name, fixed.get_tensor(name)
            else:
                yield name, _dequantized(fixed, name, stored)


def _dequantized(file: Any, name: str, stored: StoredParameter) -> np.ndarray:
    """Return a matrix (out, in) as the graphs compute with it; how it is stored is said in ``StoredParameter``."""
    scale = file.get_tensor(f"{name}.scale")
    if stored.compute_bits == 8:
        integers = file.get_tensor(f"{name}.int8.transposed").T.astype(np.float32)
    elif stored.weight_bits == 8:
        integers = file.get_tensor(f"{name}.int8").astype(np.float32)
    else:
        integers = _unpacked(file.get_tensor(f"{name}.int4"), stored.shape).astype(np.float32)
        scale = np.repeat(scale, BLOCK_OF_4_BITS, axis=1)[:, : stored.shape[1]]
    integers *= scale if scale.ndim == 2 else scale[:, None]
    return integers


def _unpacked(packed: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return int8 in −8..7 from two in a byte, the first in the lower half."""
    both = np.empty(2 * len(packed), np.int8)
    both[0::2] = packed.view(np.int8) << 4
    both[1::2] = packed.view(np.int8)
    both >>= 4  # carries the sign
    return both[: math.prod(shape)].reshape(shape)
