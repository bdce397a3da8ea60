"""Several data sets as one, each picture named with the place it came from."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from edgeplast_devices.images.decoding import UnreadableImageError
from edgeplast_devices.images.imageset import ImageSet, Source
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.images.reaching import UnreachableImagesError

if TYPE_CHECKING:
    from PIL import Image


class Joined:
    """Sources one after the other (a :class:`~.imageset.Source`).

    Args:
        parts: where each lies, put before its pictures' names with a slash (nothing where empty), and the source.
    """

    def __init__(self, parts: Sequence[tuple[str, Source]]) -> None:
        self._parts = list(parts)
        self._ends = list(accumulate(len(source) for _, source in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def name(self, index: int) -> str:
        """Return where the picture lies and its name there."""
        where, source, inner = self._find(index)
        return f"{where}/{source.name(inner)}" if where else source.name(inner)

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without reading it."""
        where, source, inner = self._find(index)
        return where.encode("utf-8", "surrogateescape") + b"/" + source.stamp(inner)

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image | Planes:
        """Decode one picture."""
        _, source, inner = self._find(index)
        try:
            return source.decode(inner, at_least, limit_bytes)
        except (UnreadableImageError, UnreachableImagesError) as error:
            raise type(error)(self.name(index), error.reason) from error

    def _find(self, index: int) -> tuple[str, Source, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        where, source = self._parts[number]
        return where, source, index - (self._ends[number] - len(source))


def together(one: ImageSet, other: ImageSet, where: str) -> ImageSet:
    """Return the pictures of two labelled sets as one, with the classes of both.

    Args:
        one: comes first; what it says of limits and of places that are gone holds for all.
        other: its pictures' names begin with ``where``.
        where: a word.
    """
    classes = (*one.classes, *(name for name in other.classes if name not in one.classes))
    first, second = one.aligned_to(classes), other.aligned_to(classes)
    source = Joined([("", first._source), (where, second._source)])
    return ImageSet(
        source,
        np.concatenate([first._positions, second._positions + len(first._source)]),
        np.concatenate([first.labels, second.labels]),
        classes,
        decode_limit_bytes=one.decode_limit_bytes,
        unreachable=one.unreachable,
        notes=one.notes,
    )
