"""What decoding a picture takes at most, as far as its header tells: Pillow's peaks, measured for each format.

Growth of the peak resident set and of what is mapped, while pictures of 5 and 50 megapixels were decoded and made RGB
(Pillow 13.0, Linux x86-64), in bytes a pixel; what the rules below say is never less:

    JPEG 4.1, progressive 7.1, CMYK 8.1 · PNG 4.1, grey or palette 5.1, with alpha 8.1, 16 bits 6.1 · BMP, PPM 4.1 ·
    GIF 5.1 · TIFF 4.1, compressed 4.1 and the file, 32 bits 9.1 · WebP 16.8 · AVIF 9.4 · JPEG 2000 21.5
"""

from __future__ import annotations

import math
import os

from PIL import Image, ImageFile

OVERHEAD_BYTES = 384 << 10
"""What decoders hold beside pixels: tables, windows, rows, a piece of the file."""

RESIZE_LIMIT_BYTES = 4 << 20
"""A resized picture above this is never made; only the part that the crop keeps is.

A strip of 4000 x 1 pixels with its short side at 256 would take a gigabyte. Results then differ from timm's by
the rounding of Pillow's 32-bit box.
"""

_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes a pixel in Pillow's own storage; every mode that is not here takes four."""

# libwebp's animation decoder holds two canvases, of which it hands out a copy.
_WEBP_COPIES = 13
# Planes of up to 16 bits with alpha, what they are turned into, and a copy of that.
_AVIF_COPIES = 16
# OpenJPEG's 32-bit planes, once for the tile and once for the picture, less what is freed before.
_JPEG2000_PLANE = 6


def decode_bytes(picture: ImageFile.ImageFile, scale: int = 1, *, turned: bool = False) -> int:
    """Return the bytes that decoding a picture and making it RGB takes at most.

    Args:
        picture: opened, not loaded.
        scale: of a JPEG or JPEG 2000: it is decoded at a half (2), a quarter (4) or an eighth.
        turned: whether it is turned the right way up afterwards.
    """
    pixels = -(-picture.width // scale) * -(-picture.height // scale)
    own, rgb = _MODE_BYTES.get(picture.mode, 4), 4
    # 16- and 32-bit values pass through a byte of grey.
    is_deep = picture.mode[0] in "IF"
    made = 0 if picture.mode == "RGB" else rgb + is_deep
    loading, file_bytes = _loading(picture, pixels), _file_bytes(picture)
    copies = 4 if turned or (picture.format == "TIFF" and _is_turned(picture)) else 0
    peak = max(loading + own * pixels + file_bytes, (own + made) * pixels, (rgb + copies) * pixels)
    return peak + OVERHEAD_BYTES * (3 if is_deep else 1)


def fitting_bytes(size: tuple[int, int], at_least: tuple[int, int]) -> int:
    """Return what bringing an RGB picture to a model's size takes, beside the picture.

    Pillow resizes the rows first, to a picture as wide as the result and as high as before, then the columns. The
    crop and its values in 32 bits, 19 bytes a pixel of the model's, are the same for all pictures, and not counted.

    Args:
        size: width and height of the picture.
        at_least: height and width that it is brought to.
    """
    width, height = size
    factor = max(at_least[1] / width, at_least[0] / height)
    wide, high = math.ceil(width * factor), math.ceil(height * factor)
    if 4 * wide * high > RESIZE_LIMIT_BYTES:
        high, wide = at_least
    return 4 * wide * (height + high) + OVERHEAD_BYTES


def webp_bytes(size: tuple[int, int], file_bytes: int) -> tuple[int, int]:
    """Return what opening a WebP takes, and decoding it: its two canvases are there as soon as its header is read."""
    rest = 2 * file_bytes + OVERHEAD_BYTES
    return 8 * size[0] * size[1] + rest, (_WEBP_COPIES + 4) * size[0] * size[1] + rest


def _loading(picture: ImageFile.ImageFile, pixels: int) -> int:
    """Return what a decoder holds beside Pillow's picture and the file."""
    kind = picture.format
    if kind == "WEBP":  # until the picture is closed, so also while it is made RGB
        return (_WEBP_COPIES + (0 if picture.mode == "RGB" else 4)) * pixels
    if kind == "AVIF":
        return _AVIF_COPIES * pixels
    if kind == "JPEG2000":
        return _JPEG2000_PLANE * max(3, len(picture.getbands())) * pixels
    if kind == "TIFF":
        return _tiff_block_bytes(picture)
    return _coefficient_bytes(picture)


def _file_bytes(picture: ImageFile.ImageFile) -> int:
    """Return what of the file is in memory while it is decoded."""
    if picture.format in ("WEBP", "AVIF", "JPEG2000"):
        return 2 * _length(picture)
    if picture.format == "TIFF" and not _is_plain(picture):
        return _length(picture)
    return 0


def _is_plain(picture: ImageFile.ImageFile) -> bool:
    return picture.info.get("compression", "raw") == "raw"


def _is_turned(picture: ImageFile.ImageFile) -> bool:
    return getattr(picture, "tag_v2", {}).get(274, 1) not in (0, 1)


def _tiff_block_bytes(picture: ImageFile.ImageFile) -> int:
    """Return the size of the strip or tile that is unpacked at a time; its header may claim any."""
    if _is_plain(picture):
        return 0
    tags = getattr(picture, "tag_v2", {})
    width = int(tags.get(322) or picture.width)
    height = int(tags.get(323) or min(int(tags.get(278) or picture.height), picture.height))
    bits = tags.get(258, (8,))
    per_sample = max(bits) if isinstance(bits, tuple) else int(bits)
    samples = max(int(tags.get(277, 1)), len(picture.getbands()))
    # Pillow unpacks strips of YCbCr in JPEG as four bytes a pixel.
    return width * height * max(-(-samples * per_sample // 8), 4 if picture.info.get("compression") == "jpeg" else 0)


def _coefficient_bytes(picture: Image.Image) -> int:
    """Return what libjpeg holds of a progressive JPEG: all coefficients, two bytes each, at any scale."""
    if not is_progressive(picture):
        return 0
    layers = getattr(picture, "layer", None) or [(0, 1, 1, 0)] * 3
    areas = [across * down for _, across, down, *_ in layers]
    return 2 * picture.width * picture.height * sum(areas) // max(areas)


def is_progressive(picture: Image.Image) -> bool:
    """Tell whether a JPEG comes in scans, of which all coefficients are kept."""
    return bool(picture.info.get("progressive"))


def _length(picture: ImageFile.ImageFile) -> int:
    stream = picture.fp
    if stream is None:
        return 0
    position = stream.tell()
    length = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return length
