"""Whether a file is still the one that was verified: opened once, hashed through the open file, told by its stamp.

A path can lead to another file between the moment at which its hash is checked and the moment at which a native
parser opens it. Where a copy is made anyway, it is hashed while it is copied and the copy is used; where none is, the
stamp of what was hashed is compared with that of what lies there after it was opened.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Protocol

PIECE_BYTES = 1 << 20


class Stamp(NamedTuple):
    """What tells a file from any other, and from itself before it was written to.

    Attributes:
        device: that it lies on.
        inode: its number there.
        bytes: its size.
        modified_ns: when its content was last written.
        changed_ns: when content, name or rights were last changed, which nobody can set (on Windows: made).
    """

    device: int
    inode: int
    bytes: int
    modified_ns: int
    changed_ns: int

    def may_be_as(self, earlier: Stamp) -> bool:
        """Whether nothing tells that the file was written to since, be it that names or rights were changed."""
        return self[:4] == earlier[:4]


def stamp_of(file: Path | BinaryIO) -> Stamp | None:
    """Return the stamp of an open file, or of what lies at a path (a link itself); None where nothing does."""
    try:
        found = os.lstat(file) if isinstance(file, Path) else os.fstat(file.fileno())
    except (OSError, ValueError):
        return None
    return Stamp(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def kind_at(path: Path) -> Literal["file", "folder", "other", ""]:
    """Return what lies at a path, links followed; nothing at one that no file can have (too long, a zero byte)."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return ""
    return "file" if stat.S_ISREG(mode) else "folder" if stat.S_ISDIR(mode) else "other"


def shortened(path: Path) -> str:
    """Return a path as it is said in a message, cut where nobody would read to its end."""
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file for reading, unbuffered; neither a link nor a pipe or device, which could lead or hang.

    Raises:
        OSError: it is none, or cannot be opened.
    """
    if path.is_symlink():  # where the system cannot be asked not to follow one
        raise OSError(errno.ELOOP, "it is a link")
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except ValueError as error:  # a zero byte in the name
        raise OSError(errno.EINVAL, str(error)) from error
    with os.fdopen(handle, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        yield file


class Pieces(Protocol):
    """A file as far as it is read from its beginning, piece by piece."""

    def read(self, size: int, /) -> bytes:
        """Return so many bytes at most; none at the end."""

    def seek(self, offset: int, /) -> int:
        """Go to a place, and return it."""


class Told:
    """A file that is read, and somebody who is told of the bytes of each piece.

    Args:
        file: to read.
        told: of how many were.
    """

    def __init__(self, file: BinaryIO, told: Callable[[int], None]) -> None:
        self._file, self._told = file, told

    def read(self, size: int, /) -> bytes:
        """Return so many bytes at most, and tell of them."""
        piece = self._file.read(size)
        if piece:
            self._told(len(piece))
        return piece

    def seek(self, offset: int, /) -> int:
        """Go to a place, and return it."""
        return self._file.seek(offset)


def hashed(file: Pieces, into: BinaryIO | None = None) -> str:
    """Return the SHA-256 of an open file from its beginning, writing what is read into another one."""
    digest = hashlib.sha256()
    file.seek(0)
    while piece := file.read(PIECE_BYTES):
        digest.update(piece)
        if into is not None:
            into.write(piece)
        del piece  # or it would stay until the next one is there
    return digest.hexdigest()


def read_up_to(file: BinaryIO, most: int) -> bytes:
    """Read an unbuffered file from where it stands to its end, or so many bytes."""
    pieces, left = [], most
    while left and (piece := file.read(min(left, PIECE_BYTES))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
