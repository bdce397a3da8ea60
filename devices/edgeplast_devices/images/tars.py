"""Pictures in a tar archive, read where they lie."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from edgeplast.errors import InputError
from edgeplast.progress import Bytes, Progress
from edgeplast.units import format_bytes
from edgeplast_devices.images.files import TABLE_NAMES, Files, Table, format_or_reason, key_of
from edgeplast_devices.images.formats import FORMAT_NAMES, HEAD_BYTES, promised_format
from edgeplast_devices.images.listing import LeftOut, Listing, is_junk_file, is_junk_folder
from edgeplast_devices.images.storage import PIECE_BYTES, SharedFile, spool
from edgeplast_devices.images.tables import Rows, label_in

if TYPE_CHECKING:
    import tarfile

_MAGIC = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}

HEADER_BYTES = 1 << 20
"""The most that names and other records of one member may take: tarfile holds them in memory, whatever they claim."""

XZ_MEMORY_BYTES = 20 << 20
"""The most that unpacking a ``.tar.xz`` may take: ``xz -6``, the default, needs 9 MiB, ``xz -9`` 65 MiB."""


def from_tar(
    path: Path, progress: Progress, lead: tuple[str, ...] = (), beside: Rows | None = None, split: str | None = None
) -> Files:
    """Index a tar archive once; a compressed one is unpacked first, piece by piece, to a nameless file.

    Members are read by position and never extracted. Links, devices and names with ``..`` are left out.

    Args:
        path: of the archive.
        progress: called while it is unpacked.
        lead: folders that its names get before them, where it is one of several.
        beside: rows that its ``.cls`` files are added to, likewise.
        split: that all of it belongs to, likewise.

    Raises:
        InputError: it is no tar archive, is damaged or cut short, or there is no room to unpack it.
    """
    head = SharedFile.at(path).read_at(0, 8)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    try:
        data = spool(_unpacked(path, kind, progress), str(path)) if kind else SharedFile.at(path)
    except (OSError, EOFError) as error:
        raise InputError(f"{path} is damaged or cut short ({error}). Fetch or pack it again.") from error
    listing, left_out, offsets, sizes = Listing(), LeftOut(), array("q"), array("q")
    formats: set[str] = set()
    tables: list[Table] = []
    for member in _members(path, data):
        inner = [part for part in member.name.split("/") if part not in ("", ".")]
        folders = [*lead, *inner]
        if not inner or not member.isreg() or member.issparse() or ".." in folders:
            continue
        name = folders.pop()
        if is_junk_file(name) or any(map(is_junk_folder, folders)):
            continue
        if name.lower() in TABLE_NAMES:
            tables.append((tuple(folders), name.lower(), partial(data.window, member.offset_data, member.size)))
            continue
        if name.lower().endswith(".cls"):
            beside = beside or Rows()
            said = data.read_at(member.offset_data, min(member.size, PIECE_BYTES))
            beside.add(key_of("/".join((*folders, name))), label_in(said, f"{name} in {path}"), split)
            continue
        kind = promised_format(name) or format_or_reason(data.read_at(member.offset_data, min(HEAD_BYTES, member.size)))
        if kind in FORMAT_NAMES:
            listing.add(tuple(folders), name)
            offsets.append(member.offset_data)
            sizes.append(member.size)
            formats.add(kind)
        else:
            left_out.add(tuple(folders), name, kind)
    return Files(
        listing, lambda index: data.window(offsets[index], sizes[index]), sizes, left_out, formats, tables, beside
    )


def _members(path: Path, data: SharedFile) -> Iterator[tarfile.TarInfo]:
    import tarfile

    try:
        with tarfile.open(fileobj=cast(BinaryIO, _Headers(data, path)), mode="r:") as archive:
            while (member := archive.next()) is not None:
                # tarfile remembers every member, a kilobyte each; its reader does not need them.
                archive.members.clear()  # type: ignore[attr-defined]
                if sum(map(len, archive.pax_headers.values())) > HEADER_BYTES:
                    raise _too_long(path)
                if member.isreg() and not member.issparse() and not _lies_in(member, data.size):
                    raise tarfile.ReadError(f"its header says that {member.size} bytes follow")
                yield member
            end = archive.offset
    except RecursionError as error:  # one record that announces another one, hundreds of times
        raise _too_long(path) from error
    except (tarfile.TarError, EOFError, UnicodeError, ValueError) as error:
        raise InputError(
            f"{path} is no archive that can be read, or is cut short ({error}). "
            "Give a folder, a .tar (also .tar.gz, .tar.xz, .tar.bz2) or an .npz in the MedMNIST layout."
        ) from error
    # tarfile takes a header that makes no sense for the end of the archive.
    if data.read_at(end, 512).strip(b"\0"):
        raise InputError(f"{path} is damaged or cut short at byte {end}. Fetch or pack it again.")


def _lies_in(member: tarfile.TarInfo, size: int) -> bool:
    return 0 <= member.size <= size - member.offset_data


class _Headers:
    """What tarfile reads of an archive when nothing is extracted: headers, and the records that belong to them.

    A record says itself how long it is, and is read in one piece: a name of a gigabyte packs into a megabyte.
    """

    def __init__(self, data: SharedFile, path: Path) -> None:
        self._window, self._path = data.window(0, data.size), path
        self.seek, self.tell, self.close = self._window.seek, self._window.tell, self._window.close

    def read(self, size: int) -> bytes:
        if size > HEADER_BYTES:
            raise _too_long(self._path)
        return self._window.read(size)


def _too_long(path: Path) -> InputError:
    return InputError(
        f"{path} has a member whose name or other records take more than {format_bytes(HEADER_BYTES)}. No picture "
        "has such a name: the archive is damaged or was made to harm. Pack the pictures again."
    )


def _unpacked(path: Path, kind: str, progress: Progress) -> Iterator[bytes]:
    total = path.stat().st_size
    with path.open("rb") as raw:
        for piece in _xz(raw, path) if kind == "xz" else _gzip_or_bzip2(raw, kind):
            progress(f"unpacking {path.name}", Bytes(raw.tell()), Bytes(total))
            yield piece
        progress(f"unpacking {path.name}", Bytes(total), Bytes(total))


def _gzip_or_bzip2(raw: BinaryIO, kind: str) -> Iterator[bytes]:
    import bz2
    import gzip
    import zlib

    stream = gzip.GzipFile(fileobj=raw) if kind == "gzip" else bz2.BZ2File(raw)
    try:
        while piece := stream.read(PIECE_BYTES):
            yield piece
    except zlib.error as error:
        raise EOFError(str(error)) from error


def _xz(raw: BinaryIO, path: Path) -> Iterator[bytes]:
    import lzma

    try:
        decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)
        data = raw.read(PIECE_BYTES)
        while data:
            yield decoder.decompress(data, max_length=PIECE_BYTES)
            while not decoder.eof and not decoder.needs_input:
                yield decoder.decompress(b"", max_length=PIECE_BYTES)
            data = _next_xz_stream(raw, decoder.unused_data) if decoder.eof else raw.read(PIECE_BYTES)
            if data and decoder.eof:
                decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES)
    except lzma.LZMAError as error:
        if "emory" in str(error):
            raise InputError(
                f"{path} needs more than {format_bytes(XZ_MEMORY_BYTES)} of memory to unpack (packed with xz -7 or "
                "above). Unpack it yourself (tar xf) and give the folder, or pack it again with xz -6."
            ) from error
        raise EOFError(str(error)) from error
    if not decoder.eof:
        raise EOFError("the compressed data ends too early")


def _next_xz_stream(raw: BinaryIO, data: bytes) -> bytes:
    """Skip the zeros that may lie between two streams; return nothing at the end of the file."""
    while not (data := data.lstrip(b"\0")):
        data = raw.read(PIECE_BYTES)
        if not data:
            break
    return data
