"""A large picture read a strip of rows at a time and made smaller on the way: what its format does not offer itself.

PNG, and pictures that are stored as they are (BMP, PPM, plain TIFF). The result is that of
``Image.open(...).convert("RGB").reduce(factor)``, bit for bit; memory is that of the small picture and one strip.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

STRIP_PIXELS = 1 << 15
"""How many pixels a strip has, or as many rows as the factor asks for where those have more."""

_PIECE_BYTES = 1 << 16
# Bits a pixel as stored, by Pillow's name of the layout; others are not read in strips.
_RAW_BITS = {
    "1": 1, "1;I": 1, "P;1": 1, "P;2": 2, "P;4": 4, "L": 8, "L;I": 8, "P": 8, "LA": 16, "I;16": 16, "I;16B": 16,
    "BGR;15": 16, "BGR;16": 16, "RGB": 24, "BGR": 24, "RGBX": 32, "BGRX": 32, "XBGR": 32, "RGBA": 32, "BGRA": 32,
    "ABGR": 32, "CMYK": 32, "RGB;16L": 48, "RGB;16B": 48, "RGBA;16L": 64, "RGBA;16B": 64,
}  # fmt: skip
# Depth and colour type of PNG: Pillow's mode and layout.
_PNG_KINDS = {
    (1, 0): ("1", "1"), (2, 0): ("L", "L;2"), (4, 0): ("L", "L;4"), (8, 0): ("L", "L"), (16, 0): ("I;16", "I;16B"),
    (8, 2): ("RGB", "RGB"), (16, 2): ("RGB", "RGB;16B"), (1, 3): ("P", "P;1"), (2, 3): ("P", "P;2"),
    (4, 3): ("P", "P;4"), (8, 3): ("P", "P"), (8, 4): ("LA", "LA"), (16, 4): ("RGBA", "LA;16B"),
    (8, 6): ("RGBA", "RGBA"), (16, 6): ("RGBA", "RGBA;16B"),
}  # fmt: skip
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}  # of an 8-bit PNG with so many bytes a pixel


def can_be_read_in_strips(picture: ImageFile.ImageFile) -> bool:
    """Tell whether :func:`read_reduced` can read a picture, of which only the header was read."""
    if picture.format == "PNG":
        return not picture.info.get("interlace")
    return (
        picture.format in ("BMP", "PPM", "TIFF")
        and bool(picture.tile)
        and all(
            codec == "raw"
            and box is not None
            and (box[0], box[2]) == (0, picture.width)
            and _layout(args)[0] in _RAW_BITS
            for codec, box, _, args in picture.tile
        )
    )


def strip_bytes(picture: ImageFile.ImageFile, factor: int) -> int:
    """Return what reading a strip takes at most, beside the small picture."""
    pixels = picture.width * _rows(picture.width, factor)
    # A strip as it is stored, as a PNG of its own twice, unpacked, and in Pillow's two pictures.
    return pixels * 44 + 4 * _PIECE_BYTES


def read_reduced(
    picture: ImageFile.ImageFile, stream: BinaryIO, factor: int, to_rgb: Callable[[Image.Image], Image.Image]
) -> Image.Image:
    """Read a picture and average squares of ``factor`` by ``factor`` pixels.

    Args:
        picture: opened, not loaded.
        stream: the file that it is in.
        factor: 2 or more.
        to_rgb: makes RGB of a strip in the picture's mode.

    Raises:
        Exception: whatever Pillow, zlib or struct make of a damaged file.
    """
    width, height = picture.size
    small = Image.new("RGB", (-(-width // factor), -(-height // factor)))
    rows = _rows(width, factor)
    strips = _png_strips(stream, rows) if picture.format == "PNG" else _raw_strips(picture, stream, rows)
    for number, strip in enumerate(strips):
        small.paste(to_rgb(strip).reduce(factor), (0, number * rows // factor))
    return small


def _rows(width: int, factor: int) -> int:
    return factor * max(1, STRIP_PIXELS // (width * factor))


def _raw_strips(picture: ImageFile.ImageFile, stream: BinaryIO, rows: int) -> Iterator[Image.Image]:
    width, height = picture.size
    palette = picture.palette if picture.mode == "P" else None  # getpalette() would load the picture
    for top in range(0, height, rows):
        strip = Image.new(picture.mode, (width, min(rows, height - top)))
        if palette is not None:
            strip.putpalette(bytes(palette.palette), palette.rawmode or palette.mode)
        for _, box, offset, args in picture.tile:
            _, first, _, last = box or (0, 0, width, height)
            start, stop = max(first, top), min(last, top + rows)
            if start >= stop:
                continue
            layout, stride, step = _layout(args)
            stride = stride or -(-width * _RAW_BITS[layout] // 8)
            skipped = start - first if step == 1 else last - stop
            stream.seek(offset + skipped * stride)
            count = stop - start
            data = stream.read(count * stride)
            if len(data) < (count - 1) * stride + -(-width * _RAW_BITS[layout] // 8):
                raise OSError("image file is truncated")
            data = data.ljust(count * stride, b"\0")  # the last row of a file may lack its padding
            part = Image.frombytes(picture.mode, (width, count), data, "raw", layout, stride, step)
            strip.paste(part, (0, start - top))
        yield strip


def _layout(args: object) -> tuple[str, int, int]:
    """Return layout, bytes a row (0: as many as it takes) and direction of Pillow's arguments to its raw decoder."""
    given = (args,) if isinstance(args, str) else tuple(args) if isinstance(args, tuple | list) else ("",)
    layout, stride, step = (*given, 0, 1)[:3] if len(given) == 1 else (*given, 1)[:3]
    return str(layout), int(stride or 0), int(step or 1)


def _png_strips(stream: BinaryIO, rows: int) -> Iterator[Image.Image]:
    stream.seek(8)
    _, header = _chunk(stream)
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    depth, colour = header[8], header[9]
    mode, layout = _PNG_KINDS[depth, colour]
    bits = depth * _CHANNELS[colour]
    row_bytes, step = -(-width * bits // 8), max(1, bits // 8)
    palette: list[bytes] = []
    source = _Unpacked(stream, palette)
    above = np.zeros(row_bytes, dtype=np.uint8)
    for top in range(0, height, rows):
        count = min(rows, height - top)
        filtered = np.frombuffer(source.read(count * (1 + row_bytes)), dtype=np.uint8).reshape(count, 1 + row_bytes)
        plain = _unfiltered(filtered, above, step)
        above = plain[-1].copy()
        strip = Image.frombytes(mode, (width, count), plain.tobytes(), "raw", layout)
        if mode == "P" and palette:
            strip.putpalette(palette[0])
        yield strip


class _Unpacked:
    """The rows of a PNG, unpacked as far as they are asked for."""

    def __init__(self, stream: BinaryIO, palette: list[bytes]) -> None:
        self._stream, self._palette = stream, palette
        self._zlib = zlib.decompressobj()
        self._left = 0  # of the chunk that is being read

    def read(self, count: int) -> bytes:
        out = bytearray()
        data = self._zlib.unconsumed_tail
        while len(out) < count:
            data = data or self._next()
            out += self._zlib.decompress(data, count - len(out))
            data = self._zlib.unconsumed_tail
            if self._zlib.eof and len(out) < count:
                raise OSError("image file is truncated")
        return bytes(out)

    def _next(self) -> bytes:
        while not self._left:
            head = self._stream.read(8)
            length, name = int.from_bytes(head[:4], "big"), head[4:8]
            if len(head) < 8 or name == b"IEND":
                raise OSError("image file is truncated")
            if name == b"IDAT":
                self._left = length
            elif name == b"PLTE":
                self._palette.append(self._stream.read(min(length, 768)))
                self._stream.seek(max(length - 768, 0) + 4, 1)
            else:
                self._stream.seek(length + 4, 1)
        data = self._stream.read(min(self._left, _PIECE_BYTES))
        if not data:
            raise OSError("image file is truncated")
        self._left -= len(data)
        if not self._left:
            self._stream.seek(4, 1)  # the checksum: zlib's own covers the pixels
        return data


def _chunk(stream: BinaryIO) -> tuple[bytes, bytes]:
    head = stream.read(8)
    data = stream.read(min(int.from_bytes(head[:4], "big"), 64))
    stream.seek(4, 1)
    return head[4:], data


def _unfiltered(filtered: np.ndarray, above: np.ndarray, step: int) -> np.ndarray:
    """Undo PNG's filters of some rows.

    A filter predicts each byte from the pixel to the left and the row above, so a strip with the row above it put in
    front, unfiltered, is a small PNG of its own, which Pillow decodes in C.

    Args:
        filtered: uint8 (n, 1 + bytes): the filter's number, then the row.
        above: uint8 (bytes,): the row before, plain.
        step: bytes a pixel.

    Returns:
        uint8 (n, bytes), plain.
    """
    if step > 4:  # two halves of each pixel, as no byte is predicted from one in another place
        halves = filtered[:, 1:].reshape(len(filtered), -1, 2, step // 2)
        plain = np.empty_like(filtered[:, 1:]).reshape(halves.shape)
        before = above.reshape(-1, 2, step // 2)
        for half in (0, 1):
            part = np.hstack([filtered[:, :1], halves[:, :, half].reshape(len(filtered), -1)])
            shape = plain[:, :, half].shape
            plain[:, :, half] = _unfiltered(part, before[:, half].reshape(-1), step // 2).reshape(shape)
        return plain.reshape(len(filtered), -1)
    rows = b"\0" + above.tobytes() + filtered.tobytes()
    header = (len(above) // step).to_bytes(4, "big") + (len(filtered) + 1).to_bytes(4, "big")
    header += bytes([8, _COLOUR_TYPE[step], 0, 0, 0])
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows, 0)), (b"IEND", b"")]
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(map(_packed, *zip(*parts, strict=True))))
    with Image.open(file, formats=("PNG",)) as picture:
        return np.asarray(picture).reshape(len(filtered) + 1, -1)[1:]


def _packed(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
