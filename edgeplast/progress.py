"""How verbs say how far they are: a callable that the command line turns into a progress bar."""

from __future__ import annotations

from typing import Protocol

LOADING = "loading runtime and model"
"""What verbs of the device tell before the first picture."""


class Bytes(int):
    """An amount of bytes, so that whoever shows it writes a unit."""


class Beside(str):
    """An activity beside whose name something is shown that changes while it lasts: minutes that are left.

    Equal to the name alone, so that it stays one activity.

    Attributes:
        beside: what is shown.
    """

    beside: str

    def __new__(cls, activity: str, beside: str) -> Beside:
        """Return an activity and what is shown beside it."""
        made = super().__new__(cls, activity)
        made.beside = beside
        return made


def shown(activity: str) -> str:
    """Return an activity as it is shown, with what stands beside it in brackets."""
    return f"{activity} ({activity.beside})" if isinstance(activity, Beside) else activity


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much there is.

    Amounts are pieces (pictures, steps), or :class:`Bytes`. Where nobody knows how much there is, both are 0: work
    begins that tells nothing until it is done, such as loading torch, and the next activity is its end.
    """

    def __call__(self, activity: str, done: int, total: int) -> None:
        """Report ``done`` of ``total`` units of ``activity``."""


class Counting:
    """Adds bytes up and tells of them.

    Args:
        progress: told of the sum.
        activity: what it is told.
        total: bytes that there are.
    """

    def __init__(self, progress: Progress, activity: str, total: int) -> None:
        self._progress, self._activity, self._total, self._done = progress, activity, Bytes(total), 0

    def __call__(self, count: int) -> None:
        """Tell of ``count`` bytes more."""
        self._done += count
        self._progress(self._activity, Bytes(self._done), self._total)


def unheard(text: str) -> None:
    """Tell nobody: a notice where nobody listens."""


def silent(activity: str, done: int, total: int) -> None:
    """Report nothing: the default of every verb."""
