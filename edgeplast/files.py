"""Files that are whole or absent: temporary file, flush, fsync, rename, fsync of the folder."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgeplast.errors import DiskFullError, InputError, UsageError

OWN_FOLDER = "bundle.json"
"""What a folder must hold to count as written by edgeplast: a bundle's manifest,"""

OWN_PRUNED = "pruned.json"
"""or the record of a pruned model."""


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
        _make_parent(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(0o644)
            Path(name).replace(path if rename is None else rename(Path(name)))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file, or leave what was there."""
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def building_folder(path: Path, *, force: bool = False) -> Iterator[Path]:
    """Give a temporary folder beside ``path`` that takes its name only when the block ends well.

    Args:
        path: the folder to make.
        force: replace what is there; see :func:`refuse_existing`.

    Raises:
        UsageError: ``path`` exists and may not be replaced.
        DiskFullError: the disk is full or the parent cannot be written.
    """
    refuse_existing(path, force=force)
    with disk_errors(path):
        path = path.absolute()
        _make_parent(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
        try:
            yield temporary
            finish_folder(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def finish_folder(temporary: Path, path: Path) -> None:
    """Give a finished folder its name, in place of what has that name; what was there stays until then.

    Raises:
        DiskFullError: the disk is full.
    """
    with disk_errors(path):
        path = path.absolute()
        temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file():
                file.chmod(0o644)  # some libraries write for their owner alone; a service may read a bundle
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        _swap_in(temporary, path)
        sync_folder(path.parent)


def refuse_existing(path: Path, *, force: bool) -> None:
    """Raise unless ``path`` is free, an empty folder, or ``force`` allows to replace it.

    ``force`` replaces files, and folders that edgeplast wrote; nobody means to lose their home or their pictures.

    Raises:
        UsageError: something is there.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise UsageError(f"{path} exists already. Choose another name, or add --force to replace it.")
    if path.is_dir() and not any((path / own).is_file() for own in (OWN_FOLDER, OWN_PRUNED)):
        raise UsageError(
            f"{path} is a folder with other things in it (it has no {OWN_FOLDER}), which --force does not delete. "
            "Choose another name, or remove it yourself."
        )


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, reading it in pieces of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sync_folder(path: Path) -> None:
    """Make a rename inside ``path`` survive a power cut (where the platform can sync folders)."""
    if os.name == "posix":
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _swap_in(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.replace(path)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
    path.replace(aside / "old")
    try:
        temporary.replace(path)
    except BaseException:
        (aside / "old").replace(path)
        aside.rmdir()
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _make_parent(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path} cannot be written: something above it is a file. Choose another place.") from error


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full disk into a DiskFullError, and a folder that cannot be written into an InputError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"The disk is full: {path} could not be written and nothing was left behind. "
                "Free some space, or choose another place."
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOENT):
            raise InputError(f"{path} cannot be written ({error.strerror}). Choose another place.") from error
        raise
