"""How far weights may move from those that a run began with: measured against the bundle's file, pulled back beyond.

Without labels nothing tells a step that mends from one that ruins, but all that ruined here went far: what is learned
stays within a ball around the weights as they came, onto which each step that leaves it is projected. The weights as
they came are read from their file, a piece at a time: they take no memory beside those that train.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping

import numpy as np

from edgeplast.bundle import TRAINABLE, Bundle
from edgeplast_devices.tensors import open_arrays

_PIECE = 1 << 16
"""Floats worked on at a time."""


class Tether:
    """Holds weights near those of a bundle.

    Args:
        bundle: whose weights the run began with.
        length: distance that is allowed, in L2 over all weights, as a share of the L2 norm of those of ``trained``.
        trained: the parameters that the run is to train: those of the tier that it began on, and where scores choose
            among sets those of all of them. A bundle holds more where alternatives lie beside its plan; by their norm
            too the same plan would have a longer tether there. What trains beside these, as where lack of memory leads
            from an alternative into the plan, is held within the same distance.
    """

    def __init__(self, bundle: Bundle, length: float, trained: Collection[str]) -> None:
        self._file, self.length, self._trained = bundle.path / TRAINABLE, length, frozenset(trained)

    def moved(self, parameters: Mapping[str, np.ndarray]) -> float:
        """Return how far weights lie from those of the bundle, as a share of the norm of those that were to train.

        Args:
            parameters: float32, by name.

        Raises:
            DamagedError: the file does not hold them.
        """
        away = norm = 0.0
        for name, now, before in self._pairs(parameters):
            difference = now - before
            away += float(np.dot(difference, difference))
            norm += float(np.dot(before, before)) if name in self._trained else 0.0
        return math.sqrt(away / norm) if norm else 0.0

    def hold(self, parameters: Mapping[str, np.ndarray]) -> None:
        """Pull weights back to where the tether ends, along the line to where they began, if they are beyond it."""
        moved = self.moved(parameters)
        if not moved > self.length:
            return
        share = np.float32(self.length / moved)
        for _, now, before in self._pairs(parameters):
            now -= before
            now *= share
            now += before

    def _pairs(self, parameters: Mapping[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        with open_arrays(self._file) as file:
            for name, array in parameters.items():
                now, start = array.reshape(-1), 0
                for before in file.pieces(name, _PIECE):
                    yield name, now[start : start + before.size], before
                    start += before.size
