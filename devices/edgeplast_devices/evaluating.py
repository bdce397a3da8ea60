"""The verb ``evaluate``: a Bundle or a deployed model and labelled images in, an Evaluation out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgeplast.bundle import EVALUATION_GRAPH, FROZEN, Bundle
from edgeplast.evaluation import Evaluation
from edgeplast.preprocessing import Preprocessing
from edgeplast.progress import Progress, silent
from edgeplast_devices.images import ImageSet, Unreadable, batches
from edgeplast_devices.memory import usable_threads
from edgeplast_devices.metrics import Metrics
from edgeplast_devices.placing import place
from edgeplast_devices.predicting import Classifier
from edgeplast_devices.providers import CPU
from edgeplast_devices.runtime import EvaluationSession, OutOfMemoryError, runtime_name
from edgeplast_devices.sessions import Evaluates
from edgeplast_devices.weights import read_trainable

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
        unreadable: takes note of images that cannot be read.
        progress: told of each micro-batch.
        each: told what the model says of each picture.

    Raises:
        InputError: labels the bundle does not know, or no image that can be read.
        DamagedError: files of the bundle changed since they were verified.
        MissingExtraError: the runtime is not installed.
        UsageError: there is no such runtime or provider.
    """
    bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
    placement = place(runtime, provider, trial=bundle.path / EVALUATION_GRAPH)
    manifest = bundle.manifest
    known = images.aligned_to(manifest.classes)
    parameters: Mapping[str, np.ndarray] = read_trainable(bundle)
    session = EvaluationSession(bundle.path / EVALUATION_GRAPH, parameters, threads or usable_threads(), placement)
    bundle.check_unchanged(EVALUATION_GRAPH, FROZEN)
    unreadable = unreadable or Unreadable()
    how, classes = manifest.preprocessing, manifest.classes
    result = measure(session, known, how, classes, micro_batch, unreadable, progress, each=each)
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
    unreadable: Unreadable | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Measure a deployed ONNX file as ``predict`` runs it; arguments as in :func:`evaluate`.

    Raises:
        InputError: the file is no deployed model, or see :func:`evaluate`.
    """
    opened = Classifier(model, threads=threads, runtime=runtime, provider=provider)
    known = images.aligned_to(opened.classes)
    unreadable = unreadable or Unreadable()
    result = measure(opened.session, known, opened.preprocessing, opened.classes, micro_batch, unreadable, progress)
    return msgspec.structs.replace(
        result, unreadable=unreadable.count, runtime=runtime_name(), provider=opened.placement
    )


def measure(
    session: Evaluates,
    images: ImageSet,
    how: Preprocessing,
    classes: tuple[str, ...],
    micro_batch: int,
    unreadable: Unreadable,
    progress: Progress = silent,
    activity: str = "evaluating",
    each: Each | None = None,
) -> Evaluation:
    """Run a session over images whose labels index ``classes``.

    Raises:
        InputError: not one of the images can be read.
        BudgetError: memory does not suffice for one image.
    """
    metrics, done = Metrics(classes), 0
    while done < len(images):
        try:
            for batch in batches(images, how, micro_batch, order=np.arange(done, len(images)), unreadable=unreadable):
                logits = _logits(session, batch.images)
                metrics.add(logits, batch.labels)
                if each is not None:
                    each(batch.indices, logits, batch.labels)
                done = int(batch.indices[-1]) + 1
                progress(activity, done, len(images))
                del batch, logits
            done = len(images)
        except MemoryError as error:  # numpy's or Pillow's: go on with half as many pictures at once
            if micro_batch == 1:
                raise OutOfMemoryError(str(error)) from error
            micro_batch //= 2
    progress(activity, len(images), len(images))
    return metrics.result()


def _logits(session: Evaluates, images: np.ndarray) -> np.ndarray:
    """Return the logits; when memory runs out, of one half of the images after the other."""
    try:
        return session.logits(images)
    except OutOfMemoryError:
        if len(images) == 1:
            raise
    half = len(images) // 2
    return np.concatenate([_logits(session, images[:half]), _logits(session, images[half:])])
