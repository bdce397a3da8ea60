"""Examples that a Learner was given: pictures on disk, a folder for each class, one file for each that was added.

On disk, for a budget of memory has no room for pictures, and a process that is killed must find them again. They lie
in ``<output>.examples``, beside the adapted bundle and not in it: a bundle that is copied elsewhere takes no pictures
along, and whoever deletes the folder has deleted all that is kept of them. It is a data set like any other: ``adapt``,
``evaluate`` and a file manager open it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from edgeplast.errors import DiskFullError, UsageError
from edgeplast.files import disk_errors, write_bytes
from edgeplast.units import format_bytes
from edgeplast_devices.images import ImageSet
from edgeplast_devices.images.files import from_folder
from edgeplast_devices.images.imageset import NO_LABEL

_NAME = re.compile(r"(\d{6,})\.png")
_UNSAFE = re.compile(r'[%/\\:*?"<>|\x00-\x1f]|^\.|^@|[. ]$')
_FAST = 1
"""Of zlib: six times as fast as the default and a tenth larger."""


class Examples:
    """The pictures that were taken so far.

    Args:
        folder: where they lie; made when the first one comes.
        classes: class names of the bundle, in order.
        keep: height and width in pixels below which no picture is scaled.
        most_bytes: that they may take; None for no limit.
        beside: what else of it so many pictures of so many classes take while they are learned from.

    Attributes:
        folder: as given.
        keep: as given.
        count: how many there are.
        bytes: that they take.

    Raises:
        UsageError: the folder is a link or a file.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        keep: tuple[int, int],
        most_bytes: int | None = None,
        beside: Callable[[int, int], int] = lambda pictures, classes: 0,  # noqa: ARG005
    ) -> None:
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise UsageError(f"{folder} is a link or a file; examples are kept in a folder there. Move it away.")
        self.folder, self.keep = folder, keep
        self.know(classes)
        there = self.files()
        self._next = 1 + max(map(_number, there), default=0)
        self._most_bytes, self._beside = most_bytes, beside
        self.count, self.bytes = len(there), sum(file.stat().st_size for file in there)

    def know(self, classes: Sequence[str]) -> None:
        """Take class names, in order, in the place of those that were known."""
        self.classes = tuple(classes)
        self._folders = [folder_name(name) for name in self.classes]

    def files(self) -> list[Path]:
        """Return the file of each."""
        return [file for file in self.folder.glob("*/*.png") if _NAME.fullmatch(file.name)]

    def remove(self, files: Sequence[Path]) -> None:
        """Delete some, of those that :meth:`files` and :meth:`add` returned."""
        for file in files:
            size = file.stat().st_size
            file.unlink()
            self.count, self.bytes = self.count - 1, self.bytes - size

    @property
    def counts(self) -> dict[str, int]:
        """How many there are of each class."""
        return {
            name: sum(_NAME.fullmatch(file.name) is not None for file in (self.folder / inside).glob("*.png"))
            for name, inside in zip(self.classes, self._folders, strict=True)
        }

    def add(self, picture: Image.Image, label: int) -> Path:
        """Write a picture, whole or not at all, without loss; one much larger than the model can use is scaled first.

        Raises:
            DiskFullError: there is no room, or they would take more than they may.
        """
        least = min(picture.height // self.keep[0], picture.width // self.keep[1])
        if least > 1:
            picture = picture.reduce(least)
        path = self.folder / self._folders[label] / f"{self._next:06d}.png"
        data = io.BytesIO()
        picture.convert("RGB").save(data, "PNG", compress_level=_FAST)
        left = self._left()
        if left is not None and data.tell() > left:
            raise DiskFullError(
                f"A picture takes {format_bytes(data.tell())}, and {format_bytes(max(left, 0))} is left for "
                f"examples of the disk that was allowed. Delete some in {self.folder} while no Learner is open, or "
                "allow more (disk)."
            )
        with disk_errors(path):
            write_bytes(path, data.getvalue())
        self._next += 1
        self.count, self.bytes = self.count + 1, self.bytes + data.tell()
        return path

    def _left(self) -> int | None:
        """Return what one more may take; None for no limit."""
        if self._most_bytes is None:
            return None
        return self._most_bytes - self.bytes - self._beside(self.count + 1, len(self.classes))

    def images(self) -> ImageSet:
        """Return them as a set, in order of class and of when they came; no picture is read."""
        if not self.folder.is_dir():
            return ImageSet.of([], [], self.classes)
        files = from_folder(self.folder)
        label_of: dict[tuple[str, ...], int] = {(inside,): label for label, inside in enumerate(self._folders)}
        of_folder = [label_of.get(parts, NO_LABEL) for parts in files.listing.folders]
        labels = np.asarray(of_folder, np.int32)[np.frombuffer(files.listing.folder_numbers, np.int32)]
        members = [files.ordered(np.flatnonzero(labels == label)) for label in range(len(self.classes))]
        numbers = np.repeat(np.arange(len(members)), [len(part) for part in members])
        return ImageSet(files, np.concatenate(members), numbers, self.classes)


def folder_name(name: str) -> str:
    """Return a class's name as the name of a folder: the same, but for characters that some file system refuses."""
    return _UNSAFE.sub(lambda match: f"%{ord(match[0]):02X}", name) or "%"


def _number(file: Path) -> int:
    match = _NAME.fullmatch(file.name)
    return int(match[1]) if match else 0
