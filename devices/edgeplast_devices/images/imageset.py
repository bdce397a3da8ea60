"""An ordered set of pictures with labels, decoded one at a time when asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from edgeplast.errors import InputError
from edgeplast_devices.images.decoding import DECODE_LIMIT_BYTES
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.images.reaching import UnreachableImagesError

NO_LABEL = -1
"""The label of a picture of which nobody said what it shows."""

Picture = str | Path | Image.Image | np.ndarray
"""One picture: a file's path, a PIL image, or a uint8 array (H, W, 3), RGB, or (H, W), grey."""

_AT_ONCE = 4096


WhenUnreachable = Callable[[UnreachableImagesError], None]
"""Asked where a picture's place is gone: returns when it is worth another try, or raises."""


def _at_once(error: UnreachableImagesError) -> None:
    raise error


class Source(Protocol):
    """Where pictures lie: files of a folder, members of an archive, rows of an array."""

    def __len__(self) -> int:
        """Return how many pictures there are."""

    def name(self, index: int) -> str:
        """Return what messages call a picture."""

    def stamp(self, index: int) -> bytes:
        """Return what tells a picture from another without reading it."""

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image | Planes:
        """Return a picture as RGB, or its planes where it has two, four or more channels."""


class ImageSet:
    """An ordered, indexable set of pictures; cheap to make, to cut and to pass on.

    Attributes:
        classes: class names, sorted as text (those of an ``.npz`` as numbers); all those of the data set, also
            the ones that this part of it has no picture of.
        labels: int32 (n,), index into ``classes``; -1 where there is none.
        notes: what was left out when the data set was opened, a line each.
        decode_limit_bytes: the most memory that decoding one picture may take; settable.
        unreachable: called where a picture's place is gone; returns when it may be there again, or raises.
    """

    def __init__(
        self,
        source: Source,
        positions: np.ndarray,
        labels: np.ndarray,
        classes: Sequence[str],
        *,
        decode_limit_bytes: int = DECODE_LIMIT_BYTES,
        unreachable: WhenUnreachable = _at_once,
        notes: Sequence[str] = (),
    ) -> None:
        """Show some pictures of a source, in a given order.

        Args:
            source: where they lie.
            positions: integers (n,), index into the source.
            labels: integers (n,), index into ``classes`` or -1.
            classes: class names.
            decode_limit_bytes: the most memory that decoding one picture may take.
            unreachable: called where a picture's place is gone; returns when it may be there again, or raises.
            notes: what was left out, a line each.
        """
        self._source = source
        self._positions = np.asarray(positions, dtype=np.int32)
        self.labels = np.asarray(labels, dtype=np.int32)
        self.classes = tuple(classes)
        self.notes = tuple(notes)
        self.decode_limit_bytes = decode_limit_bytes
        self.unreachable = unreachable

    @classmethod
    def of(
        cls,
        pictures: Sequence[Picture] | np.ndarray,
        labels: Sequence[str] | Sequence[int] | np.ndarray | None = None,
        classes: Sequence[str] | None = None,
    ) -> ImageSet:
        """Make a set of pictures that a program holds, or knows the files of.

        Args:
            pictures: each a uint8 array (H, W, 3), RGB, or (H, W), grey; a PIL image of 8 bits a channel; or the path
                of a file, which is read when it is asked for. One array (N, H, W, 3) or (N, H, W) holds several.
            labels: of each, a class name or its number in ``classes``; None where nobody said what they show.
            classes: class names in order; by default those of the labels, sorted.

        Raises:
            InputError: a picture is of another kind, shape or dtype; a label is no class; or their numbers differ.
        """
        from edgeplast_devices.images.in_memory import from_memory, numbered

        found = from_memory(pictures)
        if labels is None:
            return found._like(found._positions, found.labels, tuple(classes or ()))
        numbers, names = numbered(labels, classes, len(found))
        return found._like(found._positions, numbers, names)

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"ImageSet({len(self)} pictures, {len(self.classes)} classes)"

    def name(self, index: int) -> str:
        """Return what messages call a picture: ``train/forest/a01.jpg``, ``train_images[17]``."""
        return self._source.name(int(self._positions[index]))

    def open(self, index: int, *, at_least: tuple[int, int] | None = None) -> Image.Image | Planes:
        """Decode one picture to RGB; one of two, four or more channels to its planes.

        Args:
            index: which one, 0 to ``len - 1``.
            at_least: height and width in pixels that are needed. With it, a JPEG of more than 4 megapixels is
                decoded at a half, a quarter or an eighth; without it always in full.

        Raises:
            UnreadableImageError: it is no picture, is damaged, or needs more than ``decode_limit_bytes``.
            UnreachableImagesError: the place where it lies is gone, and ``unreachable`` waits no longer.
        """
        while True:
            try:
                return self._source.decode(int(self._positions[index]), at_least, self.decode_limit_bytes)
            except UnreachableImagesError as error:
                self.unreachable(error)

    def allowing(self, decode_limit_bytes: int) -> ImageSet:
        """Return the same pictures, with another limit on what decoding one of them may take."""
        same = self._like(self._positions, self.labels, self.classes)
        same.decode_limit_bytes = decode_limit_bytes
        return same

    def waiting(self, unreachable: WhenUnreachable) -> ImageSet:
        """Return the same pictures, with somebody else to ask where their place is gone."""
        same = self._like(self._positions, self.labels, self.classes)
        same.unreachable = unreachable
        return same

    def subset(self, indices: Iterable[int] | np.ndarray) -> ImageSet:
        """Return the pictures at these indices, in this order; nothing is copied but numbers."""
        chosen = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
        return self._like(self._positions[chosen], self.labels[chosen], self.classes)

    def without_labels(self) -> ImageSet:
        """Return the same pictures, of which nobody says what they show."""
        return self._like(self._positions, np.full(len(self), NO_LABEL, np.int32), ())

    def aligned_to(self, classes: Sequence[str]) -> ImageSet:
        """Return the same pictures with labels that index another class list, for example a bundle's.

        Raises:
            InputError: there are pictures of a class that is not in the list.
        """
        number = {name: i for i, name in enumerate(classes)}
        unknown = [name for name in self.present_classes() if name not in number]
        if unknown:
            raise InputError(
                f"There are pictures of {_some(unknown)}, and the known classes are {_some(classes)}. "
                "Rename or remove those folders, or use data with the same classes."
            )
        table = np.asarray([*(number.get(name, NO_LABEL) for name in self.classes), NO_LABEL], dtype=np.int32)
        return self._like(self._positions, table[self.labels], classes)

    def present_classes(self) -> list[str]:
        """Return the names of the classes that have at least one picture here, in order."""
        return [self.classes[label] for label in np.unique(self.labels) if label != NO_LABEL]

    def fingerprint(self) -> str:
        """Return 32 hex digits that change when names, labels, classes or order change.

        No picture is read. Sizes (tar) and checksums (npz) are taken in where they are known anyway, so a file
        of a folder that was replaced under the same name is not noticed.
        """
        digest = hashlib.blake2b(repr((len(self), self.classes)).encode("utf-8", "replace"), digest_size=16)
        for start in range(0, len(self), _AT_ONCE):  # as Python's numbers all of them would take 70 bytes each
            part = slice(start, start + _AT_ONCE)
            for position, label in zip(self._positions[part].tolist(), self.labels[part].tolist(), strict=True):
                digest.update(b"%d\0%s\0" % (label, self._source.stamp(position)))
        return digest.hexdigest()

    def _like(self, positions: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> ImageSet:
        return ImageSet(
            self._source,
            positions,
            labels,
            classes,
            decode_limit_bytes=self.decode_limit_bytes,
            unreachable=self.unreachable,
            notes=self.notes,
        )


def require_labels(images: ImageSet, what: str) -> None:
    """Raise unless somebody said of each picture what it shows.

    Args:
        images: a set.
        what: is to be done with them: ``"evaluating"``.

    Raises:
        InputError: some have no label.
    """
    without = int((images.labels == NO_LABEL).sum())
    if without:
        many = "The picture has" if len(images) == 1 else f"{without} of the {len(images)} pictures have"
        raise InputError(
            f"{many} no label, and {what} needs to know what each shows. Give labels (ImageSet.of(pictures, labels)), "
            "or a folder for each class."
        )


def require_classes(images: ImageSet, at_least: int = 2) -> None:
    """Raise unless pictures of enough classes are there to learn from.

    Raises:
        InputError: fewer than ``at_least`` classes have a picture.
    """
    present = images.present_classes()
    if len(present) < at_least:
        raise InputError(
            f"The {len(images)} pictures show {len(present)} class{'' if len(present) == 1 else 'es'} "
            f"({_some(present) or 'none'}); learning needs at least {at_least}. "
            "Add pictures of other classes, each class in a folder of its own."
        )


def _some(names: Sequence[str], most: int = 12) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + rest
