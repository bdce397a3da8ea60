"""Pictures that a program holds already: Pillow's images and arrays, to predict on."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from edgeplast.errors import InputError
from edgeplast_devices.images.decoding import UnreadableImageError, upright
from edgeplast_devices.images.imageset import NO_LABEL, ImageSet
from edgeplast_devices.images.metadata import orientation_of

_ORIENTATION = 0x0112
_DEEP_MODES = ("I", "F")
"""How Pillow's modes of more than 8 bits a channel begin."""


class InMemory:
    """Pictures in memory (a :class:`~.imageset.Source`).

    Args:
        pictures: RGB or what Pillow makes RGB of.
    """

    def __init__(self, pictures: Sequence[Image.Image]) -> None:
        self._pictures = pictures

    def __len__(self) -> int:
        return len(self._pictures)

    def name(self, index: int) -> str:
        """Return what messages call a picture: ``images[17]``."""
        return f"images[{index}]"

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without looking at it: its place and size."""
        return f"{self.name(index)}:{self._pictures[index].size}".encode()

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image:
        """Return a picture as RGB, upright as files are; it is in memory already: nothing is refused for its size."""
        del at_least, limit_bytes
        picture = self._pictures[index]
        try:
            return upright(picture.convert("RGB"), _orientation(picture))
        except (OSError, ValueError) as error:  # a lazily opened file that cannot be decoded, or was closed
            raise UnreadableImageError(self.name(index), str(error)) from error


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


def from_memory(pictures: Sequence[Any]) -> ImageSet:
    """Make an image set without labels of pictures in memory.

    Args:
        pictures: each a PIL image of 8 bits a channel, or a uint8 array (H, W), (H, W, 1) or (H, W, 3), RGB.

    Raises:
        InputError: one is neither; the message names it.
    """
    positions = np.arange(len(pictures))
    found = [_picture(given, f"images[{i}]") for i, given in enumerate(pictures)]
    return ImageSet(InMemory(found), positions, np.full(len(pictures), NO_LABEL), ())


def _picture(given: Any, name: str) -> Image.Image:
    if isinstance(given, Image.Image):
        if given.mode.startswith(_DEEP_MODES):
            raise InputError(f"{name} has the mode {given.mode!r}: scale it to 8 bits a channel, mode 'L' or 'RGB'.")
        return given
    if not isinstance(given, np.ndarray):
        raise InputError(f"{name} is a {type(given).__name__}; allowed are PIL images and numpy arrays.")
    fits = given.ndim == 2 or (given.ndim == 3 and given.shape[2] in (1, 3))
    if given.dtype != np.uint8 or not fits or not given.size:
        raise InputError(
            f"{name} is an array of {given.dtype} of shape {given.shape}; a picture is uint8, height × width × 3 "
            "(RGB), or height × width for grey."
        )
    return Image.fromarray(given if given.ndim == 2 or given.shape[2] == 3 else given[:, :, 0])
