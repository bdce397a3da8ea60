"""A head fitted at once: logistic regression on one pass of features, the start of a run or all of it.

Features are those that the evaluation graph hands back beside its logits, without augmentation. They are kept in memory
where the budget leaves room, else in a file of the run's folder that has no name and goes with the process.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from edgeplast.bundle import Manifest
from edgeplast.errors import BudgetError, InputError, UsageError
from edgeplast.files import disk_errors
from edgeplast.footprint import PICTURE_BYTES
from edgeplast.progress import Progress
from edgeplast.units import format_bytes
from edgeplast_devices.evaluating import outputs
from edgeplast_devices.images import ImageSet, Unreadable
from edgeplast_devices.latents import Source
from edgeplast_devices.logistic import STATE_ARRAYS, fit_logistic
from edgeplast_devices.losses import CrossEntropy
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.rungs import Shares
from edgeplast_devices.runtime import release_arena
from edgeplast_devices.sessions import Evaluates
from edgeplast_devices.weights import head_parameters

_PIECE = 1 << 16
"""Floats of features and scores worked on at a time: half a MiB in float64."""


@dataclass(frozen=True)
class LinearHead:
    """A head whose logits are one linear layer of features: names of its parameters, and their shape."""

    weight: str
    bias: str | None
    classes: int
    width: int

    def row_bytes(self, pictures: int) -> int:
        """Return what features and labels of so many pictures take."""
        return pictures * (4 * self.width + 8)

    @property
    def fit_bytes(self) -> int:
        """What fitting takes beside the rows."""
        return 8 * (STATE_ARRAYS * self.classes * (self.width + 1) + 8 * _PIECE)


def linear_head(manifest: Manifest) -> LinearHead:
    """Return the head of a bundle.

    Raises:
        UsageError: it is more than one linear layer.
    """
    head = head_if_linear(manifest)
    if head is None:
        raise no_features(manifest)
    return head


def head_if_linear(manifest: Manifest) -> LinearHead | None:
    """Return the head of a bundle; None: it is more than one linear layer."""
    classes = len(manifest.classes)
    shapes = {name: manifest.parameters[name].shape for name in head_parameters(manifest)}
    weights = [name for name, shape in shapes.items() if len(shape) == 2 and shape[0] == classes]
    biases = [name for name, shape in shapes.items() if shape == (classes,)]
    if len(weights) != 1 or len(biases) > 1 or len(shapes) != len(weights) + len(biases):
        return None
    return LinearHead(weights[0], biases[0] if biases else None, classes, shapes[weights[0]][1])


def no_features(manifest: Manifest) -> UsageError:
    """Return what to say where the evaluation graph of a bundle hands back no features."""
    return UsageError(
        f"--head fitted needs logits that are one linear layer of features. {manifest.model} has another head, or its "
        "bundle was exported before bundles handed features back. Start from zero (--head zero), or export it again."
    )


class Rows:
    """Features of pictures and their labels.

    Args:
        width: of the features.
        file: to keep the features in; None keeps them in memory.
    """

    def __init__(self, width: int, file: IO[bytes] | None = None) -> None:
        self._width, self._file = width, file
        self._held: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._squares = 0.0

    def add(self, features: np.ndarray, labels: np.ndarray) -> None:
        """Keep float32 (b, width) and int64 (b,)."""
        self._labels.append(labels)
        self._squares += float(np.square(features, dtype=np.float64).sum())
        if self._file is None:
            self._held.append(features)
        else:
            self._file.write(features.data)

    @property
    def labels(self) -> np.ndarray:
        """Of all rows, int64."""
        return np.concatenate(self._labels) if self._labels else np.zeros(0, np.int64)

    @property
    def scale(self) -> float:
        """Root mean square of all features; 1 where all are zero."""
        count = sum(map(len, self._labels)) * self._width
        return (self._squares / count) ** 0.5 if self._squares else 1.0

    def pieces(self, size: int) -> Iterator[np.ndarray]:
        """Go through the features, so many rows at a time, float32."""
        if self._file is None:
            self._held = [np.concatenate(self._held)] if len(self._held) > 1 else self._held
            for block in self._held:
                yield from (block[i : i + size] for i in range(0, len(block), size))
            return
        self._file.seek(0)
        while data := self._file.read(4 * size * self._width):
            yield np.frombuffer(data, np.float32).reshape(-1, self._width)


def with_room(shares: Shares, row_bytes: int) -> tuple[Shares, bool]:
    """Take what features need from the share of larger pictures; tell whether there was enough to keep them in memory.

    Args:
        shares: of the budget.
        row_bytes: of features and labels.
    """
    if shares.picture_bytes is None:
        return shares, True
    if shares.picture_bytes - row_bytes < PICTURE_BYTES:
        return shares, False
    return replace(shares, picture_bytes=shares.picture_bytes - row_bytes), True


def fit_on_images(
    manifest: Manifest,
    session: Evaluates,
    parameters: dict[str, np.ndarray],
    images: ImageSet,
    options: TrainingOptions,
    *,
    micro_batch: int,
    in_memory: bool,
    unreadable: Unreadable,
    progress: Progress,
    between: Callable[[], None],
    folder: Path,
    source: Source,
) -> float:
    """Go through the training images once and fit the head on their features.

    Args:
        manifest: of the bundle.
        session: over its evaluation graph.
        parameters: by name; the head's are changed in place, once it is fitted.
        images: to fit it on.
        options: of the run: class weights and label smoothing.
        micro_batch: images that pass through the graph at once.
        in_memory: whether the budget has room for their features.
        unreadable: takes note of images that cannot be read.
        progress: told of each micro-batch.
        between: called again and again while it fits; an exception leaves the parameters as they were.
        folder: of the run, for features that memory has no room for.
        source: turns pictures into what the session takes.

    Returns:
        the mean loss on them.

    Raises:
        InputError: not one image can be read.
        BudgetError: memory does not suffice.
    """
    head = linear_head(manifest)
    with disk_errors(folder), contextlib.ExitStack() as files:
        rows = Rows(head.width, None if in_memory else files.enter_context(tempfile.TemporaryFile(dir=folder)))
        over = images, manifest.preprocessing, micro_batch, unreadable, progress, "fitting the head"
        for features, labels, _ in outputs(session.features, *over, source=source):
            rows.add(features, labels)
        release_arena()
        return fit_head(
            rows,
            head,
            parameters,
            loss=CrossEntropy.over(
                images.labels,
                head.classes,
                class_weighting=options.class_weights,
                smoothing=options.label_smoothing,
            ),
            between=between,
        )


def fit_head(
    rows: Rows,
    head: LinearHead,
    parameters: dict[str, np.ndarray],
    *,
    loss: CrossEntropy,
    between: Callable[[], None] = lambda: None,
    tolerance: float = 1e-6,
) -> float:
    """Put the head's parameters where the loss on the rows, with a penalty, is smallest.

    It is training's, class weights and label smoothing included, plus ‖W‖²/(2n) on features scaled to a mean
    square of 1 (C = 1, as is usual).

    Args:
        rows: features and labels of the training pictures.
        head: whose parameters.
        parameters: by name, float32; the head's are changed in place.
        loss: training's.
        between: called again and again; an exception leaves the parameters as they were.
        tolerance: the norm of the gradient that is small enough, relative to that of a head of zeros.

    Returns:
        the loss there.

    Raises:
        InputError: there is no row.
        BudgetError: memory does not suffice.
    """
    labels, scale = rows.labels, rows.scale
    if not len(labels):
        raise InputError("Not one training picture could be read, and a head cannot be fitted on none.")
    total = loss.mass(labels)
    size = max(_PIECE // (head.width + 4 * head.classes), 1)

    def pieces() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        done = 0
        for features in rows.pieces(size):
            between()
            own = labels[done : done + len(features)]
            done += len(features)
            yield features.astype(np.float64) / scale, loss.targets(own, total).astype(np.float64)

    try:
        fit = fit_logistic(
            pieces,
            head.classes,
            head.width,
            decay=1 / len(labels),
            bias=head.bias is not None,
            tolerance=tolerance,
        )
    except MemoryError as error:
        raise BudgetError(
            f"Memory ran out while the head was fitted: its {head.classes} classes times {head.width} features take "
            f"{format_bytes(head.fit_bytes)}. Allow more memory, or start from zero: --head zero."
        ) from error
    parameters[head.weight][...] = fit.weight / scale
    if head.bias is not None:
        parameters[head.bias][...] = fit.bias
    return fit.loss
