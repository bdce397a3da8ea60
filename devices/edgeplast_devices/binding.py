"""Numpy arrays bound to a session by their address, so that nothing is copied between numpy and the processor."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from edgeplast.contract import IMAGES, LATENTS
from edgeplast.placement import Placement
from edgeplast_devices.providers import CPU


class StandingInputs:
    """Inputs that stay bound from run to run, while their owners change the arrays in place.

    The CPU reads the arrays themselves. A provider with memory of its own gets a copy, made when the input is bound
    and not when the graph runs (``IOBinding::BindInput`` in onnxruntime): there, inputs are bound anew for each run,
    or every step would see the first weights.
    """

    def __init__(self, binding: Any, arrays: Mapping[str, np.ndarray], placement: Placement) -> None:
        self._binding, self._arrays = binding, arrays
        self._copied = placement.used != CPU
        self._bind()

    def refresh(self) -> None:
        """Let the next run see the arrays as they are now."""
        if self._copied:
            self._bind()

    def _bind(self) -> None:
        for name, array in self._arrays.items():
            bind_input(self._binding, name, array)


def bind_input(binding: Any, name: str, array: np.ndarray) -> None:
    """Let a session read an array, which the caller keeps alive; float32, C-contiguous."""
    _check(name, array)
    binding.bind_input(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def bind_output(binding: Any, name: str, array: np.ndarray) -> None:
    """Let a session write an array, which the caller keeps alive; float32, C-contiguous."""
    _check(name, array)
    binding.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def data_input(names: Iterable[str]) -> str:
    """Return under which of its inputs a graph takes pictures: as they are, or as latents."""
    return LATENTS if LATENTS in names else IMAGES


def bind_data(binding: Any, name: str, array: np.ndarray) -> None:
    """Let a session read pictures (b, C, H, W), or latents (b, n, …), which graphs see joined: (b·n, …)."""
    bind_input(binding, name, array.reshape(-1, *array.shape[2:]) if name == LATENTS else array)


def _check(name: str, array: np.ndarray) -> None:
    """The runtime gets bare pointers: a wrong dtype or stride would be read as garbage."""
    if array.dtype != np.float32 or not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous float32; it is {array.dtype} with strides {array.strides}")
