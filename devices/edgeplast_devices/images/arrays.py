"""Pictures in an ``.npz`` of the MedMNIST layout, read a row at a time.

``train_images`` is uint8 (n, h, w) or (n, h, w, channels), ``train_labels`` integers (n,) or (n, 1); the same for
``val`` and ``test``. Class names are the labels as text: ``"0"``, ``"1"``, ... An array that was stored without
compression is read where it lies; a compressed one is unpacked to a nameless temporary file first.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from PIL import Image

from edgeplast.errors import InputError
from edgeplast.progress import Bytes, Progress, silent
from edgeplast.units import format_bytes
from edgeplast_devices.images.decoding import UnreadableImageError
from edgeplast_devices.images.layout import SPLITS
from edgeplast_devices.images.planes import Planes
from edgeplast_devices.images.reaching import UnreachableImagesError, any_there, reason_of
from edgeplast_devices.images.storage import PIECE_BYTES, SharedFile, spool

MAX_CLASSES = 65536
"""A label at or above this is taken for a mistake."""

MAX_CHANNELS = 1024
"""Hyperspectral cameras have some hundred."""

MAX_PICTURES = 1 << 22
"""The most rows that an array of pictures may have: each takes ten bytes here, and next to none in a file of zeros."""

_DIRECTORY_BYTES = 1 << 20
_HEADER_BYTES = 10_000  # numpy's own limit, which it looks at after it has read the header


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    data_offset: int


class ArrayImages:
    """Rows of a uint8 array as pictures (a :class:`~.imageset.Source`).

    Args:
        data: the file that holds the rows.
        offset: where the first row starts.
        shape: (n, h, w) or (n, h, w, channels).
        key: name of the array, for messages.
        checksum: CRC-32 of the array, for the fingerprint.
    """

    def __init__(self, data: SharedFile, offset: int, shape: tuple[int, ...], key: str, checksum: int) -> None:
        self._data, self._offset, self._shape, self._key, self._checksum = data, offset, shape, key, checksum
        self._row_bytes = math.prod(shape[1:])

    def __len__(self) -> int:
        return self._shape[0]

    def name(self, index: int) -> str:
        """Return what messages call a row: ``train_images[17]``."""
        return f"{self._key}[{index}]"

    def stamp(self, index: int) -> bytes:
        """Return what tells this picture from another without reading it: its place, and the array's checksum."""
        return f"{self.name(index)}:{self._checksum:08x}:{self._shape}".encode()

    def decode(self, index: int, at_least: tuple[int, int] | None, limit_bytes: int) -> Image.Image | Planes:
        """Read one row; make one and three channels RGB. ``at_least`` changes nothing, rows have one size."""
        del at_least
        _, height, width, *channels = self._shape
        needed = self._row_bytes + max(4 * height * width, self._row_bytes)
        if needed > limit_bytes:
            reason = f"{width} x {height} pixels take {format_bytes(needed)}, {format_bytes(limit_bytes)} are allowed"
            raise UnreadableImageError(self.name(index), reason)
        try:
            row = self._row(index)
        except OSError:
            there = any_there(self._row, (0, len(self) // 2, len(self) - 1))
            try:
                row = self._row(index)  # once more: its drive may have come back in between
            except OSError as error:
                kind = UnreadableImageError if there else UnreachableImagesError
                raise kind(self.name(index), reason_of(error)) from error
        if len(row) < self._row_bytes:
            raise UnreadableImageError(self.name(index), "the file ends before this row")
        if channels and channels[0] not in (1, 3):
            return Planes.of(np.frombuffer(row, np.uint8).reshape(height, width, channels[0]))
        mode = "RGB" if channels == [3] else "L"
        return Image.frombytes(mode, (width, height), row).convert("RGB")

    def _row(self, index: int) -> bytes:
        return self._data.read_at(self._offset + index * self._row_bytes, self._row_bytes)


@dataclass(frozen=True)
class Archive:
    """An ``.npz`` whose directory was read.

    Attributes:
        path: the file.
        members: array names and where they are in the archive.
    """

    path: Path
    members: dict[str, zipfile.ZipInfo]

    @property
    def splits(self) -> tuple[str, ...]:
        """Those of train, val and test that have images."""
        return tuple(split for split in SPLITS if f"{split}_images" in self.members)

    def images(self, split: str, progress: Progress) -> ArrayImages:
        """Open the pictures of a split.

        Raises:
            InputError: the array is damaged, pickled, or has another type or shape than the layout says.
        """
        key = f"{split}_images"
        data, start = self._open(key, progress)
        header = self._header(key, data, start)
        shape = header.shape
        rank_fits = len(shape) == 3 or (len(shape) == 4 and shape[3] <= MAX_CHANNELS)
        if header.dtype != np.uint8 or not rank_fits or min(shape[1:]) < 1 or shape[0] < 0 or header.fortran_order:
            order = " in Fortran order" if header.fortran_order else ""
            raise InputError(
                f"{key} in {self.path} is {header.dtype} of shape {shape}{order}; pictures are uint8 of shape "
                f"(n, height, width) or (n, height, width, channels up to {MAX_CHANNELS}). Save it again in C order."
            )
        if shape[0] > MAX_PICTURES:
            raise self._too_many(key, shape[0])
        if header.data_offset + math.prod(shape) > data.size:
            raise self._damaged(key, "it ends too early")
        return ArrayImages(data, header.data_offset, shape, key, self.members[key].CRC)

    def labels(self, split: str) -> np.ndarray:
        """Read the labels of a split, int32 (n,), a piece at a time.

        Raises:
            InputError: they are missing, damaged, no integers, several for a picture, negative or absurdly large.
        """
        key = f"{split}_labels"
        if key not in self.members:
            raise InputError(
                f"{self.path} has {split}_images and no {key}. It needs one label for each picture, integers of "
                "shape (n,) or (n, 1)."
            )
        data, start = self._open(key, silent)
        header = self._header(key, data, start)
        if header.dtype.kind not in "iub" or len(header.shape) not in (1, 2):
            raise InputError(
                f"{key} in {self.path} is {header.dtype} of shape {header.shape}; labels are integers of shape "
                "(n,) or (n, 1): the class of each picture, counted from 0."
            )
        if len(header.shape) == 2 and header.shape[1] != 1:
            raise InputError(
                f"{key} in {self.path} has shape {header.shape}: {header.shape[1]} labels for each picture. "
                "edgeplast needs exactly one class for each, shape (n,) or (n, 1)."
            )
        count = int(header.shape[0])
        if count > MAX_PICTURES or count < 0:
            raise self._too_many(key, count)
        size = header.dtype.itemsize
        if header.data_offset + count * size > data.size:
            raise self._damaged(key, "it ends too early")
        labels = np.empty(count, dtype=np.int32)
        for start in range(0, count, PIECE_BYTES // 8):
            stop = min(start + PIECE_BYTES // 8, count)
            raw = data.read_at(header.data_offset + start * size, (stop - start) * size)
            piece = np.frombuffer(raw, dtype=header.dtype)
            wrong = np.flatnonzero((piece < 0) | (piece >= MAX_CLASSES))
            if len(wrong):
                raise InputError(
                    f"{key}[{start + wrong[0]}] in {self.path} is {piece[wrong[0]]}; labels are whole numbers from 0 "
                    f"to {MAX_CLASSES - 1}."
                )
            labels[start:stop] = piece
        return labels

    def _open(self, key: str, progress: Progress) -> tuple[SharedFile, int]:
        info = self.members[key]
        if info.flag_bits & 1:
            raise InputError(f"{key} in {self.path} is encrypted. Save the arrays again without a password.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others may want gigabytes to unpack
            raise InputError(
                f"{key} in {self.path} is compressed in a way that numpy does not write (method {info.compress_type}). "
                "Save the arrays again with numpy.savez or numpy.savez_compressed."
            )
        try:
            if info.compress_type != zipfile.ZIP_STORED:
                return spool(_unpacked(self.path, info, progress), f"{key} of {self.path}"), 0
            data = SharedFile.at(self.path)
            local = data.read_at(info.header_offset, 30)
            if local[:4] != b"PK\3\4":
                raise zipfile.BadZipFile("no entry where the directory says")
            # The name and extra field in front of the data may be longer here than in the directory.
            return data, info.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, NotImplementedError, struct.error) as error:
            raise self._damaged(key, str(error)) from error

    def _header(self, key: str, data: SharedFile, start: int) -> _Header:
        window = data.window(start, data.size - start)
        try:
            version = np.lib.format.read_magic(window)
            if version != (1, 0):  # later ones are for headers above 64 KiB, which arrays of numbers never have
                raise ValueError(f"format {version[0]}.{version[1]} of .npy is not supported")
            length = int.from_bytes(data.read_at(start + window.tell(), 2), "little")
            if length > _HEADER_BYTES:
                raise ValueError(f"a header of {format_bytes(length)}")
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(window)
        except Exception as error:
            # numpy reads the header as Python text; a damaged one raises whatever its tokenizer and parser do.
            raise self._damaged(key, str(error).splitlines()[0] if str(error) else "no header") from error
        if dtype.hasobject:
            raise InputError(
                f"{key} in {self.path} holds Python objects, which only pickle could read, and pickle can run "
                "code. Save plain arrays of numbers, all pictures of one size."
            )
        return _Header(shape, dtype, fortran_order and len(shape) > 1, start + window.tell())

    def _too_many(self, key: str, count: int) -> InputError:
        return InputError(
            f"{key} in {self.path} claims {count} pictures; it can have 0 to {MAX_PICTURES}. Split the array, or "
            "give a folder of pictures."
        )

    def _damaged(self, key: str, reason: str) -> InputError:
        return InputError(f"{key} in {self.path} is damaged ({reason}). Fetch or save the file again.")


def open_archive(path: Path) -> Archive:
    """Read the directory of an ``.npz``.

    Raises:
        InputError: it is damaged, or holds no pictures in the MedMNIST layout.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(cast(BinaryIO, _Directory(file))) as archive:
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist() if i.filename.endswith(".npy")}
            others = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, struct.error, UnicodeError) as error:
        raise InputError(f"{path} is no .npz that can be read, or is cut short ({error}).") from error
    found = Archive(path, members)
    if not found.splits:
        held = ", ".join(sorted(members or others)[:6]) or "nothing"
        advice = "" if members else " If it is a zip of pictures, call it .zip."
        raise InputError(
            f"{path} holds {held}; expected is the MedMNIST layout: train_images and train_labels, and the same "
            f"for val and test.{advice}"
        )
    return found


class _Directory:
    """What zipfile reads of an archive to list it: the directory at its end, in one piece, as long as it claims."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"a directory of {format_bytes(size)}, for a few arrays")
        return self._file.read(size)


def _unpacked(path: Path, info: zipfile.ZipInfo, progress: Progress) -> Iterator[bytes]:
    with zipfile.ZipFile(path) as archive, archive.open(info) as member:
        stream: BinaryIO = member  # type: ignore[assignment]
        done = 0
        while piece := stream.read(PIECE_BYTES):
            done += len(piece)
            progress(f"unpacking {info.filename}", Bytes(done), Bytes(info.file_size))
            yield piece
