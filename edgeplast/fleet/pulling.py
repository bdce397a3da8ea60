"""FedProx on the device: gradients of (µ/2)·‖w − w₀‖², which pulls what is learned back to what the fleet agreed on.

Li et al., "Federated Optimization in Heterogeneous Networks" (arXiv 1812.06127). A micro-batch holds a share of the
batch, as the sum of its targets says, and adds that share of the pull. w₀ is read from its file each time: it costs no
memory beside what is trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgeplast.placement import Placement
from edgeplast_devices.sessions import ONNXRUNTIME, Sessions, Trains
from edgeplast_devices.tensors import open_arrays


def pulled_back(to: Path, strength: float, sessions: Sessions = ONNXRUNTIME) -> Sessions:
    """Return sessions like these, with a pull towards weights in a file; the loss that they return is without it.

    Args:
        to: safetensors file of the weights w₀.
        strength: µ; 0 returns the sessions as they are.
        sessions: over the bundle's graphs.
    """
    if not strength:
        return sessions

    def training(
        graph: Path,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        threads: int,
        placement: Placement,
    ) -> Trains:
        real = sessions.training(graph, parameters, gradients, threads, placement)
        return _Pulled(real, parameters, gradients, to, strength)

    return replace(sessions, training=training)


class _Pulled:
    def __init__(
        self,
        session: Trains,
        parameters: Mapping[str, np.ndarray],
        gradients: Mapping[str, np.ndarray],
        to: Path,
        strength: float,
    ) -> None:
        self._session, self._parameters, self._gradients = session, parameters, gradients
        self._to, self._strength = to, strength

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        found = self._session.accumulate(images, targets)
        pull = np.float32(self._strength * float(targets.sum()))
        with open_arrays(self._to) as file:
            for name, gradient in self._gradients.items():
                away = self._parameters[name] - file.read(name)
                away *= pull
                gradient += away
        return found

    def stop(self, reason: str) -> None:
        self._session.stop(reason)
