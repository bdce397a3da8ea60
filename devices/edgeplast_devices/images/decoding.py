"""From the bytes of one picture to RGB, or one clear error; never more memory than allowed."""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from edgeplast.errors import InputError
from edgeplast.units import format_bytes
from edgeplast_devices.images.reaching import is_gone

EXACT_DECODE_BYTES = 16 << 20
"""A JPEG that needs no more than this is decoded in full, so that the tensor equals timm's bit for bit.

Pillow keeps four bytes a pixel of RGB: this is a photo of 4.2 megapixels (12 MiB of RGB values). Larger
JPEGs are decoded at a half, a quarter or an eighth of their size, which the format offers almost for free.
"""

DECODE_LIMIT_BYTES = 64 << 20
"""What decoding one picture may take unless the image set says otherwise; above it the picture is refused."""

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
"""How the names of pictures end, in lower case."""

_FORMATS = "JPEG, PNG, BMP, WebP, TIFF, GIF or PPM"
_MAGIC = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"P1", "PPM"),
    (b"P2", "PPM"),
    (b"P3", "PPM"),
    (b"P4", "PPM"),
    (b"P5", "PPM"),
    (b"P6", "PPM"),
)
# Bytes a pixel in Pillow's own storage; every mode that is not here takes four.
_MODE_BYTES = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# libwebp hands out a whole canvas, which Pillow copies twice before it becomes an image.
_WEBP_COPIES_BYTES = 12


class UnreadableImageError(InputError):
    """One picture that cannot be decoded (exit code 3); a data set goes on without it.

    Attributes:
        name: the picture, as messages call it.
        reason: why, without the name.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(f"{name} cannot be used: {reason}. Replace the file or remove it.")
        self.name = name
        self.reason = reason


def decode(
    stream: BinaryIO, name: str, *, at_least: tuple[int, int] | None = None, limit_bytes: int = DECODE_LIMIT_BYTES
) -> Image.Image:
    """Decode a picture to RGB as ``Image.open(stream).convert("RGB")`` does, which is what timm does.

    The first frame counts, an EXIF rotation is ignored, and 16-bit grey is clipped at 255: timm again.

    Args:
        stream: the encoded picture, seekable.
        name: what messages call it.
        at_least: height and width in pixels that are needed; a JPEG above :data:`EXACT_DECODE_BYTES` is then
            decoded at the smallest scale that keeps twice that, or less if the limit demands it.
        limit_bytes: the most memory that decoding may take.

    Raises:
        UnreadableImageError: it is no picture, is damaged, or needs more memory than allowed.
        OSError: the place where it lies is gone; see :func:`~.reaching.is_gone`.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns about large pictures, palettes and odd metadata; what matters is checked below.
            warnings.simplefilter("ignore")
            kind = _kind(stream, name)
            with Image.open(stream, formats=(kind,)) as picture:
                _fit_in(picture, name, at_least, limit_bytes)
                picture.load()
                return picture if picture.mode == "RGB" else picture.convert("RGB")
    except (UnreadableImageError, MemoryError):
        raise
    except Exception as error:
        if is_gone(error):
            raise
        # Decoders raise whatever they like on damaged files: OSError, SyntaxError, struct.error, KeyError, ...
        raise UnreadableImageError(name, _reason(error)) from error


def _kind(stream: BinaryIO, name: str) -> str:
    """Tell the format by the first bytes: Pillow's own guess would import all of its 50 plugins (5 MB)."""
    head = stream.read(12)
    stream.seek(0)
    if not head:
        raise UnreadableImageError(name, "the file is empty")
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        import PIL.WebPImagePlugin

        return "WEBP"
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            if kind == "TIFF":
                import PIL.TiffImagePlugin  # noqa: F401
            return kind
    raise UnreadableImageError(name, f"it is not a {_FORMATS} file, whatever its name says")


def _fit_in(picture: ImageFile.ImageFile, name: str, at_least: tuple[int, int] | None, limit_bytes: int) -> None:
    """Choose the scale of a large JPEG, and refuse what cannot be decoded within the limit."""
    width, height = picture.size
    is_jpeg = picture.format in ("JPEG", "MPO")
    target, scale = min(limit_bytes, EXACT_DECODE_BYTES), 1
    if is_jpeg and at_least is not None and _cost(picture, 1) > target:
        scale = 8
        while scale > 1 and (height // scale < 2 * at_least[0] or width // scale < 2 * at_least[1]):
            scale //= 2
        while scale < 8 and _cost(picture, scale) > target:
            scale *= 2
    needed = _cost(picture, scale)
    if needed > limit_bytes:
        if not is_jpeg:
            hint = " or save it as a JPEG"
        else:
            hint = " or save it as a baseline JPEG, not a progressive one" if _is_progressive(picture) else ""
        raise UnreadableImageError(
            name,
            f"decoding {width} x {height} pixels takes {format_bytes(needed)} and {format_bytes(limit_bytes)} "
            f"are allowed; shrink the picture{hint}",
        )
    if scale > 1:
        # draft() takes the size that is wanted and finds the scale by whole division.
        picture.draft("RGB", (max(1, width // scale), max(1, height // scale)))


def _cost(picture: ImageFile.ImageFile, scale: int) -> int:
    """Return the bytes that decoding at ``1/scale`` and converting to RGB takes, as far as the header tells."""
    per_pixel = _MODE_BYTES.get(picture.mode, 4) + (0 if picture.mode == "RGB" else 4)
    if picture.format == "WEBP":
        per_pixel += _WEBP_COPIES_BYTES
    file_bytes = 0
    if picture.format == "TIFF" and picture.info.get("compression", "raw") != "raw":
        # libtiff maps the whole file, and unpacks a strip, which may be the whole picture, to a buffer.
        per_pixel += 4
        file_bytes = _length(picture)
    pixels = -(-picture.width // scale) * -(-picture.height // scale)
    return pixels * per_pixel + file_bytes + _coefficient_bytes(picture)


def _length(picture: ImageFile.ImageFile) -> int:
    stream = picture.fp
    if stream is None:
        return 0
    position = stream.tell()
    length = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return length


def _coefficient_bytes(picture: Image.Image) -> int:
    """Return what libjpeg holds of a progressive JPEG: all coefficients, two bytes each, at any scale."""
    if not _is_progressive(picture):
        return 0
    layers = getattr(picture, "layer", None) or [(0, 1, 1, 0)] * 3
    areas = [across * down for _, across, down, *_ in layers]
    return 2 * picture.width * picture.height * sum(areas) // max(areas)


def _is_progressive(picture: Image.Image) -> bool:
    return bool(picture.info.get("progressive"))


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than Pillow accepts ({2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged (its header makes no sense)"
    text = (str(error) or type(error).__name__).rstrip(".")
    return f"it is damaged ({text})"
