"""Pictures of two, four or more channels, which Pillow has no mode for: one grey picture a channel, moved as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Planes:
    """Channels of one picture.

    Attributes:
        bands: grey pictures of one size, at least one.
    """

    bands: tuple[Image.Image, ...]

    @classmethod
    def of(cls, pixels: np.ndarray) -> Planes:
        """Take apart uint8 (H, W, channels)."""
        return cls(tuple(Image.fromarray(np.ascontiguousarray(pixels[:, :, i])) for i in range(pixels.shape[2])))

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.bands[0].size

    @property
    def width(self) -> int:
        """In pixels."""
        return self.bands[0].width

    @property
    def height(self) -> int:
        """In pixels."""
        return self.bands[0].height

    def each(self, change: Callable[[Image.Image, int], Image.Image], values: Sequence[int]) -> Planes:
        """Return planes of which each was changed, with a value of its own."""
        return Planes(tuple(change(band, value) for band, value in zip(self.bands, values, strict=True)))

    def resize(
        self, size: tuple[int, int], method: Image.Resampling, box: tuple[float, float, float, float] | None = None
    ) -> Planes:
        """As Pillow's pictures are."""
        return Planes(tuple(band.resize(size, method, box=box) for band in self.bands))

    def crop(self, box: tuple[int, int, int, int]) -> Planes:
        """As Pillow's pictures are."""
        return Planes(tuple(band.crop(box) for band in self.bands))

    def pixels(self) -> np.ndarray:
        """Return uint8 (H, W, channels)."""
        return np.stack([np.asarray(band) for band in self.bands], axis=2)
