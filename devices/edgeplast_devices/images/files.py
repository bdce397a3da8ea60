"""Pictures that are files, in a folder or in an archive: their names, and how each is opened."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from edgeplast.errors import InputError
from edgeplast_devices.images.decoding import UnreadableImageError, decode
from edgeplast_devices.images.listing import Listing, is_hidden, is_picture_name
from edgeplast_devices.images.reaching import UnreachableImagesError, any_there, is_gone, reason_of

if TYPE_CHECKING:
    from PIL import Image


_NEIGHBOURS = 4
"""Pictures to look at before a place counts as gone."""


class Files:
    """Encoded pictures that have a name and can be opened (a :class:`~.imageset.Source`).

    Attributes:
        listing: their names.
    """

    def __init__(self, listing: Listing, opener: Callable[[int], BinaryIO], sizes: array[int] | None = None) -> None:
        self.listing = listing
        self._open = opener
        self._sizes = sizes

    def __len__(self) -> int:
        return len(self.listing)

    def name(self, index: int) -> str:
        """Return the path below the root, printable."""
        return self.listing.path(index).encode("utf-8", "surrogateescape").decode("utf-8", "replace")

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without reading it: its path, and size where known."""
        size = f":{self._sizes[index]}" if self._sizes is not None else ""
        return (self.listing.path(index) + size).encode("utf-8", "surrogateescape")

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
        """Decode one picture to RGB; see :func:`~.decoding.decode`.

        Raises:
            UnreadableImageError: it is damaged, or was deleted while its neighbours are there.
            UnreachableImagesError: it is not there, and neither are the pictures beside it.
        """
        name = self.name(index)
        try:
            with self._open(index) as stream:
                return decode(stream, name, at_least=at_least, limit_bytes=limit_bytes)
        except UnreadableImageError:
            self._look_again(index, name)  # a library of C may have met the drive's error and called it damage
            raise
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                raise
            raise self._fault(index, name, error) from error

    def _look_again(self, index: int, name: str) -> None:
        try:
            self._look(index)
        except OSError as error:
            if is_gone(error):
                raise self._fault(index, name, error) from error

    def _fault(self, index: int, name: str, error: OSError) -> InputError:
        """Tell a picture that is gone or unreadable by itself from a place that is gone."""
        if is_gone(error) and not any_there(self._look, self._neighbours(index)):
            return UnreachableImagesError(name, reason_of(error))
        return UnreadableImageError(name, reason_of(error))

    def _look(self, index: int) -> None:
        with self._open(index) as stream:
            stream.read(1)

    def _neighbours(self, index: int) -> list[int]:
        """Return some other pictures: of the same folder where it has any (they were listed together), else of all."""
        near = [index + step for away in range(1, 1 + _NEIGHBOURS) for step in (away, -away)]
        of = self.listing.folder_numbers
        beside = [other for other in near if 0 <= other < len(self) and of[other] == of[index]]
        if beside:
            return beside[:_NEIGHBOURS]
        return [other for other in np.linspace(0, len(self) - 1, _NEIGHBOURS).astype(int).tolist() if other != index]

    def ordered(self, members: np.ndarray) -> np.ndarray:
        """Return these pictures by path; of two with one path (a tar that was appended to) the later one."""
        by_path = sorted(members.tolist(), key=self.listing.path)
        kept = [a for a, b in pairwise(by_path) if self.listing.path(a) != self.listing.path(b)]
        return np.asarray([*kept, *by_path[-1:]], dtype=np.int64)


def from_folder(root: Path) -> Files:
    """List the pictures of a folder and the folders in it.

    Raises:
        InputError: a folder cannot be read.
    """
    listing = Listing()
    _scan(root, (), listing, frozenset())
    return Files(listing, lambda index: root.joinpath(*listing.parts(index)).open("rb"))


def from_file(path: Path) -> Files:
    """List one picture."""
    listing = Listing()
    listing.add((), path.name)
    return Files(listing, lambda _: path.open("rb"))


def _scan(folder: Path, parts: tuple[str, ...], listing: Listing, above: frozenset[str]) -> None:
    real = os.path.realpath(folder)
    if real in above:  # a link to a folder around it: following it would never end
        return
    try:
        with os.scandir(folder) as entries:
            inner = []
            for entry in entries:
                if entry.is_dir():
                    if not is_hidden(entry.name):
                        inner.append(entry.name)
                elif is_picture_name(entry.name) and entry.is_file():
                    listing.add(parts, entry.name)
    except OSError as error:
        raise InputError(f"Cannot read the folder {folder}: {error.strerror}. Check its permissions.") from error
    for name in sorted(inner):
        _scan(folder / name, (*parts, name), listing, above | {real})
