"""What was understood of a data set, in words, before anything is learned from it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeplast.printable import printable
from edgeplast_devices.images.imageset import ImageSet
from edgeplast_devices.images.opening import Splits

_MOST_CLASSES = 12


def understood(images: Splits | ImageSet) -> list[str]:
    """Return what a data set was taken for, and what was left out of it, a line each.

    Args:
        images: as opened.

    Returns:
        for example ``["3 classes: no (98), yes (155), unknown (70); 253 train, 70 val", "left out of 'no': …"]``.
    """
    if isinstance(images, ImageSet):
        parts = {"": images}
    else:
        named = (("train", images.train), ("val", images.val), ("test", images.test))
        parts = {name: part for name, part in named if part is not None}
    classes: tuple[str, ...] = max((part.classes for part in parts.values()), key=len)
    counts = np.zeros(len(classes), dtype=np.int64)
    for part in parts.values():
        labels = part.labels[part.labels >= 0]
        counts += np.bincount(labels, minlength=len(classes))[: len(classes)]
    sizes = ", ".join(
        f"{len(part)} {name or 'pictures'}{'' if part.classes or not name else ' without labels'}"
        for name, part in parts.items()
    )
    return [f"{_classes(classes, counts)}; {sizes}", *images.notes]


def _classes(classes: Sequence[str], counts: np.ndarray) -> str:
    if not classes:
        return "no classes"
    shown = [f"{printable(name)} ({count})" for name, count in zip(classes, counts.tolist(), strict=True)]
    rest = f" and {len(shown) - _MOST_CLASSES} more" if len(shown) > _MOST_CLASSES else ""
    return f"{len(classes)} class{'' if len(classes) == 1 else 'es'}: {', '.join(shown[:_MOST_CLASSES])}{rest}"
