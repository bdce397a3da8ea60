"""Files that are whole or absent: temporary file, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgeplast.errors import DiskFullError, InputError, UsageError
from edgeplast.stamps import shortened

_NAMES = (
    "EACCES EROFS EPERM ENOENT ENOTDIR EEXIST ELOOP ENAMETOOLONG EBUSY EXDEV EIO ENODEV ENXIO ESTALE ENOTCONN "
    "ESHUTDOWN ETIMEDOUT EHOSTDOWN EHOSTUNREACH EMLINK EINVAL ETXTBSY"
)
_CANNOT_BE_WRITTEN = frozenset(getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name))
"""What the system says of a place that cannot be written, or of a drive that is gone."""


@contextlib.contextmanager
def writing(path: Path, rename: Callable[[Path], Path] | None = None) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; it takes its name only when the block ends well.

    Folders above it are made where they are missing.

    Args:
        path: the file to make.
        rename: given the finished temporary file, returns the name in the same folder that it shall have instead,
            for a name that depends on the content.

    Raises:
        UsageError: ``path`` is a folder.
        DiskFullError: the disk is full or the folder cannot be written; ``path`` is then as it was before.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder; name a file in it, or another file.")
    with disk_errors(path):
        make_parent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(OSError):  # FAT and some shares have no permissions
                Path(name).chmod(0o644)
            Path(name).replace(path if rename is None else rename(Path(name)))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


_NAME_BYTES = 255
"""Of one part of a path: what the file systems of Linux, macOS and Windows allow."""


def possible(given: str | Path) -> Path:
    """Return what a caller gave as a path, if a file can have that name at all.

    Raises:
        UsageError: it is longer than file systems allow, or has a zero byte in it.
    """
    path = Path(given)
    too_long = any(len(os.fsencode(part)) > _NAME_BYTES for part in path.parts)  # also below folders still to be made
    try:
        path.lstat()
    except ValueError as error:
        raise UsageError(f"{shortened(path)!r} is no name of a file: there is a zero byte in it.") from error
    except OSError as error:
        too_long = too_long or error.errno == errno.ENAMETOOLONG
    if too_long:
        raise UsageError(f"{shortened(path)} is longer than a name of a file may be. Give another.")
    return path


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with writing(path) as file:
        file.write(data)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading it in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut (where platform and file system can sync folders)."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
                raise
        finally:
            os.close(handle)


def make_parent(path: Path) -> None:
    """Make the folder that ``path`` is to lie in.

    Raises:
        InputError: something above it is a file.
        UsageError: no file can have that name.
    """
    possible(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be written: something above it is a file. Choose another place.") from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFullError, and a folder that cannot be written into an InputError."""
    try:
        yield
    except Exception as error:
        code = _system_code(error)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"The disk is full: {path} could not be written and nothing was left behind. "
                "Free some space, or choose another place."
            ) from error
        if code == errno.EFBIG:
            raise DiskFullError(
                f"{path} could not be written: a file is larger than the file system or a limit (ulimit -f) allows, "
                "and nothing was left behind. Choose another place, or raise the limit."
            ) from error
        if code in _CANNOT_BE_WRITTEN:
            raise InputError(
                f"{shortened(path)} cannot be written ({os.strerror(code)}). Choose another place."
            ) from error
        raise


def _system_code(error: Exception) -> int:
    """Return the system's number of an error, 0 for none; safetensors writes it into its message."""
    if isinstance(error, OSError):
        return error.errno or 0
    named = re.search(r"os error (\d+)", str(error)) if type(error).__name__ == "SafetensorError" else None
    return int(named[1]) if named else 0
