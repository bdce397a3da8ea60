"""The verb ``evaluate``: a Bundle or a deployed model and labelled images in, an Evaluation out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec
import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, Bundle
from edgeplast.evaluation import Evaluation
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import LOADING, Progress, silent
from edgeplast_devices.images import ImageSet, Unreadable, batches, require_labels
from edgeplast_devices.latents import Source, halved
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.metrics import Metrics
from edgeplast_devices.placing import place
from edgeplast_devices.predicting import Classifier, session_over
from edgeplast_devices.providers import CPU
from edgeplast_devices.runtime import OutOfMemoryError, runtime_name

if TYPE_CHECKING:
    from edgeplast.trust.trusting import Trusted

Each = Callable[[np.ndarray, np.ndarray, np.ndarray], None]
"""Told of each micro-batch: which pictures (b,), their logits float32 (b, classes), their labels int64 (b,)."""


def evaluate(
    bundle: Bundle,
    images: ImageSet,
    *,
    micro_batch: int = 4,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = CPU,
    temperature: bool = True,
    unreadable: Unreadable | None = None,
    progress: Progress = silent,
    each: Each | None = None,
) -> Evaluation:
    """Measure accuracy, loss and calibration of a bundle as it is.

    Args:
        bundle: fresh or adapted.
        images: labelled; their class names must be among the bundle's.
        micro_batch: images that pass through the graph at once.
        threads: of the runtime; by default all cores this process may use.
        runtime: the build of onnxruntime; see ``placing.place``.
        provider: the execution provider.
        temperature: divide logits by the bundle's temperature, where it has one.
        unreadable: takes note of images that cannot be read.
        progress: told of each micro-batch.
        each: told what the model says of each picture.

    Raises:
        InputError: labels the bundle does not know, or no image that can be read.
        DamagedError: files of the bundle changed since they were verified.
        MissingExtraError: the runtime is not installed.
        UsageError: there is no such runtime or provider.
    """
    manifest = bundle.manifest
    known = labelled(images, manifest.classes)
    progress(LOADING, 0, 2)
    placement = place(runtime, provider, trial=bundle.path / EVALUATION_GRAPH)
    progress(LOADING, 1, 2)
    session = session_over(bundle, threads or usable_threads(), placement)
    unreadable = unreadable or Unreadable()
    result = measure(
        session, known, manifest.preprocessing, manifest.classes, micro_batch, unreadable, progress,
        temperature=manifest.temperature if temperature else None, each=each,
    )  # fmt: skip
    bundle.check_unchanged()  # weights are mapped: what is written to them later is seen
    return msgspec.structs.replace(result, unreadable=unreadable.count, runtime=runtime_name(), provider=placement)


def evaluate_deployed(
    model: Path,
    images: ImageSet,
    *,
    micro_batch: int = 4,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = CPU,
    temperature: bool = True,
    unreadable: Unreadable | None = None,
    progress: Progress = silent,
    trusted: Trusted = None,
) -> Evaluation:
    """Measure a deployed ONNX file as ``predict`` runs it; arguments as in :func:`evaluate`.

    The logits of a deployed file are divided by its temperature already; they are multiplied by it to tell what they
    would be without. Where public keys are given (``trusted``), one of them must have signed the file.

    Raises:
        InputError: the file is no deployed model, or see :func:`evaluate`.
    """
    progress(LOADING, 0, 1)
    opened = Classifier(model, threads=threads, runtime=runtime, provider=provider, trusted=trusted)
    known = labelled(images, opened.classes)
    unreadable = unreadable or Unreadable()
    result = measure(
        opened, known, opened.preprocessing, opened.classes, micro_batch, unreadable, progress,
        temperature=opened.temperature if temperature else None,
    )  # fmt: skip
    return msgspec.structs.replace(
        result, unreadable=unreadable.count, runtime=runtime_name(), provider=opened.placement
    )


def labelled(images: ImageSet, classes: tuple[str, ...]) -> ImageSet:
    """Return images to measure on, whose labels index ``classes``.

    Raises:
        InputError: some have no label, or one that is no class.
    """
    require_labels(images, "evaluating")
    return images.aligned_to(classes)


def measure(
    session: Classifies,
    images: ImageSet,
    how: Preprocessing,
    classes: tuple[str, ...],
    micro_batch: int,
    unreadable: Unreadable,
    progress: Progress = silent,
    activity: str = "evaluating",
    *,
    temperature: float | None = None,
    each: Each | None = None,
    source: Source = batches,
) -> Evaluation:
    """Run a session over images whose labels index ``classes``.

    Raises:
        InputError: not one of the images can be read.
        BudgetError: memory does not suffice for one image.
    """
    metrics = Metrics(classes, temperature)
    over = images, how, micro_batch, unreadable, progress, activity
    for logits, labels, indices in outputs(session.logits, *over, source=source):
        metrics.add(logits, labels, indices)
        if each is not None:
            each(indices, logits, labels)
    return metrics.result(images.name)


class Classifies(Protocol):
    """Computes logits."""

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return float32 (b, classes), not yet divided by a temperature, of images or latents."""


def outputs(
    work: Callable[[np.ndarray], np.ndarray],
    images: ImageSet,
    how: Preprocessing,
    micro_batch: int,
    unreadable: Unreadable,
    progress: Progress = silent,
    activity: str = "evaluating",
    *,
    order: np.ndarray | None = None,
    source: Source = batches,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield what becomes of images, some at a time and fewer where memory is short, their labels and their indices.

    Args:
        work: turns images float32 (b, C, H, W), or what another source yields, into rows (b, …).
        images: what to go through.
        how: a picture becomes the model's input.
        micro_batch: most images at once.
        unreadable: takes note of those that cannot be read; they are left out.
        progress: told of each micro-batch.
        activity: what it is told.
        order: which images, rising; all by default.
        source: turns pictures into what ``work`` takes.

    Raises:
        InputError: not one of the images can be read.
        BudgetError: memory does not suffice for one image.
    """
    order = np.arange(len(images)) if order is None else order
    done = 0
    progress(activity, done, len(order))  # the first micro-batch takes longest
    while done < len(order):
        try:
            for batch in source(images, how, micro_batch, order=order[done:], unreadable=unreadable):
                found = halved(work, batch.images), batch.labels, batch.indices
                done = int(np.searchsorted(order, batch.indices[-1])) + 1
                del batch
                yield found
                progress(activity, done, len(order))
            done = len(order)
        except MemoryError as error:  # numpy's or Pillow's: go on with half as many pictures at once
            if micro_batch == 1:
                raise OutOfMemoryError(str(error)) from error
            micro_batch //= 2
    progress(activity, len(order), len(order))
