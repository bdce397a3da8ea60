"""Grey values of 16 and 32 bits as the 8 bits that models see: scaled by their range, not cut off at 255."""

from __future__ import annotations

from PIL import Image, ImageFile

_AT_ONCE_PIXELS = 1 << 16


class UnknownRangeError(ValueError):
    """Values of which nothing says what is black and what is white."""


def is_deep(picture: Image.Image) -> bool:
    """Tell whether a picture has more than 8 bits a value in Pillow's storage."""
    return picture.mode[:1] in ("I", "F")


def value_range(picture: ImageFile.ImageFile) -> tuple[float, float]:
    """Return which values of a deep picture are black and white, by its header.

    16 bits: 0 and 65535 (of a TIFF with 12 bits: 4095). 32-bit numbers: what the TIFF says (SMinSampleValue,
    SMaxSampleValue), else 0 and 1 where they are floating-point, and the type's largest where they are integers.
    """
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(258, (16,))
    bits = max(bits) if isinstance(bits, tuple) else int(bits)
    if picture.mode.startswith("I;16") or picture.format != "TIFF":
        return 0.0, float((1 << min(bits, 16)) - 1)
    stated = _number(tags.get(340)), _number(tags.get(341))
    if stated[0] is not None and stated[1] is not None and stated[1] > stated[0]:
        return stated[0], stated[1]
    signed = 2 in tags.get(339, (1,))
    return (0.0, 1.0) if picture.mode == "F" else (0.0, float((1 << bits - signed) - 1))


def to_eight_bits(picture: Image.Image, black: float, white: float) -> Image.Image:
    """Return a deep picture in 8-bit grey, made a strip at a time.

    Raises:
        UnknownRangeError: values lie outside the range, or fill less than a 256th of it.
    """
    width, height = picture.size
    grey = Image.new("L", picture.size)
    scale = 255 / (white - black)
    low, high = float("inf"), float("-inf")
    rows = max(1, _AT_ONCE_PIXELS // width)
    for top in range(0, height, rows):
        part = picture.crop((0, top, width, min(top + rows, height)))
        part = part if part.mode in ("I", "F") else part.convert("I")
        least, most = part.getextrema()
        low, high = min(low, float(least)), max(high, float(most))  # type: ignore[arg-type]
        grey.paste(part.point(lambda value: value * scale + (0.5 - black * scale)).convert("L"), (0, top))
    if low < black or high > white or (white > 1 << 16 and low < high < (white - black) / 256):
        raise UnknownRangeError(
            f"it has values from {low:g} to {high:g}, and nothing says which are black and white; save it in 8 or "
            "16 bits"
        )
    return grey


def _number(value: object) -> float | None:
    value = value[0] if isinstance(value, tuple) and value else value
    return float(value) if isinstance(value, int | float) else None
