"""Outputs: one writer each, whole or absent, and nothing in their way is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from edgeplast.errors import UsageError
from edgeplast.files import disk_errors, make_parent, sync_folder
from edgeplast.locking import HeldError, give_back, take

OWN_FOLDER = "bundle.json"
"""What a folder must hold to count as written by edgeplast: a bundle's manifest,"""

OWN_PRUNED = "pruned.json"
"""the record of a pruned model,"""

OWN_COMPARISON = "comparison.json"
"""or the result of a contest;"""
OWN_ARTIFACTS = "artifacts.json"
"""or the record of training artifacts;"""
OWN_ADAPTER = "adapter_model.safetensors"
"""or an adapter;"""
OWN_FLEET = "edgeplast_fleet/server_app.py"
"""or a fleet's app."""

_OWN = (OWN_FOLDER, OWN_PRUNED, OWN_COMPARISON, OWN_ARTIFACTS, OWN_ADAPTER, OWN_FLEET)

_BUILDING = ".partial"

_held: ContextVar[frozenset[Path]] = ContextVar("outputs that this thread writes", default=frozenset())

_claims: ContextVar[contextlib.ExitStack | None] = ContextVar("outputs of this command", default=None)


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
    path = Path(os.path.realpath(path))  # where a link leads
    refuse_mount(path)
    refuse_existing(path, force=force)
    with only_writer(path), disk_errors(path):
        refuse_unmovable(path)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_BUILDING, dir=path.parent))
        try:
            yield temporary
            finish_folder(temporary, path, force=force)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def only_writer(output: Path) -> Iterator[None]:
    """Be the only one who writes an output while the block runs, and put right what a killed one left half-done.

    The lock is a hidden file beside the output, gone with the block. A thread that holds it may take it again.

    Args:
        output: file or folder; need not exist.

    Raises:
        UsageError: another process writes it; the message says which.
        InputError: its parent cannot be written.
    """
    output = Path(os.path.realpath(output))
    if output in _held.get():
        yield
        return
    with holding(output):
        token = _held.set(_held.get() | {output})
        try:
            yield
        finally:
            _held.reset(token)


@contextlib.contextmanager
def holding(output: Path) -> Iterator[None]:
    """Be the only writer as in :func:`only_writer`, whichever threads work in the block and whichever ends it.

    Args:
        output: file or folder; need not exist; no link.
    """
    lock = output.with_name(f".{output.name}.lock")
    with disk_errors(output):
        make_parent(output)
        try:
            handle = take(lock)
        except HeldError as error:
            raise UsageError(
                f"{output} is being written by {error}. Wait until it is done, stop it, or choose another output."
            ) from error
    try:
        _put_right(output)
        yield
    finally:
        give_back(handle, lock)


@contextlib.contextmanager
def holding_outputs() -> Iterator[None]:
    """Keep every output that is claimed in the block from other processes until the block ends."""
    with contextlib.ExitStack() as held:
        token = _claims.set(held)
        try:
            yield
        finally:
            _claims.reset(token)


def claim(path: Path, *, force: bool, folder: bool = False) -> None:
    """Raise unless an output may be written; within :func:`holding_outputs` nobody else may from here on.

    Args:
        path: what will be written after a while of work.
        force: see :func:`refuse_existing`.
        folder: it will be a folder, and not a file.

    Raises:
        UsageError: it is taken, or another process writes it.
    """
    if folder:
        refuse_mount(path)
    refuse_existing(path, force=force)
    held = _claims.get()
    if held is not None:
        held.enter_context(only_writer(path))


def refuse_mount(path: Path) -> None:
    """Raise where a volume or a drive is mounted: a folder that is whole or absent cannot take its name.

    Raises:
        UsageError: it is a mount point; the message names a folder in it.
    """
    if os.path.ismount(path):
        raise _mounted(path)


def refuse_unmovable(path: Path) -> None:
    """Try, before any work is done, that a folder made beside ``path`` can take its name.

    Raises:
        UsageError: it is a mount point (also one that ``os.path.ismount`` does not see: a bind mount of the same disk).
        InputError: folders cannot be renamed there.
    """
    if os.name != "posix" or not path.is_dir():
        return
    with disk_errors(path):
        trial = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=_BUILDING, dir=path.parent))
        try:
            with contextlib.suppress(OSError):
                trial.chmod(path.stat().st_mode & 0o7777)
            trial.rename(path)  # one empty folder for another; refused where it is not empty
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise _mounted(path) from error
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        finally:
            shutil.rmtree(trial, ignore_errors=True)


def _mounted(path: Path) -> UsageError:
    return UsageError(
        f"{path} is a mount point (a volume, a drive). A finished folder takes its name in one rename, and nothing can "
        f"take the name of a mount point. Give a folder in it: {path / 'adapted'}"
    )


def finish_folder(temporary: Path, path: Path, *, force: bool = False) -> None:
    """Give a finished folder its name; with ``force`` in place of what has that name, which stays until then.

    Raises:
        DiskFullError: the disk is full.
        UsageError: something is there that may not be replaced, also if it appeared a moment ago.
    """
    with disk_errors(path):
        path = path.absolute()
        with contextlib.suppress(OSError):  # FAT and some shares have no permissions
            temporary.chmod(0o755)
        for file in temporary.rglob("*"):
            if file.is_file() and not file.is_symlink():
                with contextlib.suppress(OSError):
                    file.chmod(0o644)  # some libraries write for their owner alone; a service may read a bundle
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        sync_folder(temporary)
        _swap_in(temporary, path, force=force)
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
    if path.is_dir() and not any((path / own).is_file() for own in _OWN):
        raise UsageError(
            f"{path} is a folder with other things in it (it has no {OWN_FOLDER}), which --force does not delete. "
            "Choose another name, or remove it yourself."
        )


def _swap_in(temporary: Path, path: Path, *, force: bool) -> None:
    try:
        temporary.rename(path)  # onto nothing, or (not on Windows) an empty folder: in one go, whoever else is there
    except OSError:
        if not path.exists():
            raise
    else:
        return
    refuse_existing(path, force=force)
    aside = _aside(path)
    path.replace(aside)
    try:
        temporary.rename(path)
    except BaseException:
        aside.replace(path)
        raise
    _remove(aside)


def _aside(path: Path) -> Path:
    """Return where an output waits while another takes its name."""
    return path.with_name(f".{path.name}.old")


def _put_right(path: Path) -> None:
    """Finish or undo what a writer that was killed had begun; called by the only writer."""
    aside = _aside(path)
    if aside.exists():
        if path.exists():
            _remove(aside)
        else:
            aside.replace(path)
    temporary = re.compile(rf"\.{re.escape(path.name)}\.[a-z0-9_]+{re.escape(_BUILDING)}")
    for left in path.parent.iterdir():
        if temporary.fullmatch(left.name) and left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
