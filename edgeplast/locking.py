"""A lock on a file that the system drops when its holder dies, with the holder's name in it.

``flock`` belongs to the open file, so that two threads of one process exclude each other as two processes do. Where a
file system has no locks (some network shares), everybody gets one: there it is as it was without.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import sys
import time
from pathlib import Path

_HELD_BY_ANOTHER = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK)
_OFFSET = 1 << 20
"""Of the byte that is locked on Windows, where what is locked cannot be read."""


class HeldError(Exception):
    """Another holds the lock; the message says who."""


def take(path: Path) -> int:
    """Lock a file, made where it is missing, and write down who did; return its descriptor.

    Raises:
        HeldError: somebody else has it.
        OSError: it cannot be made.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
        try:
            if not _lock(handle):
                raise HeldError(_holder(handle))
            if _is_at(handle, path):  # else its holder has removed it since it was opened
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def give_back(handle: int, path: Path) -> None:
    """Remove a file that :func:`take` locked, and unlock it."""
    with contextlib.suppress(OSError):  # Windows removes no open file; an empty one stays
        path.unlink()
    os.close(handle)


def is_abandoned(path: Path) -> bool:
    """Say whether nobody holds a lock that somebody took; not where there is none, or where locks exclude nobody."""
    try:
        if not path.stat().st_size:  # it is signed once it is locked: somebody is about to
            return False
    except OSError:
        return False
    try:
        handle = take(path)
    except (HeldError, OSError):
        return False
    try:
        os.close(take(path))
    except (HeldError, OSError):
        return True
    finally:
        os.close(handle)
    return False


def _lock(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, _OFFSET, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD_BY_ANOTHER
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _sign(handle: int) -> None:
    """Write down who holds a lock, where there is room: it is held all the same."""
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps(holder).encode())


def _holder(handle: int) -> str:
    """Say who holds a lock, as far as the file tells."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        os.lseek(handle, 0, os.SEEK_SET)
        holder = json.loads(os.read(handle, 1000))
        return f"process {int(holder['pid'])} on {holder['host']!r}, since {holder['since']}"
    return "a process that has not said its name yet"
