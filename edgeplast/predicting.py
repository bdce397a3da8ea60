"""The verb ``predict`` as users call it: a deployed model or a bundle, and pictures in; what they show out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeplast.arguments import BUNDLE, path_of
from edgeplast.bundle import Bundle
from edgeplast.given import bundle_of, unlabelled
from edgeplast.progress import LOADING, Progress, silent
from edgeplast.stamps import kind_at

if TYPE_CHECKING:
    from PIL.Image import Image

    from edgeplast.trust.trusting import Trusted
    from edgeplast_devices.images import ImageSet, Unreadable
    from edgeplast_devices.predicting import Prediction


def predict(
    model: Bundle | str | Path,
    images: str | Path | ImageSet | Image | np.ndarray | Sequence[str | Path | Image | np.ndarray],
    *,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = "cpu",
    temperature: bool = True,
    unreadable: Unreadable | None = None,
    trusted: Trusted = None,
    progress: Progress = silent,
) -> list[Prediction]:
    """Classify pictures with a deployed model or a bundle; see :class:`edgeplast_devices.predicting.Classifier`.

    Args:
        model: the ONNX file from ``deploy``, or a bundle or its folder.
        images: a picture, a folder or tar of pictures, several of these, or an opened set. A picture is a file, a PIL
            image, or an array of uint8 (H, W, 3), RGB, or (H, W), grey; several may be one array (N, H, W, 3).
        threads: of the runtime; by default all usable cores.
        runtime: the build of onnxruntime: ``ort-training``, ``stock``, or ``auto`` for the one that is installed.
        provider: the execution provider: ``cpu``, ``cuda``, …; the CPU takes over, with a warning, where it fails.
        temperature: probabilities at the model's temperature, where it has one.
        unreadable: takes note of pictures that cannot be read.
        trusted: public keys of which one must have signed it; see :func:`edgeplast.adapt`.
        progress: told of each picture.

    Raises:
        InputError: the model or a path cannot be used, or not one picture can be read.
        UsageError: there are no pictures, or an argument is of another kind.
    """
    how: dict[str, Any] = {"threads": threads, "runtime": runtime, "provider": provider, "temperature": temperature}
    return list(predictions(model, images, **how, trusted=trusted, unreadable=unreadable, progress=progress))


def predictions(
    model: Bundle | str | Path,
    images: str | Path | ImageSet | Image | np.ndarray | Sequence[str | Path | Image | np.ndarray],
    *,
    threads: int | None = None,
    runtime: str = "auto",
    provider: str = "cpu",
    temperature: bool = True,
    unreadable: Unreadable | None = None,
    trusted: Trusted = None,
    progress: Progress = silent,
) -> Iterator[Prediction]:
    """Classify pictures one after the other and keep no result: for more pictures than a list should hold.

    Arguments and errors as in :func:`predict`; what can be told before the first picture is told at once.
    """
    from edgeplast_devices.images import ImageSet
    from edgeplast_devices.predicting import Classifier

    allowed = f"the path of an ONNX file from edgeplast deploy, or {BUNDLE}"
    if not isinstance(model, Bundle):
        model = path_of(model, "model", allowed)
    if isinstance(model, Bundle) or kind_at(model) == "folder":
        model = bundle_of(model, trusted, progress)
    if not isinstance(images, ImageSet):
        images = unlabelled(images, progress)
    progress(LOADING, 0, 1)
    classifier = Classifier(model, threads=threads, runtime=runtime, provider=provider, trusted=trusted)
    return classifier.predict(images, temperature=temperature, unreadable=unreadable, progress=progress)
