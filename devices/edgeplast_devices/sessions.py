"""Where a run gets its sessions over a bundle's graphs from: onnxruntime, or whatever a caller hands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeplast.placement import Placement
from edgeplast_devices.runtime import EvaluationSession, TrainingSession


class Trains(Protocol):
    """Adds the gradients of micro-batches onto their accumulators; see :class:`~.runtime.TrainingSession`."""

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Take images float32 (b, 3, H, W) and targets float32 (b, classes); return loss and logits."""

    def stop(self, reason: str) -> None:
        """End the run in progress, from another thread, for this reason."""


class Evaluates(Protocol):
    """Computes logits with the current parameters; see :class:`~.runtime.EvaluationSession`."""

    @property
    def feature_width(self) -> int:
        """Columns of the features; 0 where the graph hands none back."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, classes) of images float32 (b, 3, H, W)."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return what the head multiplies, float32 (b, width), of the same."""


@dataclass(frozen=True)
class Sessions:
    """Opens sessions.

    Attributes:
        training: from a training graph, parameters and accumulators by name, threads and placement.
        evaluation: from an evaluation graph, parameters by name, threads and placement.
    """

    training: Callable[[Path, Mapping[str, np.ndarray], Mapping[str, np.ndarray], int, Placement], Trains] = (
        TrainingSession
    )
    evaluation: Callable[[Path, Mapping[str, np.ndarray], int, Placement], Evaluates] = EvaluationSession


ONNXRUNTIME = Sessions()
