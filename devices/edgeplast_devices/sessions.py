"""Where a run gets its sessions over a bundle's graphs from: onnxruntime, or whatever a caller hands in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgeplast.bundle import Bundle
from edgeplast.placement import ON_CPU, Placement
from edgeplast.prefixes import PREFIX_GRAPH, Prefix
from edgeplast_devices.latents import PrefixSession
from edgeplast_devices.rungs import MANNERS, Manner
from edgeplast_devices.runtime import EvaluationSession, TrainingSession


class Trains(Protocol):
    """Adds the gradients of micro-batches onto their accumulators; see :class:`~.runtime.TrainingSession`."""

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Take images float32 (b, 3, H, W) and targets float32 (b, classes); return loss and logits."""

    def stop(self, reason: str) -> None:
        """End the run in progress, from another thread, for this reason."""


class Evaluates(Protocol):
    """Computes logits with the current parameters; see :class:`~.runtime.EvaluationSession`.

    What it takes are pictures, or latents where its graph goes on from a prefix.
    """

    @property
    def feature_width(self) -> int:
        """Columns of the features; 0 where the graph hands none back."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, classes) of images float32 (b, 3, H, W)."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return what the head multiplies, float32 (b, width), of the same."""


class MakesLatents(Protocol):
    """Computes what no training changes; see :class:`~.latents.PrefixSession`."""

    def latents(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, n, …) of images float32 (b, C, H, W)."""


class OverPictures:
    """A model in two parts as one that takes pictures.

    Args:
        prefix: makes latents of them.
        rest: goes on from those.
    """

    def __init__(self, prefix: MakesLatents, rest: Evaluates) -> None:
        self._prefix, self._rest = prefix, rest

    @property
    def feature_width(self) -> int:
        """Columns of the features; 0 where the graph hands none back."""
        return self._rest.feature_width

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, classes) of images float32 (b, C, H, W)."""
        return self._rest.logits(self._prefix.latents(images))

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return what the head multiplies, float32 (b, width), of the same."""
        return self._rest.features(self._prefix.latents(images))


class InTurns:
    """Evaluation in a session that is open while it is used: another one takes its turn in between.

    Args:
        opened: opens it, and closes the other one.
    """

    def __init__(self, opened: Callable[[], Evaluates]) -> None:
        self._opened = opened
        self._session: Evaluates | None = None
        self._feature_width: int | None = None

    def rest(self) -> None:
        """Let go of the session, until it is asked for something again."""
        self._session = None

    @property
    def feature_width(self) -> int:
        """Columns of the features; 0 where the graph hands none back."""
        if self._feature_width is None:
            self._feature_width = self._open().feature_width
        return self._feature_width

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, classes) of images float32 (b, C, H, W)."""
        return self._open().logits(images)

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return what the head multiplies, float32 (b, width), of the same."""
        return self._open().features(images)

    def _open(self) -> Evaluates:
        if self._session is None:
            self._session = self._opened()
        return self._session


class TrainsOverPictures:
    """Training as each picture is seen for the first time: through the prefix, whose time is the step's too.

    Args:
        prefix: makes latents of pictures.
        rest: goes on from those.
    """

    def __init__(self, prefix: MakesLatents, rest: Trains) -> None:
        self._prefix, self._rest = prefix, rest

    def accumulate(self, images: np.ndarray, targets: np.ndarray) -> tuple[float, np.ndarray]:
        """Take images float32 (b, C, H, W) and targets float32 (b, classes); return loss and logits."""
        return self._rest.accumulate(self._prefix.latents(images), targets)

    def stop(self, reason: str) -> None:
        """End the training run in progress, from another thread, for this reason."""
        self._rest.stop(reason)


@dataclass(frozen=True)
class Sessions:
    """Opens sessions.

    Attributes:
        training: from a training graph, parameters and accumulators by name, threads and placement.
        evaluation: from an evaluation graph, parameters by name, threads and placement.
        prefix: from a prefix graph, what the manifest says of it, threads and placement.
        manners: in which the process may keep house with them, best first.
    """

    training: Callable[[Path, Mapping[str, np.ndarray], Mapping[str, np.ndarray], int, Placement], Trains] = (
        TrainingSession
    )
    evaluation: Callable[[Path, Mapping[str, np.ndarray], int, Placement], Evaluates] = EvaluationSession
    prefix: Callable[[Path, Prefix, int, Placement], MakesLatents] = PrefixSession
    manners: tuple[Manner, ...] = MANNERS


ONNXRUNTIME = Sessions()


def trains_on_pictures(
    bundle: Bundle,
    graph: str,
    parameters: Mapping[str, np.ndarray],
    gradients: Mapping[str, np.ndarray],
    threads: int,
    placement: Placement = ON_CPU,
) -> Trains:
    """Open a training graph of a bundle as one that takes pictures, in whatever parts it comes.

    Args:
        bundle: whose graphs.
        graph: its file name.
        parameters: see :class:`~.runtime.TrainingSession`, and so the others.
        gradients: accumulators by parameter name.
        threads: of the runtime.
        placement: where the graphs run.
    """
    session, prefix = (
        TrainingSession(bundle.path / graph, parameters, gradients, threads, placement),
        bundle.manifest.prefix,
    )
    if prefix is None:
        return session
    return TrainsOverPictures(PrefixSession(bundle.path / PREFIX_GRAPH, prefix, threads, placement), session)
