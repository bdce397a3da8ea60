"""A picture that is damaged, or a place that is gone: what a drive, a share or a folder that vanished looks like."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from edgeplast.errors import InputError

_NAMES = (
    "ENOENT ENOTDIR EIO ENODEV ENXIO ENOMEDIUM EREMOTEIO ESTALE ENOTCONN ESHUTDOWN ECONNABORTED ECONNRESET "
    "ECONNREFUSED ETIMEDOUT EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ENETRESET EREMCHG ENOLINK ECOMM"
)
GONE = frozenset(getattr(errno, name) for name in _NAMES.split() if hasattr(errno, name))
"""What the system says where a file was and is no more: its drive pulled, its share or FUSE file system cut off."""


class UnreachableImagesError(InputError):
    """The place where pictures lie is gone (exit code 3); no picture is damaged, and none is left out for it.

    Attributes:
        name: the picture that was asked for, as messages call it.
        reason: what the system said.
    """

    def __init__(self, name: str, reason: str):
        super().__init__(
            f"{name} cannot be reached ({reason}), nor can others beside it: a drive, a share or a folder is gone. "
            "Bring it back."
        )
        self.name = name
        self.reason = reason


def is_gone(error: BaseException) -> bool:
    """Tell whether an error says that a file, or the place where it lies, is not there."""
    return isinstance(error, OSError) and error.errno in GONE


def reason_of(error: OSError) -> str:
    """Return what the system said, as the middle of a sentence."""
    text = error.strerror or str(error) or type(error).__name__
    return text[0].lower() + text[1:]


def any_there(look: Callable[[int], object], others: Iterable[int]) -> bool:
    """Tell whether one of some other pictures can still be read.

    One file may be deleted, or lie on a bad sector, while its place is well; of a place that is gone nothing can be
    read.

    Args:
        look: reads a little of a picture, and raises an OSError where that fails.
        others: pictures to look at until one can be read.
    """
    for index in others:
        try:
            look(index)
        except OSError:
            continue
        return True
    return False
