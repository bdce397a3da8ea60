"""How a picture becomes the tensor that a model was trained on."""

from __future__ import annotations

from typing import Annotated

import msgspec

from edgeplast.errors import InputError

_MOST = 1e6
"""Of a mean, or of a deviation or its inverse: float32 carries the products."""

_MOST_CHANNELS = 1024
"""Hyperspectral cameras have some hundred."""

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 13)]
"""Pixels along one side of a model's input: a square of the longest is 768 MiB."""


class Preprocessing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """timm's data configuration, the part of it that evaluation uses.

    Attributes:
        image_size: height and width of the tensor in pixels.
        mean: per channel (three: RGB; one: grey), subtracted from values in 0..1.
        std: per channel, divided by after that.
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        crop_fraction: side of the centre crop over the side of the resized picture (timm: ``crop_pct``).
        crop_mode: ``center`` (short side resized, then cut), ``squash`` (both sides resized) or ``border``
            (long side resized, rest filled), as timm names them.
    """

    image_size: tuple[Side, Side]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bicubic"
    crop_fraction: float = 0.875
    crop_mode: str = "center"

    def __post_init__(self) -> None:
        if not 1 <= len(self.mean) == len(self.std) <= _MOST_CHANNELS:
            raise InputError(
                f"Preprocessing has {len(self.mean)} means and {len(self.std)} deviations; a channel has one of each."
            )
        if min(self.image_size) < 1 or not 0 < self.crop_fraction <= 1 or min(self.std) <= 0:
            raise InputError(
                f"Preprocessing out of range: image_size {self.image_size}, crop_fraction {self.crop_fraction}, "
                f"std {self.std}; sizes and std are positive, crop_fraction is in (0, 1]."
            )
        if max(map(abs, self.mean)) > _MOST or not all(1 / _MOST <= value <= _MOST for value in self.std):
            raise InputError(f"Preprocessing out of range: mean {self.mean}, std {self.std}.")
        if self.interpolation not in INTERPOLATIONS:
            raise InputError(f"Unknown interpolation {self.interpolation!r}; known: {', '.join(INTERPOLATIONS)}.")
        if self.crop_mode not in ("center", "squash", "border"):
            raise InputError(f"Unknown crop_mode {self.crop_mode!r}; known: center, squash, border.")

    @property
    def channels(self) -> int:
        """Of the tensor: 3 (RGB), 1 (grey), or what else the model takes."""
        return len(self.mean)

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        size = "×".join(str(side) for side in self.image_size)
        return f"{size}, mean {mean}, std {std}, {self.interpolation}, crop {self.crop_fraction:.3g} {self.crop_mode}"
