"""What a Learner is given: pictures, a budget, how long to learn; and whether there is something to learn from."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from edgeplast.arguments import ADAPTER, path_of
from edgeplast.budget import Budget
from edgeplast.bundle import MANIFEST, Bundle
from edgeplast.errors import InputError, UsageError
from edgeplast.given import image_set
from edgeplast.progress import Progress
from edgeplast.units import parse_bytes
from edgeplast_devices.disk import beside_examples, left_for_examples
from edgeplast_devices.examples import Examples
from edgeplast_devices.extent import Extent
from edgeplast_devices.held_out import HeldOut
from edgeplast_devices.images import Augmentation, ImageSet, Picture, require_labels, resized_size
from edgeplast_devices.images.joined import together
from edgeplast_devices.options import TrainingOptions
from edgeplast_devices.replaying import REPLAY, bytes_of, kept_by

_SHOWN = 12


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
        InputError: a label is no class, no text or missing, or something is no picture.
        UsageError: labels were given for a set.
    """
    if isinstance(pictures, ImageSet):
        if labels is not None:
            raise UsageError("The set has labels of its own; leave out labels, or use ImageSet.of(pictures, labels).")
        given = pictures
    else:
        several: Sequence[Picture] = [pictures] if is_one(pictures) else pictures  # type: ignore[list-item, assignment]
        _require_names(labels, classes)
        given = ImageSet.of(several, labels, classes)
    require_labels(given, "learning")
    return given.aligned_to(tuple(classes))


def _require_names(labels: object, classes: Sequence[str]) -> None:
    """Raise where a label is anything but a text: of classes that are called 1 to 5, number 3 is the one called 4."""
    several = isinstance(labels, Sequence | np.ndarray) and not isinstance(labels, str | bytes)
    for label in labels if several else [labels]:  # type: ignore[attr-defined]
        if isinstance(label, str) or (label is None and not several):
            continue
        named = ", ".join(map(repr, classes[:_SHOWN])) + (", …" if len(classes) > _SHOWN else "")
        counts = isinstance(label, numbers.Integral) and not isinstance(label, bool) and 0 <= int(label) < len(classes)
        meant = f" Number {label} of them is {classes[int(label)]!r}." if counts else ""
        raise InputError(
            f"The label {label!r} is of the kind {type(label).__name__}; a label is the name of a class, a text. The "
            f"classes are {named}.{meant} For numbers, give a set: ImageSet.of(pictures, numbers, learner.classes)."
        )


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


def all_examples(images: ImageSet, replayed: ImageSet | None, waiting: Collection[str]) -> ImageSet:
    """Return what there is to learn from.

    Args:
        images: the examples.
        replayed: pictures that the model kept of what it learned before; None for none.
        waiting: classes that wait for their first picture, of which one is enough.

    Raises:
        InputError: there are no examples, or all pictures are of one class that is known already.
    """
    if not len(images):
        raise InputError("There is nothing to learn from yet. Add pictures first: learner.add(picture, label).")
    if replayed is not None:
        images = together(images, replayed, REPLAY)
    present = images.present_classes()
    if len(present) < 2 and not {*present} & {*waiting}:
        raise InputError(
            f"All {len(images)} pictures show {present[0]!r}; from one class alone a model learns to say nothing "
            "else. Add pictures of a second class."
        )
    return images


def places_of(output: Path, start: Bundle, options: TrainingOptions, *, is_tight: bool) -> tuple[Examples, HeldOut]:
    """Return where a Learner keeps what it is shown: examples, and pictures to be calibrated on.

    Args:
        output: the folder that is written.
        start: the bundle that it begins with.
        options: of the training; ``disk``, ``replay`` and ``augment`` count.
        is_tight: whether its memory is limited.

    Raises:
        DiskFullError: ``disk`` is too little for what lies beside them.
        UsageError: one of the folders is a link or a file.
    """
    manifest, room = start.manifest, left_for_examples(start, options)
    nameless = beside_examples(manifest, options, is_tight=is_tight)
    before = kept_by(start.path, manifest.classes) if options.replay != "none" else None
    replayed, taken = (len(before.learned), bytes_of(start.path)) if before else (0, 0)
    augmentation = Augmentation.named(options.augment)
    sizes = (resized_size(manifest.preprocessing), augmentation.needed_size(manifest.preprocessing))
    least = max(height for height, _ in sizes), max(width for _, width in sizes)

    def place(called: str, also: Callable[[int, int], int]) -> Examples:
        return Examples(output.with_name(f"{output.name}.{called}"), manifest.classes, least, room, also)

    def beside(count: int, classes: int) -> int:
        return nameless(count + replayed, classes) + taken

    examples = place("examples", lambda count, classes: beside(count, classes) + held_out.bytes)
    held_out = place("held-out", lambda _, classes: beside(examples.count, classes) + examples.bytes)
    return examples, HeldOut(held_out)


def opened(images: str | Path | ImageSet, split: str | None, progress: Progress) -> ImageSet:
    """Return a labelled set, opened where a path is given: one of its splits, by default ``test``, else ``val``."""
    return image_set(images, progress, split=split, prefer=("test", "val"))
