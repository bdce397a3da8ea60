"""Pictures in a zip archive: those that are stored are read where they lie, deflated ones are unpacked first."""

from __future__ import annotations

import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from edgeplast.errors import InputError
from edgeplast.progress import Bytes, Progress
from edgeplast.units import format_bytes
from edgeplast_devices.images.files import TABLE_NAMES, Files, Table, format_or_reason
from edgeplast_devices.images.formats import FORMAT_NAMES, HEAD_BYTES, promised_format
from edgeplast_devices.images.listing import LeftOut, Listing, is_junk_file, is_junk_folder
from edgeplast_devices.images.storage import PIECE_BYTES, SharedFile, spool

DIRECTORY_BYTES = 8 << 20
"""The longest directory that is read; zipfile holds half a kilobyte for each entry of some hundred bytes there."""

_ENCRYPTED = 0x1
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def is_array_archive(path: Path) -> bool:
    """Tell whether a zip is an ``.npz``: every file in it is an array."""
    if path.suffix.lower() == ".npz":
        return True
    names = [info.filename for info in _directory(path) if not info.is_dir()]
    return bool(names) and all(name.endswith(".npy") for name in names)


def from_zip(path: Path, progress: Progress) -> Files:
    """Index a zip archive once.

    Members are read by position and never extracted under their names. Names with ``..`` are left out.

    Raises:
        InputError: it is damaged, encrypted, or there is no room to unpack it.
    """
    data = SharedFile.at(path)
    members = [info for info in _directory(path) if not info.is_dir()]
    deflated = [info for info in members if info.compress_type != zipfile.ZIP_STORED]
    for info in members:
        if info.flag_bits & _ENCRYPTED:
            raise InputError(f"{path} is encrypted ({info.filename[:80]}). Unpack it yourself and give the folder.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"{path} is packed in a way that is not read here. Pack it as usual (deflate), or unpack it."
            )
    try:
        unpacked = spool(_inflated(path, deflated, progress), str(path)) if deflated else data
        starts: dict[int, int] = {}
        position = 0
        for info in deflated:
            starts[info.header_offset], position = position, position + info.file_size
        return _listed(data, unpacked, members, starts)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, struct.error, NotImplementedError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}). Fetch or pack it again.") from error


def _listed(data: SharedFile, unpacked: SharedFile, members: list[zipfile.ZipInfo], starts: dict[int, int]) -> Files:
    listing, left_out, offsets, sizes = Listing(), LeftOut(), array("q"), array("q")
    formats: set[str] = set()
    apart = array("b")  # whether a picture lies in what was unpacked
    tables: list[Table] = []
    for info in members:
        folders = [part for part in info.filename.split("/") if part not in ("", ".")]
        if not folders or ".." in folders:
            continue
        name = folders.pop()
        if is_junk_file(name) or any(map(is_junk_folder, folders)):
            continue
        inflated = info.header_offset in starts
        source = unpacked if inflated else data
        offset = starts[info.header_offset] if inflated else _content_of(data, info)
        if name.lower() in TABLE_NAMES:
            tables.append((tuple(folders), name.lower(), partial(source.window, offset, info.file_size)))
            continue
        kind = promised_format(name) or format_or_reason(source.read_at(offset, min(HEAD_BYTES, info.file_size)))
        if kind not in FORMAT_NAMES:
            left_out.add(tuple(folders), name, kind)
            continue
        listing.add(tuple(folders), name)
        offsets.append(offset)
        sizes.append(info.file_size)
        apart.append(inflated)
        formats.add(kind)

    def opened(index: int) -> BinaryIO:
        return (unpacked if apart[index] else data).window(offsets[index], sizes[index])

    return Files(listing, opened, sizes, left_out, formats, tables)


def _content_of(data: SharedFile, info: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: behind a header that is as long as it says itself."""
    signature, name, extra = _LOCAL_HEADER.unpack(data.read_at(info.header_offset, _LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + int(name) + int(extra)
    if signature != b"PK\3\4" or start + info.file_size > data.size or info.file_size != info.compress_size:
        raise zipfile.BadZipFile(f"no file where the directory says: {info.filename[:80]}")
    return start


def _inflated(path: Path, members: list[zipfile.ZipInfo], progress: Progress) -> Iterator[bytes]:
    total, done = sum(info.file_size for info in members), 0
    with zipfile.ZipFile(path) as archive:
        for info in members:
            left = info.file_size
            with archive.open(info) as member:
                while piece := member.read(PIECE_BYTES):
                    left -= len(piece)
                    if left < 0:
                        raise zipfile.BadZipFile(f"{info.filename[:80]} is longer than its header says")
                    done += len(piece)
                    progress(f"unpacking {path.name}", Bytes(done), Bytes(total))
                    yield piece
            if left:
                raise EOFError(f"{info.filename[:80]} ends too early")


def _directory(path: Path) -> list[zipfile.ZipInfo]:
    try:
        with path.open("rb") as file, zipfile.ZipFile(cast(BinaryIO, _Capped(file, path))) as archive:
            return archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, struct.error, UnicodeError, ValueError) as error:
        raise InputError(f"{path} is no zip that can be read, or is cut short ({error}).") from error


class _Capped:
    """What zipfile reads of an archive to list it: the directory at its end, in one piece, as long as it claims."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file, self._path = file, path
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > DIRECTORY_BYTES:
            raise InputError(
                f"{self._path} has a directory of {format_bytes(size)}; of a zip {format_bytes(DIRECTORY_BYTES)} are "
                "read (some 80,000 pictures). Unpack it and give the folder, or pack a .tar."
            )
        return self._file.read(size)
