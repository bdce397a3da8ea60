"""Bytes on disk that are read a piece at a time: windows into a file, and temporary copies without a name."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, cast

from edgeplast.errors import InputError
from edgeplast.units import format_bytes
from edgeplast_devices.images.reaching import is_gone

PIECE_BYTES = 1 << 18
"""How much is copied or decompressed at a time."""

_FREE_DISK_BYTES = 64 << 20
_LOOK_EVERY_BYTES = 16 << 20


class SharedFile:
    """An open file of which any part can be read, from any thread; closed when nothing needs it any more.

    A file with a path is opened again where reading fails because its drive was away for a while.

    Attributes:
        size: length of the file in bytes.
    """

    def __init__(self, file: BinaryIO, path: Path | None = None):
        self._file = file
        self._path = path
        # Reading by position (os.pread) would need no lock, but Windows has none.
        self._lock = threading.Lock()
        self.size = file.seek(0, os.SEEK_END)
        self._finalizer = weakref.finalize(self, file.close)

    @classmethod
    def at(cls, path: Path) -> SharedFile:
        """Open a file for reading.

        Raises:
            InputError: it cannot be opened.
        """
        try:
            return cls(path.open("rb"), path)
        except OSError as error:
            raise InputError(f"Cannot read {path}: {error.strerror}.") from error

    def read_at(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``; fewer at the end of the file, none outside it.

        Raises:
            OSError: it cannot be read, nor opened again.
        """
        if not 0 <= offset < self.size or count <= 0:  # where a damaged header says, also beyond what a seek can take
            return b""
        with self._lock:
            try:
                self._file.seek(offset)
                return self._file.read(count)
            except OSError as error:
                if not is_gone(error) or self._path is None:
                    raise
                self._open_again(self._path, error)
                self._file.seek(offset)
                return self._file.read(count)

    def _open_again(self, path: Path, lost: OSError) -> None:
        file = path.open("rb")
        if file.seek(0, os.SEEK_END) != self.size:
            file.close()
            raise lost  # another file has its name
        self._finalizer()
        self._file, self._finalizer = file, weakref.finalize(self, file.close)

    def window(self, offset: int, size: int) -> BinaryIO:
        """Return a file of its own that shows ``size`` bytes from ``offset``."""
        return cast(BinaryIO, io.BufferedReader(_Window(self, offset, size), buffer_size=1 << 14))


class _Window(io.RawIOBase):
    def __init__(self, file: SharedFile, offset: int, size: int):
        self._shared, self._offset, self._size, self._position = file, offset, size, 0

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
        count = max(0, min(len(buffer), self._size - self._position))
        data = self._shared.read_at(self._offset + self._position, count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def spool(pieces: Iterable[bytes], what: str) -> SharedFile:
    """Copy pieces into a temporary file that has no name and vanishes with the process.

    It lies where Python puts temporary files: the variable ``TMPDIR``, else ``/tmp``. Where ``/tmp`` is kept in
    memory (tmpfs) it uses memory of the machine, though none of this process: point ``TMPDIR`` at a disk.

    Args:
        pieces: the content, in pieces small enough to be held in memory.
        what: what is being unpacked, for messages.

    Raises:
        InputError: the disk has too little room; an archive that never stops growing ends here as well.
    """
    folder = tempfile.gettempdir()
    file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the SharedFile closes it
    try:
        written, look_at = 0, 0
        for piece in pieces:
            if written >= look_at:
                look_at += _LOOK_EVERY_BYTES
                if shutil.disk_usage(folder).free < _FREE_DISK_BYTES:
                    raise _no_room(what, written, folder)
            written += file.write(piece)
        file.flush()
    except OSError as error:
        file.close()
        if error.errno == errno.ENOSPC:
            raise _no_room(what, written, folder) from error
        raise
    except BaseException:
        file.close()
        raise
    return SharedFile(file)


def _no_room(what: str, written: int, folder: str) -> InputError:
    return InputError(
        f"No room to unpack {what}: {format_bytes(written)} were written to {folder}, and less than "
        f"{format_bytes(_FREE_DISK_BYTES)} would stay free. Free some space, set TMPDIR to a folder on a larger "
        "disk, or unpack it yourself and give the folder."
    )
