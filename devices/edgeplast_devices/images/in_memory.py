"""Pictures that a program holds already, as Pillow's images or arrays, or knows the files of."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edgeplast.errors import InputError
from edgeplast.files import possible
from edgeplast_devices.images.decoding import UnreadableImageError, decode, upright
from edgeplast_devices.images.imageset import NO_LABEL, ImageSet
from edgeplast_devices.images.metadata import orientation_of
from edgeplast_devices.images.planes import Planes

_ORIENTATION = 0x0112
_MAX_CHANNELS = 1024
"""More is a mistake: hyperspectral cameras have some hundred."""

_DEEP_MODES = ("I", "F")
"""How Pillow's modes of more than 8 bits a channel begin."""


class InMemory:
    """Pictures in memory, or in files that are read when they are asked for (a :class:`~.imageset.Source`).

    Args:
        pictures: RGB or what Pillow makes RGB of, uint8 arrays (H, W) or (H, W, channels), or paths.
    """

    def __init__(self, pictures: Sequence[Image.Image | Path | np.ndarray]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, index: int) -> str:
        """Return what messages call a picture: ``images[17]``, or its path."""
        picture = self._pictures[index]
        return str(picture) if isinstance(picture, Path) else f"images[{index}]"

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without looking at it: its place and size."""
        picture = self._pictures[index]
        if isinstance(picture, Path):
            return os.fsencode(picture)
        size = picture.shape[1::-1] if isinstance(picture, np.ndarray) else picture.size
        return f"{self.name(index)}:{size}".encode()

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image | Planes:
        """Return a picture as RGB, upright as files are; nothing that is in memory already is refused for its size."""
        picture = self._pictures[index]
        if isinstance(picture, Path):
            return _read(picture, at_least, limit_bytes)
        if isinstance(picture, np.ndarray) and picture.ndim == 3 and picture.shape[2] != 3:
            return Planes.of(picture)
        if isinstance(picture, np.ndarray):  # made a picture when it is asked for: Pillow keeps four bytes a pixel
            return Image.fromarray(picture).convert("RGB")
        try:
            return upright(picture.convert("RGB"), _orientation(picture))
        except (OSError, ValueError) as error:  # a lazily opened file that cannot be decoded, or was closed
            raise UnreadableImageError(self.name(index), str(error)) from error


def _read(path: Path, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
    try:
        with path.open("rb") as stream:
            return decode(stream, str(path), at_least=at_least, limit_bytes=limit_bytes)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise UnreadableImageError(str(path), getattr(error, "strerror", None) or str(error)) from error


def _orientation(picture: Image.Image) -> int:
    """Return EXIF's orientation, 1 where there is none or it makes no sense."""
    block = picture.info.get("exif")
    if isinstance(block, bytes):
        return orientation_of(block)
    try:  # a TIFF has it among its own tags
        return int(picture.getexif().get(_ORIENTATION, 1))
    except (OSError, ValueError, TypeError, SyntaxError, KeyError, IndexError, struct.error):
        return 1


def is_picture(given: Any) -> bool:
    """Whether this is one picture in memory."""
    return isinstance(given, Image.Image) or (isinstance(given, np.ndarray) and given.ndim in (2, 3))


def from_memory(pictures: Sequence[Any] | np.ndarray) -> ImageSet:
    """Make an image set without labels of pictures in memory or of paths.

    Args:
        pictures: each a PIL image of 8 bits a channel, a uint8 array (H, W) or (H, W, channels), three: RGB, or
            a path.

    Raises:
        InputError: one is none of these; the message names it.
    """
    if isinstance(pictures, str | Path | Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 3):
        raise InputError("Several pictures are wanted and one was given. Put it into a list: [picture].")
    if isinstance(pictures, bytes | bytearray) or not isinstance(pictures, Iterable):
        raise InputError(
            f"pictures is of the kind {type(pictures).__name__}; allowed are a numpy array, a PIL image or a path for "
            "each, in a list."
        )
    found = [_picture(given, f"images[{i}]") for i, given in enumerate(pictures)]
    return ImageSet(InMemory(found), np.arange(len(found)), np.full(len(found), NO_LABEL), ())


def numbered(
    labels: Sequence[str] | Sequence[int] | np.ndarray, classes: Sequence[str] | None, count: int
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels as numbers int32 (n,), and the class names that they index.

    Raises:
        InputError: there is not one label for each picture, or one that is no class.
    """
    given: list[Any] = [labels] * count if isinstance(labels, str) else list(np.asarray(labels).ravel().tolist())
    if len(given) != count:
        raise InputError(f"There are {count} pictures and {len(given)} labels; give one label for each picture.")
    by_name = all(isinstance(label, str) for label in given)
    if classes is None:
        if not by_name:
            raise InputError("Labels that are numbers need the names of the classes: ImageSet.of(…, classes=[…]).")
        classes = sorted(set(given))
    names = tuple(classes)
    if len(set(names)) != len(names):
        raise InputError(
            f"A class has one name of its own; two of these are the same: {', '.join(map(repr, names[:12]))}."
        )
    number: dict[Any, int] = {name: i for i, name in enumerate(names)} if by_name else {i: i for i in range(len(names))}
    unknown = [label for label in dict.fromkeys(given) if label not in number]
    if unknown:
        known = ", ".join(map(repr, names[:12])) + (", …" if len(names) > 12 else "")
        numbers = "" if by_name else f", numbers 0 to {len(names) - 1}"
        raise InputError(f"{unknown[0]!r} is no class. The classes are {known}{numbers}.")
    return np.asarray([number[label] for label in given], np.int32), names


def _picture(given: Any, name: str) -> Image.Image | Path | np.ndarray:
    if isinstance(given, str | Path):
        return possible(given)
    if isinstance(given, Image.Image):
        if given.mode.startswith(_DEEP_MODES):
            raise InputError(f"{name} has the mode {given.mode!r}: scale it to 8 bits a channel, mode 'L' or 'RGB'.")
        return given
    if not isinstance(given, np.ndarray):
        raise InputError(
            f"{name} is of the kind {type(given).__name__}; allowed are numpy arrays, PIL images and paths."
        )
    fits = given.ndim == 2 or (given.ndim == 3 and given.shape[2] <= _MAX_CHANNELS)
    if given.dtype != np.uint8 or not fits or not given.size:
        raise InputError(
            f"{name} is an array of {given.dtype} of shape {given.shape}; a picture is uint8, height × width × 3 "
            "(RGB) or as many channels as the model takes, or height × width for grey."
        )
    return given[:, :, 0] if given.ndim == 3 and given.shape[2] == 1 else given
