"""Pictures without what a decoder needs not: profiles, texts, thumbnails; and which way up they are meant to be seen.

Pillow keeps all of it in memory, unpacked, before it says how large a picture is: 60 kB of PNG can hold 60 MB of text,
64 kB of EXIF can name the same bytes five thousand times. So decoders are shown the essential parts alone, and the one
thing that matters among the rest, EXIF's orientation, is looked up here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

_EXIF_BYTES = 1 << 16
_JPEG_KEPT = (0xE0, 0xEE)  # JFIF, and Adobe's: how colours are coded
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_MOST_PIECES = 1 << 20
_MOST_DIRECTORIES = 8
_TIFF_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_TIFF_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}

Pieces = list[tuple[int, int]]
"""Offset and length of what is kept of a file, in order."""


def essentials(stream: BinaryIO, kind: str) -> tuple[BinaryIO, int]:
    """Return a picture without its metadata, and its orientation.

    Args:
        stream: the encoded picture, from its start.
        kind: its format, as :func:`~.formats.format_of` names it.

    Returns:
        the stream itself where there is nothing to leave out, else one that shows the rest of it; and EXIF's
        orientation, 1 to 8, 1 where none is given. Of TIFF and AVIF, which Pillow turns or tells itself, 1.
    """
    look = _LOOKS.get(kind)
    if look is None:
        return stream, 1
    try:
        kept, exif = look(stream)
    except (ValueError, IndexError):  # damaged, and for the decoder to say how
        return stream, 1
    finally:
        stream.seek(0)
    return (stream if kept is None else _shown(stream, kept)), orientation_of(exif)


def orientation_of(exif: bytes) -> int:
    """Return the orientation that an EXIF block gives, 1 to 8; 1 where it gives none (EXIF 2.3, tag 0x0112)."""
    data = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(data[:4])
    if order is None:
        return 1

    def number(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], order)  # type: ignore[arg-type]

    start = number(4, 4)
    for entry in range(start + 2, min(start + 2 + 12 * number(start, 2), len(data) - 11), 12):
        if number(entry, 2) == 0x0112:
            value = number(entry + 8, 2)
            return value if 1 <= value <= 8 else 1
    return 1


def tiff_value_bytes(stream: BinaryIO) -> int:
    """Return how many bytes the values of a TIFF's tags take when they are read; each is, and they may overlap.

    Of the first picture and of the directories that it names for cameras and places (TIFF 6.0, BigTIFF).
    """
    head = stream.read(16)
    order = "little" if head[:2] == b"II" else "big"
    big = head[2:4] in (b"+\0", b"\0+")
    offset_bytes, count_bytes = (8, 8) if big else (4, 2)
    entry_bytes = 4 + 2 * offset_bytes

    def number(data: bytes) -> int:
        return int.from_bytes(data, order)  # type: ignore[arg-type]

    total, waiting = 0, [number(head[8:16] if big else head[4:8])]
    for directory in range(_MOST_DIRECTORIES):
        if directory >= len(waiting):
            break
        stream.seek(waiting[directory])
        entries = min(number(stream.read(count_bytes)), 1 << 16)
        table = stream.read(entries * entry_bytes)
        for at in range(0, len(table) - entry_bytes + 1, entry_bytes):
            tag, kind = number(table[at : at + 2]), number(table[at + 2 : at + 4])
            count = number(table[at + 4 : at + 4 + offset_bytes])
            size = count * _TIFF_TYPE_BYTES.get(kind, 1)
            total += size if size > offset_bytes else 0
            if tag in _TIFF_DIRECTORIES:
                waiting.append(number(table[at + 4 + offset_bytes : at + entry_bytes]))
        total += len(table)
    stream.seek(0)
    return total


def _jpeg(stream: BinaryIO) -> tuple[Pieces | None, bytes]:
    """Keep what comes before the first scan, less the application's segments, and all that follows."""
    kept, exif, at = [(0, 2)], b"", 2
    while True:
        stream.seek(at)
        marker = stream.read(4)
        if len(marker) < 4 or marker[0] != 0xFF:
            raise ValueError
        if marker[1] == 0xFF:  # padding
            at += 1
            continue
        length = 2 + int.from_bytes(marker[2:], "big")
        if marker[1] == 0xDA:
            break
        if 0xE0 <= marker[1] <= 0xEF or marker[1] == 0xFE:
            if marker[1] == 0xE1 and not exif and stream.read(6) == b"Exif\0\0":
                exif = stream.read(length - 10)
            if marker[1] in _JPEG_KEPT:
                kept.append((at, length))
        else:
            kept.append((at, length))
        at += length
    return [*kept, (at, _size(stream) - at)], exif


def _png(stream: BinaryIO) -> tuple[Pieces | None, bytes]:
    """Keep the critical chunks and transparency."""
    kept, exif, at, dropped, size = [(0, 8)], b"", 8, False, _size(stream)
    while at < size:
        stream.seek(at)
        head = stream.read(8)
        length, name = 12 + int.from_bytes(head[:4], "big"), head[4:]
        if len(head) < 8:
            break
        if name == b"eXIf" and length <= _EXIF_BYTES:
            exif = stream.read(length - 12)
        if name in _PNG_KEPT:
            kept.append((at, length))
        else:
            dropped = True
        if name == b"IEND":
            break
        at += length
    return (kept if dropped else None), exif


def _gif(stream: BinaryIO) -> tuple[Pieces | None, bytes]:
    """Keep everything from the first picture on, and of what precedes it no comments."""
    stream.seek(10)
    flags = stream.read(1)[0]
    at = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept = [(0, at)]
    while True:
        stream.seek(at)
        block = stream.read(2)
        if block[:1] != b"!":
            break
        start = at
        at += 2
        while length := _byte(stream):
            at += 1 + length
            stream.seek(at)
        at += 1
        if block[1] == 0xF9:  # how the picture is shown; comments and names of programs are not kept
            kept.append((start, at - start))
    return [*kept, (at, _size(stream) - at)], b""


def _webp(stream: BinaryIO) -> tuple[Pieces | None, bytes]:
    """Keep all of it, which is what the decoder takes."""
    for name, at, length in _riff_chunks(stream):
        if name == b"EXIF":
            stream.seek(at)
            return None, stream.read(min(length, _EXIF_BYTES))
    return None, b""


def webp_size(stream: BinaryIO) -> tuple[int, int]:
    """Return width and height of a WebP's canvas by its first chunk (RFC 9649), (0, 0) where it is damaged."""
    stream.seek(12)
    head = stream.read(18)
    stream.seek(0)
    if len(head) < 18:
        return 0, 0
    if head[:4] == b"VP8X":
        return 1 + int.from_bytes(head[12:15], "little"), 1 + int.from_bytes(head[15:18], "little")
    if head[:4] == b"VP8L":
        bits = int.from_bytes(head[9:13], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(head[14:16], "little") & 0x3FFF, int.from_bytes(head[16:18], "little") & 0x3FFF


def _riff_chunks(stream: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    at, size = 12, _size(stream)
    while at + 8 <= size:
        stream.seek(at)
        head = stream.read(8)
        length = int.from_bytes(head[4:], "little")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _byte(stream: BinaryIO) -> int:
    return stream.read(1)[0]


def _size(stream: BinaryIO) -> int:
    position = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    stream.seek(position)
    return size


_LOOKS: dict[str, Callable[[BinaryIO], tuple[Pieces | None, bytes]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": _gif,
    "WEBP": _webp,
}


def _shown(stream: BinaryIO, kept: Pieces) -> BinaryIO:
    joined: Pieces = []
    for offset, length in kept:
        if joined and sum(joined[-1]) == offset:
            joined[-1] = (joined[-1][0], joined[-1][1] + length)
        else:
            joined.append((offset, length))
    if len(joined) == 1:
        return stream
    if len(joined) > _MOST_PIECES:
        raise ValueError
    return cast(BinaryIO, io.BufferedReader(_Shown(stream, joined), buffer_size=1 << 14))


class _Shown(io.RawIOBase):
    """Parts of a stream, one after the other, as a file of their own; the stream stays its owner's to close."""

    def __init__(self, stream: BinaryIO, pieces: Pieces) -> None:
        self._stream, self._pieces, self._position = stream, pieces, 0
        self._size = sum(length for _, length in pieces)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        start = 0
        for offset, length in self._pieces:
            within = self._position - start
            if within < length:
                self._stream.seek(offset + within)
                data = self._stream.read(min(len(buffer), length - within))
                buffer[: len(data)] = data
                self._position += len(data)
                return len(data)
            start += length
        return 0
