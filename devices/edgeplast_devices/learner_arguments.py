"""What a Learner is given: pictures, a budget, how long to learn; and whether there is something to learn from."""

from __future__ import annotations

import numbers
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from edgeplast.arguments import ADAPTER, path_of
from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST
from edgeplast.errors import InputError, UsageError
from edgeplast.units import parse_bytes
from edgeplast_devices.extent import Extent
from edgeplast_devices.images import ImageSet, Picture, require_labels
from edgeplast_devices.options import TrainingOptions


def adapter_of(given: str | Path | None, output: Path) -> Path | None:
    """Return the adapter that a Learner begins with; None without one, and where something was learned already.

    Args:
        given: its file or folder.
        output: the folder that is written.

    Raises:
        UsageError: it is no path.
    """
    if given is None:
        return None
    path = path_of(given, "adapter", ADAPTER)
    return None if (output / MANIFEST).is_file() else path


def is_one(given: object) -> bool:
    """Say whether it is one picture, and no sequence of several."""
    return isinstance(given, str | Path | Image.Image) or (isinstance(given, np.ndarray) and given.ndim != 4)


def to_learn_from(
    pictures: Picture | Sequence[Picture] | ImageSet, labels: str | Sequence[str] | None, classes: Sequence[str]
) -> ImageSet:
    """Return pictures with labels as a set whose labels index ``classes``; arguments as of ``Learner.add``.

    Raises:
        InputError: a label is no class or missing, or something is no picture.
        UsageError: labels were given for a set.
    """
    if isinstance(pictures, ImageSet):
        if labels is not None:
            raise UsageError("The set has labels of its own; leave out labels, or use ImageSet.of(pictures, labels).")
        given = pictures
    else:
        several: Sequence[Picture] = [pictures] if is_one(pictures) else pictures  # type: ignore[list-item, assignment]
        given = ImageSet.of(several, labels, classes)
    require_labels(given, "learning")
    return given.aligned_to(tuple(classes))


def budget_of(memory: str | int | None) -> Budget | None:
    """Return the budget that a text such as ``256MiB``, ``none``, or a number of bytes means; None for the bundle's."""
    if memory is None:
        return None
    return Budget() if memory == "none" else Budget(memory_bytes=parse_bytes(memory))


def extent_of(
    options: TrainingOptions, epochs: int | None, steps: int | None, seconds: float | None, step_seconds: float
) -> tuple[Extent, TrainingOptions]:
    """Return how long to learn, and the options with it.

    Raises:
        UsageError: several of epochs, steps and seconds were given, or one is out of range.
    """
    if sum(given is not None for given in (epochs, steps, seconds)) > 1:
        raise UsageError("Give one of epochs, steps and seconds, or none of them.")
    for name, given in (("epochs", epochs), ("steps", steps)):
        if given is not None and (isinstance(given, bool) or not isinstance(given, numbers.Integral)):
            raise UsageError(f"{name} is {given!r}; give a whole number, 1 or more.")
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, numbers.Real)):
        raise UsageError(f"seconds is {seconds!r}; give a number above 0.")
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs is {epochs}; give 1 or more.")
    options = options if epochs is None else msgspec.structs.replace(options, epochs=epochs)
    return Extent(steps=steps, seconds=seconds, step_seconds=step_seconds), options


def require_examples(images: ImageSet, waiting: Collection[str]) -> None:
    """Raise unless there is something to learn from.

    Args:
        images: the examples.
        waiting: classes that wait for their first picture, of which one is enough.

    Raises:
        InputError: there are none, or all are of one class that is known already.
    """
    present = images.present_classes()
    if not present:
        raise InputError("There is nothing to learn from yet. Add pictures first: learner.add(picture, label).")
    if len(present) < 2 and not {*present} & {*waiting}:
        raise InputError(
            f"All {len(images)} pictures show {present[0]!r}; from one class alone a model learns to say nothing "
            "else. Add pictures of a second class."
        )
