"""The weights of a bundle on the device: what may change, and every parameter as float32 for deployment."""

from __future__ import annotations

import math
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from edgeplast.bundle import BLOCK_OF_4_BITS, FROZEN, TRAINABLE, Bundle, Manifest, StoredParameter
from edgeplast.contract import LIKENESS, MEANS, low_rank_names, matrix_name, packed_name, quantized_name, scale_name
from edgeplast.errors import DamagedError
from edgeplast_devices.tensors import TensorFile, open_arrays, read_arrays, read_metadata


def read_trainable(bundle: Bundle) -> dict[str, np.ndarray]:
    """Return every parameter that the plan trains, float32, as fresh writable arrays.

    Raises:
        DamagedError: the file does not hold what the manifest says, or changed since its hash was verified.
    """
    shapes = {name: stored.shape for name, stored in bundle.manifest.parameters.items() if stored.trainable}
    bundle.check_unchanged(TRAINABLE)
    arrays = read_arrays(bundle.path / TRAINABLE, shapes)
    bundle.check_unchanged(TRAINABLE)
    for name, array in arrays.items():
        _check_shape(TRAINABLE, name, array, shapes[name])
    return arrays


def landmarks_in(path: Path, width: int) -> dict[str, np.ndarray]:
    """Return the landmarks in the header of a file of weights: where features of known classes lie; none in fresh ones.

    Args:
        path: the file.
        width: of the features.

    Raises:
        DamagedError: they are no such numbers.
    """
    found = read_metadata(path)
    try:
        arrays = {name: np.frombuffer(b64decode(found[name], validate=True), "<f4") for name in (MEANS, LIKENESS)}
        return {MEANS: arrays[MEANS].reshape(-1, width), LIKENESS: arrays[LIKENESS].reshape(1)}
    except KeyError:
        return {}
    except ValueError as error:
        raise DamagedError(
            f"The landmarks of {path} make no sense: {error}. Copy the bundle again, or adapt it again."
        ) from error


def as_header(landmarks: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Return landmarks as texts for the header of a file of weights."""
    return {name: b64encode(np.ascontiguousarray(array, "<f4").tobytes()).decode() for name, array in landmarks.items()}


def head_parameters(manifest: Manifest) -> list[str]:
    """Return the names of what trains in the head of a bundle."""
    heads = manifest.plan.outline.head
    return [n for n, stored in manifest.parameters.items() if stored.trainable and stored.component in heads]


def head_is_new(bundle: Bundle) -> bool:
    """Say whether the head of a bundle has learned nothing yet: all that trains in it is zero.

    Raises:
        DamagedError: see :func:`read_trainable`.
    """
    names = head_parameters(bundle.manifest)
    bundle.check_unchanged(TRAINABLE)
    with open_arrays(bundle.path / TRAINABLE) as file:
        new = not any(file.read(name).any() for name in names)
    bundle.check_unchanged(TRAINABLE)
    return new


def all_parameters(bundle: Bundle) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every parameter of the model, float32 as the graphs compute with it, one in memory at a time.

    Low-rank factors are not yielded: their product is part of the matrix that they stand beside.

    Raises:
        DamagedError: the files do not hold what the manifest says, or changed since their hashes were verified, which
            is told after the last parameter.
    """
    with open_arrays(bundle.path / FROZEN) as fixed, open_arrays(bundle.path / TRAINABLE) as changed:
        for name in deployed_shapes(bundle.manifest):
            array = _read(bundle.manifest, name, fixed, changed)
            a, b = low_rank_names(name)
            if b in bundle.manifest.parameters:
                factors = (_read(bundle.manifest, factor, fixed, changed) for factor in (b, a))
                array = array + np.einsum("or,ri->oi", *factors)  # not by BLAS: see logistic.py
            yield name, array
        bundle.check_unchanged(FROZEN, TRAINABLE)


def parameters_of(bundle: Bundle, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield some parameters, float32 as they are stored or computed with, one in memory at a time.

    Raises:
        DamagedError: see :func:`all_parameters`.
    """
    with open_arrays(bundle.path / FROZEN) as fixed, open_arrays(bundle.path / TRAINABLE) as changed:
        for name in names:
            yield name, np.ascontiguousarray(_read(bundle.manifest, name, fixed, changed))
        bundle.check_unchanged(FROZEN, TRAINABLE)


def deployed_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Return the parameters of the deployed model, and their shapes: all but low-rank factors, which are merged."""
    parameters = manifest.parameters
    factors = {factor for name in parameters for factor in low_rank_names(name)}
    return {name: stored.shape for name, stored in parameters.items() if name not in factors}


def _read(manifest: Manifest, name: str, fixed: TensorFile, changed: TensorFile) -> np.ndarray:
    stored = manifest.parameters[name]
    if stored.trainable:
        array = changed.read(name)
    elif stored.weight_bits == 32:
        array = fixed.read(name)
    else:
        array = _dequantized(fixed, name, stored)
    _check_shape(TRAINABLE if stored.trainable else FROZEN, name, array, stored.shape)
    return array


def _check_shape(file: str, name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise DamagedError(
            f"{name} in {file} has shape {array.shape}, and the manifest says {shape}. Export the bundle again."
        )


def _dequantized(file: TensorFile, name: str, stored: StoredParameter) -> np.ndarray:
    """Return a matrix (out, in) as the graphs compute with it; how it is stored is said in ``StoredParameter``."""
    scale = file.read(scale_name(name))
    if stored.compute_bits == 8:
        integers = file.read(matrix_name(name), "I8").T.astype(np.float32)
    elif stored.weight_bits == 8:
        integers = file.read(quantized_name(name), "I8").astype(np.float32)
    else:
        integers = _unpacked(file.read(packed_name(name), "U8"), stored.shape).astype(np.float32)
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
