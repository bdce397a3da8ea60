"""From a picture to the tensor a model expects: timm's evaluation transform, and its random crop for training.

The sizes and the rounding are those of ``timm.data.create_transform`` and torchvision (checked against timm
1.0.31 and torchvision 0.28); Pillow does the resampling there and here, so results are equal bit for bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from edgeplast.errors import InputError, UsageError, one_of
from edgeplast.preprocessing import Preprocessing
from edgeplast_devices.images.costs import RESIZE_LIMIT_BYTES
from edgeplast_devices.images.planes import Planes

Picture = Image.Image | Planes

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def preprocess(picture: Picture, how: Preprocessing) -> np.ndarray:
    """Resize, crop and normalise a picture as timm does for evaluation.

    Args:
        picture: any size; its channels are the model's, but for grey and colour, of which either is made.
        how: the model's preprocessing.

    Returns:
        float32 (channels, H, W), C-contiguous.

    Raises:
        InputError: the picture has other channels than the model takes.
    """
    return _normalise(_fit(_in_mode(picture, how), how), how)


def resized_size(how: Preprocessing) -> tuple[int, int]:
    """Return height and width that a picture is scaled to before the crop, in pixels."""
    height, width = how.image_size
    return math.floor(height / how.crop_fraction), math.floor(width / how.crop_fraction)


@dataclass(frozen=True)
class Augmentation:
    """How a picture is varied each time it is learned from: a random part of it, perhaps mirrored.

    Attributes:
        scale: smallest and largest share of the picture's area that is kept, in (0, 1]; None keeps the
            evaluation transform. timm's default starts at 0.08, which suits hundreds of epochs from scratch; a
            device sees each picture a few times, and crops that miss the object then cost more than they teach.
        ratio: narrowest and widest crop, width over height.
        flip: probability of mirroring left and right, 0 to 1; set 0 where left and right differ (text, x-rays).
    """

    scale: tuple[float, float] | None = (0.5, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        low, high = self.scale or (1.0, 1.0)
        if not (0 < low <= high <= 1 and 0 < self.ratio[0] <= self.ratio[1] and 0 <= self.flip <= 1):
            raise UsageError(
                f"Augmentation out of range: scale {self.scale}, ratio {self.ratio}, flip {self.flip}; scale is "
                "(low, high) within (0, 1], ratio (low, high) above 0, flip 0 to 1."
            )

    @classmethod
    def none(cls) -> Augmentation:
        """Return the augmentation that changes nothing: training sees what evaluation sees."""
        return cls(scale=None, flip=0.0)

    @classmethod
    def named(cls, policy: str) -> Augmentation:
        """Return the augmentation that the command line calls ``default`` or ``none``.

        Raises:
            UsageError: there is no such policy.
        """
        policies = {"default": cls(), "none": cls.none()}
        if policy not in policies:
            raise one_of("augmentation", policy, tuple(policies))
        return policies[policy]

    def augment(self, picture: Picture, how: Preprocessing, rng: np.random.Generator) -> np.ndarray:
        """Crop at random, resize, mirror at random, and normalise.

        Args:
            picture: any size; its channels are the model's, but for grey and colour, of which either is made.
            how: the model's preprocessing.
            rng: chance; see :func:`~.splitting.picture_generator`.

        Returns:
            float32 (channels, H, W), C-contiguous.

        Raises:
            InputError: the picture has other channels than the model takes.
        """
        picture = _in_mode(picture, how)
        if self.scale is None:
            fitted = _fit(picture, how)
        else:
            height, width = how.image_size
            box = self._random_box(picture.size, rng)
            # Unlike crop-then-resize, resampling at the rim of the box sees the pixels beyond it; and no copy.
            fitted = picture.resize((width, height), _RESAMPLING[how.interpolation], box=box)
        return _normalise(fitted, how, mirrored=bool(rng.random() < self.flip))

    def needed_size(self, how: Preprocessing) -> tuple[int, int]:
        """Return height and width that a picture should have so that no crop is enlarged, in pixels."""
        if self.scale is None:
            return resized_size(how)
        height, width = how.image_size
        return math.ceil(height / math.sqrt(self.scale[0])), math.ceil(width / math.sqrt(self.scale[0]))

    def _random_box(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
        """Choose left, top, right, bottom as torchvision's RandomResizedCrop does."""
        assert self.scale is not None
        width, height = size
        for _ in range(10):
            area = width * height * rng.uniform(*self.scale)
            ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
                return left, top, left + w, top + h
        # No such box fits a very long picture: the largest one in its middle.
        w, h = width, height
        if width / height < self.ratio[0]:
            h = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            w = max(1, round(height * self.ratio[1]))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h


def _in_mode(picture: Picture, how: Preprocessing) -> Picture:
    """Return a picture in colour or in grey, as the model takes it; other channels as they are."""
    mode = {1: "L", 3: "RGB"}.get(how.channels)
    given = len(picture.bands) if isinstance(picture, Planes) else 0
    if given == how.channels:
        return picture
    if given or mode is None:
        has = f"these pictures have {given}" if given else "pictures of files have one (grey) or three (RGB)"
        raise InputError(
            f"The model takes {how.channels} channels; {has}. More channels come in an .npz, train_images uint8 "
            "(n, height, width, channels), train_labels (n,), or as arrays (height, width, channels)."
        )
    assert isinstance(picture, Image.Image)
    return picture if picture.mode == mode else picture.convert(mode)


def _fit(picture: Picture, how: Preprocessing) -> Picture:
    """Bring a picture to the model's size."""
    method = _RESAMPLING[how.interpolation]
    target = resized_size(how)
    if how.crop_mode == "squash":
        return _crop(picture.resize(target[::-1], method), how.image_size, (0,) * how.channels)
    ratios = picture.height / target[0], picture.width / target[1]
    if how.crop_mode == "border":
        height, width = (max(1, round(side / max(ratios))) for side in (picture.height, picture.width))
        fill = tuple(round(255 * value) for value in how.mean)
        return _crop(picture.resize((width, height), method), how.image_size, fill)
    if target[0] == target[1]:
        short, long = sorted(picture.size)
        sides = target[0], int(target[0] * long / short)
        width, height = sides if picture.width <= picture.height else sides[::-1]
    else:
        height, width = (round(side / min(ratios)) for side in (picture.height, picture.width))
    if 4 * height * width > RESIZE_LIMIT_BYTES:
        return _resize_middle(picture, (height, width), how)
    return _crop(picture.resize((width, height), method), how.image_size, (0,) * how.channels)


def _resize_middle(picture: Picture, resized: tuple[int, int], how: Preprocessing) -> Picture:
    """Resize only the part of the picture that the centre crop of the resized picture would keep."""
    height, width = how.image_size
    top, left = round((resized[0] - height) / 2), round((resized[1] - width) / 2)
    y, x = picture.height / resized[0], picture.width / resized[1]
    box = (left * x, top * y, min((left + width) * x, picture.width), min((top + height) * y, picture.height))
    return picture.resize((width, height), _RESAMPLING[how.interpolation], box=box)


def _crop(picture: Picture, size: tuple[int, int], fill: tuple[int, ...]) -> Picture:
    """Cut the middle out, and fill the rim where the picture is smaller than that."""
    if isinstance(picture, Planes):
        return picture.each(lambda band, value: _cropped(band, size, (value,)), fill)
    return _cropped(picture, size, fill)


def _cropped(picture: Image.Image, size: tuple[int, int], fill: tuple[int, ...]) -> Image.Image:
    top, left = (_offset(side, wanted) for side, wanted in zip(picture.size[::-1], size, strict=True))
    box = (left, top, left + size[1], top + size[0])
    if picture.height >= size[0] and picture.width >= size[1]:
        return picture.crop(box)
    canvas = Image.new(picture.mode, size[::-1], fill if picture.mode == "RGB" else fill[0])
    canvas.paste(picture, (-left, -top))
    return canvas


def _offset(side: int, wanted: int) -> int:
    # torchvision rounds a crop to even and a rim down, and the two do not always agree.
    return -((wanted - side) // 2) if wanted > side else round((side - wanted) / 2)


def _normalise(picture: Picture, how: Preprocessing, *, mirrored: bool = False) -> np.ndarray:
    pixels = picture.pixels() if isinstance(picture, Planes) else np.asarray(picture)
    if mirrored:
        pixels = pixels[:, ::-1]
    pixels = pixels.reshape(picture.height, picture.width, -1)
    values = np.empty((how.channels, picture.height, picture.width), dtype=np.float32)
    np.divide(pixels.transpose(2, 0, 1), np.float32(255), out=values, dtype=np.float32)
    values -= np.asarray(how.mean, dtype=np.float32)[:, None, None]
    values /= np.asarray(how.std, dtype=np.float32)[:, None, None]
    return values
