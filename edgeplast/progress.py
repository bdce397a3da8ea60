"""How verbs say how far they are: a callable that the command line turns into a progress bar."""

from __future__ import annotations

from typing import Protocol


class Bytes(int):
    """An amount of bytes, so that whoever shows it writes a unit."""


class Progress(Protocol):
    """Called with what is being done, how much of it is done, and how much there is.

    Amounts are pieces (pictures, steps), or :class:`Bytes`. Where nobody knows how much there is, both are 0: work
    begins that tells nothing until it is done, such as loading torch, and the next activity is its end.
    """

    def __call__(self, activity: str, done: int, total: int) -> None:
        """Report ``done`` of ``total`` units of ``activity``."""


def unheard(text: str) -> None:
    """Tell nobody: a notice where nobody listens."""


def silent(activity: str, done: int, total: int) -> None:
    """Report nothing: the default of every verb."""
